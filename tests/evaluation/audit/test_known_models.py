"""Models whose robustness, or whose fault, is known by construction, evaluated and audited as any other."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from evaluation.helpers_evaluation import Front, five_classes, some_images, some_labels
from memory_defense.attacks import Apgd, ApgdTargeted, Fgsm, Pgd, Square
from memory_defense.attacks.suites import SuitePart
from memory_defense.defenses.undefended import Undefended
from memory_defense.evaluation.audit.run import audit
from memory_defense.evaluation.cases import Case, cross
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.record import AuditLine
from memory_defense.evaluation.robustness import Evaluation, evaluate
from memory_defense.threat import L2, Linf
from memory_defense.workflows.evaluate import cascade_cases

EPSILON = 0.03

GRADIENT_FREE = "no gradient-free attack finds what gradients miss"
TRANSFER = "no transferred image finds what white-box attacks miss"
BINARISATION = "the attack breaks a model that is known to break"
CROSS_ENTROPY, MARGIN = "the cross-entropy has a gradient", "the margin loss has a gradient"
SHUFFLED, MEANINGLESS = (
    "shuffled images take their answers along",
    "meaningless images do not get the right answers",
)
COMPANY, VERDICT = "same answer alone and in a batch", "the attack's verdict is the judge's"
TWICE, RANDOM = "same answer when asked twice", "no randomness, or attacked in expectation and judged often"
LOGITS = "answers are logits, not probabilities"
OPTIMISES, LEARNS = "no optimisation while answering", "asking leaves the defense as it was"
NO_GRADIENT = "every gradient attack had a gradient"
WATCHED = {
    GRADIENT_FREE, BINARISATION, CROSS_ENTROPY, MARGIN, SHUFFLED, MEANINGLESS, COMPANY, VERDICT, TWICE, RANDOM,
    LOGITS, OPTIMISES, LEARNS, NO_GRADIENT,
}  # fmt: skip

ATTACKS = {
    "fgsm": Fgsm(),
    "pgd": Pgd(steps=20, loss="margin"),
    "apgd": Apgd(steps=20),
    "apgd-t": ApgdTargeted(steps=10, targets=3),
    "square": Square(queries=300),
}


class Optimising(Front):
    """Moves the image a little up its own confidence before it answers."""

    def forward(self, images):
        with torch.enable_grad():
            own = images.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.network(own).logsumexp(1).sum(), own)
        return self.network(images - 0.001 * gradient)


class Learning(Front):
    """Counts what it is asked."""

    def __init__(self):
        super().__init__()
        self.register_buffer("asked", torch.zeros(()))

    def forward(self, images):
        self.asked += 1
        return super().forward(images)


def told(logits: torch.Tensor) -> torch.Tensor:
    """The labels of the batch as the answer."""
    return 5 * F.one_hot(some_labels()[: len(logits)], 5) + 0 * logits


SOUND = {
    "plain": Front,
    "log-softmax": lambda: Front(back=lambda logits: logits.log_softmax(1)),
    "sharp, but not saturated": lambda: Front(back=lambda logits: 50 * logits),
}
BROKEN = {
    "zero gradient": (
        lambda: Front(lambda images: (16 * images).round() / 16),
        {CROSS_ENTROPY, MARGIN, BINARISATION, GRADIENT_FREE},
    ),
    "saturating": (lambda: Front(back=lambda logits: 2000 * logits), {CROSS_ENTROPY}),
    "no graph": (
        lambda: Front(lambda images: images.detach()),
        {CROSS_ENTROPY, MARGIN, BINARISATION, GRADIENT_FREE, NO_GRADIENT},
    ),
    "label-fed": (
        lambda: Front(back=told),
        {SHUFFLED, MEANINGLESS, COMPANY, VERDICT, CROSS_ENTROPY, MARGIN, BINARISATION},
    ),
    "randomised": (
        lambda: Front(back=lambda logits: logits + 0.01 * torch.randn_like(logits)),
        {RANDOM, TWICE, VERDICT},
    ),
    "softmax": (lambda: Front(back=lambda logits: logits.softmax(1)), {LOGITS}),
    "logarithm of clamped probabilities": (
        lambda: Front(back=lambda logits: (100 * logits).softmax(1).clamp(min=1e-6).log()),
        {LOGITS},
    ),
    "shattered": (
        lambda: Front(lambda images: images + 0.01 * torch.sin(3000 * images)),
        {BINARISATION, GRADIENT_FREE},
    ),
    "batch statistics": (lambda: Front(back=lambda logits: logits - logits.mean(0)), {COMPANY}),
    "optimising": (Optimising, {OPTIMISES}),
    "learning": (Learning, {LEARNS}),
}


def judged(model: nn.Module, cases: list[Case] | None = None, **options) -> tuple[Evaluation, dict[str, AuditLine]]:
    defense = model if hasattr(model, "surrogates") else Undefended(model)
    wanted = cross(ATTACKS, ["end-to-end"], [Linf(EPSILON)]) if cases is None else cases
    evaluation = evaluate(defense, some_images(), some_labels(), wanted, options=Options(seed=0, **options))
    return evaluation, {line.check: line for line in audit(defense, evaluation, classes=5, seed=0)}


def failed(lines: dict[str, AuditLine]) -> set[str]:
    assert lines.keys() >= WATCHED
    return {name for name, line in lines.items() if line.verdict == "fail" and name in WATCHED}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_model_is_believed(name) -> None:
    evaluation, lines = judged(SOUND[name]())
    assert 0.1 < evaluation.worst_cases()[0].accuracy < 0.5, "neither all nor nothing, or the test would be idle"
    assert {check: lines[check].verdict for check in WATCHED} == dict.fromkeys(WATCHED, "pass")


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_is_caught_by_the_right_check(name) -> None:
    model, faults = BROKEN[name]
    assert failed(judged(model())[1]) == faults


SUITES = {
    "in order": (
        SuitePart("pgd", Pgd(steps=20, loss="margin")),
        SuitePart("apgd", Apgd(steps=20)),
        SuitePart("square", Square(queries=300)),
    ),
    "the black box may go first": (
        SuitePart("pgd", Pgd(steps=20, loss="margin"), "scout"),
        SuitePart("square-100", Square(queries=100, p_init=0.3), "scout"),
        SuitePart("apgd-t", ApgdTargeted(steps=10, targets=3)),
        SuitePart("square", Square(queries=300), "outward"),
    ),
}


@pytest.mark.parametrize("suite", SUITES)
def test_a_cascade_shows_it_too(suite) -> None:
    def cascade(model: nn.Module) -> tuple[Evaluation, dict[str, AuditLine]]:
        return judged(model, cascade_cases(Undefended(model), lambda _: SUITES[suite], [Linf(EPSILON)]))

    evaluation, sound = cascade(Front())
    assert not failed(sound)
    assert sound[GRADIENT_FREE].value == 0
    masked, shattered = cascade(BROKEN["shattered"][0]())
    assert failed(shattered) >= {GRADIENT_FREE, BINARISATION}
    # The front end moves a pixel by a hundredth at most, so the two are nearly the same function; 300 queries find
    # a little less than gradients do.
    assert masked.worst_cases()[0].accuracy == pytest.approx(evaluation.worst_cases()[0].accuracy, abs=0.15)


def test_gradient_attacks_alone_would_have_believed_the_shattered_model() -> None:
    gradients = {name: attack for name, attack in ATTACKS.items() if name != "square"}
    believed, lines = judged(BROKEN["shattered"][0](), cross(gradients, ["end-to-end"], [Linf(EPSILON)]))
    exact, _ = judged(Front())
    assert believed.worst_cases()[0].accuracy > exact.worst_cases()[0].accuracy + 0.3
    assert failed(lines) == {BINARISATION}
    assert lines[GRADIENT_FREE].verdict == "not run"
    assert lines["an attack without gradients was run"].verdict == "not run"


def test_randomness_that_is_averaged_and_judged_often_is_accepted() -> None:
    model = BROKEN["randomised"][0]()
    averaged = [Case(name="apgd", attack=Apgd(steps=10, samples=4), knowledge="end-to-end", ball=Linf(EPSILON))]
    assert judged(model, averaged, submissions=3)[1][RANDOM].verdict == "pass"
    assert judged(model, averaged)[1][RANDOM].verdict == "fail"
    assert judged(model, submissions=3)[1][RANDOM].verdict == "fail"


class Rounding(Front):
    """Masks its gradient, and publishes the network behind for transfer."""

    transfer_knowledge = frozenset({"smooth"})

    def __init__(self, steps: int):
        super().__init__(lambda images: (steps * images).round() / steps)

    def surrogates(self):
        return {"end-to-end": self, "smooth": self.network}


def test_transfer_that_beats_the_white_box_is_noticed() -> None:
    pgd = {"pgd": Pgd(steps=20, loss="margin")}
    cases = cross(pgd, ["end-to-end", "smooth"], [Linf(EPSILON)])
    evaluation, lines = judged(Rounding(16), cases)
    white, transferred = (outcome.robust for outcome in evaluation.outcomes)
    assert lines[TRANSFER].verdict == "fail"
    assert lines[TRANSFER].value == pytest.approx((white & ~transferred).float().mean().item())
    assert lines["a transfer attack was run"].verdict == "pass"
    straight = cross({"square": Square(queries=600)}, ["end-to-end"], [Linf(EPSILON)])
    assert judged(Rounding(16), [*cases, *straight])[1][TRANSFER].value < lines[TRANSFER].value


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("attack", [Pgd(steps=20, loss="margin"), Apgd(steps=20)], ids=["pgd", "apgd"])
def test_a_linear_model_loses_exactly_the_images_it_must(norm, share, attack) -> None:
    """Two classes by ``w x + b``: an image falls at radius ``|w x + b| / ||w||_dual``, the box far away."""
    chance = torch.Generator().manual_seed(11)
    weights = torch.randn(36, generator=chance)
    images = 0.4 + 0.2 * torch.rand(48, 1, 6, 6, generator=chance)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).requires_grad_(False)
    network[1].weight.copy_(torch.stack([-weights, weights]))
    network[1].bias.copy_(torch.tensor([0.5, -0.5]) * (images.flatten(1) @ weights).median() * 2)
    score = images.flatten(1) @ weights - (images.flatten(1) @ weights).median()
    labels = (score > 0).long()
    radius = score.abs() / (weights.abs().sum() if norm == "linf" else weights.norm())
    epsilon = float(radius.quantile(share, interpolation="midpoint"))
    assert radius.max() < 0.4, "the pixel range must not save an image"
    assert (radius - epsilon).abs().min() > 1e-5, "no image may be at the very edge"
    ball = Linf(epsilon) if norm == "linf" else L2(epsilon)
    case = Case(name="attack", attack=attack, knowledge="end-to-end", ball=ball)
    evaluation = evaluate(Undefended(network), images, labels, [case], options=Options(seed=0))
    assert torch.equal(evaluation.broken[0].robust, radius > epsilon)


def test_the_front_end_changes_nothing_in_the_sound_model() -> None:
    images = some_images()
    assert torch.equal(Front()(images), five_classes()(images))
    assert some_labels().bincount(minlength=5).min() > 5
