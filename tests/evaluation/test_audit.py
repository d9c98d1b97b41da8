"""Audit checks: each must pass where it should, and fail on something made to fail it."""

import pytest
import torch
from torch import nn

from evaluation.helpers_evaluation import BrightnessDefense, Shift, SlotToy, grey
from memory_defense.attacks import Bim, Fgsm, Pgd
from memory_defense.evaluation.audit import audit
from memory_defense.evaluation.record import AuditLine
from memory_defense.evaluation.robustness import Case, evaluate
from memory_defense.threat import Linf

LEVELS = [0.3, 0.45, 0.58, 0.66, 0.9, 0.05, 0.7, 0.35]
LABELS = torch.tensor([0, 0, 1, 1, 1, 0, 1, 0])
SOUND = {"fgsm": Fgsm(), "pgd": Pgd(steps=10)}


def lines(defense, cases) -> dict[str, AuditLine]:
    evaluation = evaluate(defense, grey(LEVELS), LABELS, cases, seed=0)
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
    assert {name: line.verdict for name, line in found.items()} == dict.fromkeys(found, "pass")


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
    assert found["iterative at least as strong as single-step"].verdict == "not run"
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


def test_modules_are_left_as_they_were() -> None:
    defense = SlotToy().train()
    lines(defense, cases(knowledge="selector"))
    assert defense.training
    assert isinstance(defense, nn.Module)
