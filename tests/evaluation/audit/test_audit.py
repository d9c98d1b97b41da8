"""Audit checks: each must pass where it should, and fail on something made to fail it."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import grad as EARLY_GRAD

from evaluation.helpers_evaluation import BrightnessDefense, Shift, SlotToy, grey
from evaluation.test_proofs import BROKE, EDGES, GATE
from memory_defense.attacks import Bim, Fgsm, Pgd, Square
from memory_defense.certificates.smoothing import Smoothing
from memory_defense.contracts import Adaptation
from memory_defense.evaluation.audit.attacks import black_box_stronger
from memory_defense.evaluation.audit.behaviour import takes_images_alone, watched_backward
from memory_defense.evaluation.audit.findings import Findings
from memory_defense.evaluation.audit.run import audit
from memory_defense.evaluation.audit.sampling import sampling_lines
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.record import AuditLine
from memory_defense.evaluation.robustness import Case, evaluate
from memory_defense.evaluation.state import CaseState
from memory_defense.threat import L2, Linf

LEVELS = [0.3, 0.45, 0.58, 0.66, 0.9, 0.05, 0.7, 0.35]
LABELS = torch.tensor([0, 0, 1, 1, 1, 0, 1, 0])
SOUND = {"fgsm": Fgsm(), "pgd": Pgd(steps=10)}
NOT_IN_SOUND = {
    "a transfer attack was run",
    "earlier questions change no answer",
    "the order of questions changes no answer",
    "images between two grey levels are answered as those at whole ones",
    "an attack that sees labels alone was run",
    "an attack without gradients was run",
    "gradient attacks start more than once",
    "meaningless images do not get the right answers",
    "more than one norm was tried",
    "no gradient-free attack finds what gradients miss",
    "no transferred image finds what white-box attacks miss",
    "targeted and untargeted gradient attacks were run",
    "the attack breaks a model that is known to break",
    "twice the iterations find nothing more",
}
"""What two attacks on eight images cannot tell."""


def lines(defense, cases) -> dict[str, AuditLine]:
    evaluation = evaluate(defense, grey(LEVELS), LABELS, cases, options=Options(seed=0))
    return {line.check: line for line in audit(defense, evaluation, classes=2, seed=0)}


def cases(attacks=SOUND, knowledge="end-to-end", epsilon=0.1) -> list[Case]:
    return [
        Case(name=name, attack=attack, knowledge=knowledge, ball=Linf(epsilon)) for name, attack in attacks.items()
    ]


def curve(attack, radii, knowledge="end-to-end") -> list[Case]:
    return [
        Case(name="pgd", attack=attack, knowledge=knowledge, ball=Linf(radius), purpose="curve") for radius in radii
    ]


class Masked(BrightnessDefense):
    """No gradient anywhere: gradient attacks see nothing, noise sees as much."""

    def forward(self, images):
        return super().forward(images).round() + 0.0 * images.flatten(1)[:, :1]


def test_a_plain_classifier_passes() -> None:
    found = lines(BrightnessDefense(), cases() + curve(Pgd(steps=10), (0.02, 0.1, 0.3, 0.5)))
    verdicts = {name: line.verdict for name, line in found.items()}
    assert {name for name, verdict in verdicts.items() if verdict == "not run"} == NOT_IN_SOUND
    assert "fail" not in verdicts.values()


def test_masked_gradients_are_noticed() -> None:
    found = lines(Masked(), cases() + curve(Pgd(steps=3), (0.1, 0.5)))
    assert found["attack stronger than random noise"].verdict == "fail"
    assert found["accuracy reaches chance at a large epsilon"].verdict == "fail"


def test_a_stuck_iterative_attack_is_noticed() -> None:
    found = lines(BrightnessDefense(), cases({"fgsm": Fgsm(), "pgd": Shift(size=0.0)}))
    assert found["iterative at least as strong as single-step"].verdict == "fail"
    assert found["iterative at least as strong as single-step"].value == pytest.approx(2 / 8)


def test_a_rising_curve_is_noticed() -> None:
    found = lines(BrightnessDefense(), curve(Pgd(steps=10), (0.1,)) + curve(Shift(size=0.0), (0.3,)) + cases())
    assert found["accuracy falls with epsilon"].verdict == "fail"


def test_a_step_beyond_the_ball_is_noticed() -> None:
    assert (
        lines(BrightnessDefense(), cases({"bim": Bim(step_size=0.2)}))["step no larger than epsilon"].value == 2.0
    )


def test_what_could_not_run_says_so() -> None:
    found = lines(BrightnessDefense(), cases({"pgd": Pgd(steps=5)}))
    assert found["the curve against epsilon reaches 0 %"].verdict == "not run"
    assert found["accuracy falls with epsilon"].verdict == "not run"


def test_probabilities_and_randomness_are_noticed() -> None:
    class Softmax(BrightnessDefense):
        def forward(self, images):
            return super().forward(images).softmax(1)

    class Random(BrightnessDefense):
        calls = 0

        def forward(self, images):
            self.calls += 1
            return super().forward(images) * (-1.0) ** self.calls

    assert lines(Softmax(), cases())["answers are logits, not probabilities"].verdict == "fail"
    assert lines(Random(), [])["same answer when asked twice"].verdict == "fail"


def test_one_weak_protocol_is_noticed() -> None:
    both = cases(knowledge="fixed-slots", epsilon=0.3) + cases(knowledge="selector", epsilon=0.3)
    line = lines(SlotToy(), both)["every knowledge finds more than the weakest attack does"]
    assert line.verdict == "fail"


def test_a_label_fed_defense_is_noticed() -> None:
    found = lines(SlotToy(repeats=True), cases(knowledge="selector"))
    for check in ("slot-following", "slot-following on noise", "slot-following on black images"):
        assert (found[check].verdict, found[check].value) == ("fail", 1.0)
    assert found["agreement with the selector"].value == 1.0
    assert found["zero-gradient pixels with frozen slots"].value == 1.0
    assert found["hard shrink removes something"].verdict == "fail"
    assert found["the non-target loss has an effect"].verdict == "pass"


def test_a_defense_that_looks_at_the_image_passes_slot_following() -> None:
    found = lines(SlotToy(repeats=False), cases(knowledge="selector"))
    assert found["slot-following on black images"].value < 1
    assert found["zero-gradient pixels with frozen slots"].verdict == "pass"


@dataclass(frozen=True, kw_only=True)
class Named:
    """Does nothing; carries the marks by which the audit knows an attack."""

    loss: str = "margin"
    restarts: int = 1
    hard_label: ClassVar[bool] = True

    def __call__(self, model, images, labels, ball, draws):
        return images

    def for_transfer(self):
        return self


@dataclass(frozen=True, kw_only=True)
class NamedTargeted(Named):
    targets: int = 1


@pytest.mark.parametrize("attack", [Named(), Named(loss="dlr"), NamedTargeted(), NamedTargeted(loss="dlr")])
def test_losses_that_need_more_classes_are_replaced_before_the_audit(attack) -> None:
    assert lines(BrightnessDefense(), cases({"named": attack}))["classes suit the losses"].verdict == "pass"


def test_a_model_of_other_classes_than_the_data_is_noticed() -> None:
    evaluation = evaluate(BrightnessDefense(), grey(LEVELS), LABELS, cases(), options=Options(seed=0))
    found = {line.check: line for line in audit(BrightnessDefense(), evaluation, classes=3, seed=0)}
    assert found["classes suit the losses"].verdict == "fail"


def test_what_was_tried_is_counted() -> None:
    wanted = cases({"named": Named(restarts=3), "square": Square(queries=2), "towards": NamedTargeted()})
    wanted += [Case(name="pgd", attack=Pgd(steps=2), knowledge="other", ball=L2(0.1))]
    found = lines(BrightnessDefense(), wanted)
    assert found["gradient attacks start more than once"].value == 3
    for check, value in {
        "targeted and untargeted gradient attacks were run": 2,
        "an attack without gradients was run": 1,
        "an attack that sees labels alone was run": 2,
        "a transfer attack was run": 1,
        "more than one norm was tried": 2,
    }.items():
        assert (found[check].verdict, found[check].value) == ("pass", value), check


def test_a_knowledge_that_nobody_used_is_named() -> None:
    class Adaptive(BrightnessDefense):
        def adaptive(self):
            return {"careful": Adaptation(self)}

    check = "every published white-box knowledge was attacked"
    line = lines(Adaptive(), cases())[check]
    assert (line.verdict, line.value) == ("fail", 0.5)
    assert "careful" in line.meaning
    assert lines(Adaptive(), cases() + cases(knowledge="careful"))[check].verdict == "pass"


def test_iterations_that_still_find_something_are_noticed() -> None:
    check = "twice the iterations find nothing more"
    few, many = Pgd(steps=1, step_size=0.01, random_start=False), Pgd(steps=9, step_size=0.01, random_start=False)
    line = lines(BrightnessDefense(), cases({"few": few, "many": many}))[check]
    # Grey levels 0.45 and 0.58 fall at 0.05 and 0.08, which takes more than one step of 0.01.
    assert (line.verdict, line.value) == ("fail", 2 / 8)
    enough = {"many": many, "more": replace(many, steps=18)}
    assert lines(BrightnessDefense(), cases(enough))[check].verdict == "pass"
    other = {"few": few, "many": replace(many, loss="margin")}
    assert lines(BrightnessDefense(), cases(other))[check].verdict == "not run", "they differ in two things"
    nearly = {"few": few, "many": replace(few, steps=1)}
    assert lines(BrightnessDefense(), cases(nearly))[check].verdict == "not run"


def test_noise_that_finds_more_than_the_attacks_is_noticed() -> None:
    check = "attacks find all that 50 draws of noise do"
    idle = lines(BrightnessDefense(), cases({"idle": Shift(size=0.0)}, epsilon=0.3))[check]
    # Noise moves a mean by 0.075, so that the best of 50 draws moves it by about 0.17: 0.45 falls, 0.05 never.
    assert idle.verdict == "fail"
    assert 1 / 8 <= idle.value <= 6 / 8
    assert lines(BrightnessDefense(), cases(epsilon=0.3))[check].verdict == "pass"


def test_a_curve_that_ends_early_is_noticed() -> None:
    check = "the curve against epsilon reaches 0 %"
    assert lines(BrightnessDefense(), curve(Pgd(steps=5), (0.1, 0.5)))[check].verdict == "pass"
    early = lines(BrightnessDefense(), curve(Pgd(steps=5), (0.05, 0.1)))[check]
    assert (early.verdict, early.value) == ("fail", 6 / 8)


def test_a_useless_classifier_is_noticed() -> None:
    class Constant(BrightnessDefense):
        def forward(self, images):
            return super().forward(images) * 0 + torch.tensor([1.0, 0.0])

    line = lines(Constant(), cases())["clean accuracy, with its interval, is above chance"]
    assert (line.verdict, line.value) == ("fail", 0.5)


@pytest.mark.parametrize(
    ("forward", "extra"),
    [
        (lambda images: images, 0),
        (lambda images, labels: images, 1),
        (lambda images, labels=None, *, quiet=True: images, 0),
        (lambda images, memory, labels: images, 2),
    ],
)
def test_a_required_label_is_noticed(forward, extra) -> None:
    class Asking(BrightnessDefense):
        pass

    Asking.forward = staticmethod(forward)
    evaluation = evaluate(BrightnessDefense(), grey(LEVELS), LABELS, [], options=Options(seed=0))
    line = takes_images_alone(Findings(Asking(), evaluation, classes=2, seed=0))
    assert (line.verdict, line.value) == ("fail" if extra else "pass", extra)


def test_backward_passes_are_seen_by_every_way_in_and_the_ways_restored() -> None:
    before = (torch.autograd.grad, torch.autograd.backward, torch.autograd._engine_run_backward)
    ways = {
        "early import": EARLY_GRAD,
        "grad": lambda value, leaf: torch.autograd.grad(value, inputs=leaf),
        "backward": lambda value, leaf: value.backward(),
        "functional": lambda value, leaf: torch.func.grad(lambda x: (x * x).sum())(leaf.detach()),
    }
    for name, way in ways.items():
        leaf = torch.ones(3, requires_grad=True)
        with watched_backward() as calls:
            assert not calls
            value = (leaf * leaf).sum()
            assert not calls, "a forward pass is none"
            way(value, leaf)
        assert calls, name
        assert before == (torch.autograd.grad, torch.autograd.backward, torch.autograd._engine_run_backward)
    with pytest.raises(RuntimeError, match="inside"), watched_backward():
        raise RuntimeError("inside")
    assert before == (torch.autograd.grad, torch.autograd.backward, torch.autograd._engine_run_backward)


def test_nothing_is_left_changed() -> None:
    class Forgetful(BrightnessDefense):
        def forward(self, images):
            with torch.no_grad():
                self.scale += 1e-3
            return super().forward(images)

    defense = Forgetful().train()
    evaluation = evaluate(defense, grey(LEVELS), LABELS, cases(), options=Options(seed=0))
    before, chance = defense.scale.detach().clone(), torch.random.get_rng_state()
    found = {line.check: line for line in audit(defense, evaluation, classes=2, seed=0)}
    assert found["asking leaves the defense as it was"].verdict == "fail"
    assert torch.equal(defense.scale, before)
    assert defense.scale.requires_grad
    assert defense.scale.grad is None
    assert torch.equal(torch.random.get_rng_state(), chance)


def test_the_few_images_without_a_gradient_are_named() -> None:
    class Hidden(BrightnessDefense):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            dark = (images.flatten(1).mean(1) < 0.1)[:, None]  # one of them
            return torch.where(dark, logits.detach(), logits)

    defense = Hidden()
    ids = torch.arange(10, 10 + len(LEVELS))
    small = [replace(one, ball=Linf(1e-5)) for one in cases()[:1]]
    evaluation = evaluate(defense, grey(LEVELS), LABELS, small, options=Options(seed=0, ids=ids))
    found = {line.check: line for line in audit(defense, evaluation, classes=2, seed=0)}
    line = found["the margin loss has a gradient"]
    assert (line.verdict, line.value) == ("fail", pytest.approx(1 / len(LEVELS)))
    assert line.meaning.endswith("cannot move such an image (id 15)")


@pytest.mark.parametrize(
    ("scout", "later", "verdict", "value"),
    [
        (0, 0, "pass", 0.0),
        (15, 0, "pass", 0.015),
        (25, 0, "fail", 0.025),
        (0, 2, "pass", 0.002),
        (0, 3, "fail", 0.003),
    ],
)
def test_a_scout_without_gradients_may_find_a_little_more(scout, later, verdict, value) -> None:
    def run(name, attack, role, fooled) -> tuple[Case, CaseState]:
        state = CaseState.fresh(1000, torch.device("cpu"))
        state.done[:], state.fooled[fooled] = True, True
        options = {"knowledge": "end-to-end", "purpose": "cascade", "role": role}
        return Case(name=name, attack=attack, ball=Linf(0.1), **options), state

    runs = [
        run("square-100", Square(queries=1), "scout", slice(0, scout)),
        run("pgd", Pgd(), "main", slice(100, 200)),
        run("square", Square(), "outward", slice(200, 200 + later)),
    ]
    evaluation = SimpleNamespace(
        cases=[case for case, _ in runs],
        state=SimpleNamespace(cases=[state for _, state in runs]),
        broken=[SimpleNamespace(ball=Linf(0.1))],
    )
    line = black_box_stronger(Findings(BrightnessDefense(), evaluation, classes=2, seed=0))
    assert (line.verdict, line.value) == (verdict, value)


def test_every_check_is_explained_and_no_other() -> None:
    page = (Path(__file__).parents[3] / "docs" / "audit.md").read_text()
    rows = [row.split(" | ")[0].removeprefix("| ") for row in page.splitlines() if row.startswith("| ")]
    named = lines(SlotToy(), cases(knowledge="selector"))
    sampled = {one.check for one in sampling_lines(Smoothing(sigma=0.5), [1.0], torch.rand(1, 1, 4, 4))}
    assert sorted(row for row in rows if row != "Check") == sorted({*named, *sampled, BROKE, EDGES, GATE})


def test_modules_are_left_as_they_were() -> None:
    defense = SlotToy().train()
    lines(defense, cases(knowledge="selector"))
    assert defense.training
    assert isinstance(defense, nn.Module)
