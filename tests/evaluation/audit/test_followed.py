"""Do answers change as their gradient says, and gradually? Honest ones do, labels behind a decoy do not."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

from evaluation.audit import honest as networks
from evaluation.audit.fooling_anew import ANEW_LABELS
from evaluation.audit.fooling_answers import FURTHER_LABELS
from evaluation.audit.honest import HONEST, shapes
from memory_defense.attacks import attack
from memory_defense.attacks.suites import parts_of
from memory_defense.defenses.undefended import Undefended
from memory_defense.evaluation.audit.probes import ABRUPT, FOLLOWED, MISLED, abrupt, misled
from memory_defense.evaluation.cases import cross
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf
from memory_defense.workflows.suspicion import LABELS_ALONE, suspected, with_labels_alone
from memory_defense.wrappers.untouched import Untouched

DRAWS = ImageDraws.of(0, "ways", FOLLOWED)
TRULY = {"logits times a million", "a decoy's lead under the network's classes"}
"""Those whose gradient is the true one of their answers."""

ALL_LABELS = FURTHER_LABELS | ANEW_LABELS
LABELS = [name for name in ALL_LABELS if name not in TRULY]


honest = cache(networks.honest)


def both(model, classes: int = 10, ball=Linf(0.15)) -> tuple[float | None, float | None]:  # noqa: B008
    images, _ = shapes(classes, FOLLOWED, seed=5)
    model.requires_grad_(False)
    return misled(model, images, ball), abrupt(model, images, ball, DRAWS)


class Changed(nn.Module):
    """A network whose images, logits or precision are changed."""

    def __init__(self, before=lambda images: images, after=lambda logits: logits, precision=None) -> None:
        super().__init__()
        self.network, self.before, self.after, self.precision = honest("dropout"), before, after, precision

    def forward(self, images):
        with torch.autocast("cpu", dtype=self.precision or torch.bfloat16, enabled=self.precision is not None):
            return self.after(self.network(self.before(images)).float())


def straight_through(levels: int):
    return lambda images: images + ((images * levels).round() / levels - images).detach()


CHANGED = {
    "a temperature of 0.01": {"after": lambda logits: 100 * logits},
    "a temperature of 100": {"after": lambda logits: logits / 100},
    "float16": {"precision": torch.float16},
    "bfloat16": {"precision": torch.bfloat16},
    "log-softmax": {"after": lambda logits: logits.log_softmax(1)},
    "softmax": {"after": lambda logits: logits.softmax(1)},
    "grey levels, straight through": {"before": straight_through(255)},
    "eight levels, straight through": {"before": straight_through(7)},
    "another scale inside": {"before": lambda images: (images - 0.4) / 0.2 * 0.3 + 0.4},
}


@pytest.mark.parametrize(("name", "seed"), [*((name, 1) for name in HONEST), ("attention", 2), ("residual", 2)])
def test_an_honest_network_follows_its_gradient(name, seed) -> None:
    astray, hard = both(honest(name, seed), 1000 if name == "1,000 classes" else 10)
    assert astray is not None
    assert hard is not None
    assert astray <= 0.05
    assert hard <= 0.2


@pytest.mark.parametrize("ball", [Linf(2 / 255), Linf(0.3), L2(0.5), L2(3.0)], ids=repr)
def test_so_it_does_in_other_balls(ball) -> None:
    assert both(honest("attention"), ball=ball)[0] == 0
    assert (both(honest("attention"), ball=ball)[1] or 0) <= 0.25


@pytest.mark.parametrize("name", CHANGED)
def test_scales_precisions_and_levels_are_no_other_gradient(name) -> None:
    assert both(Changed(**CHANGED[name])) == (0.0, 0.0)


@pytest.mark.parametrize("levels", [255, 7])
def test_where_there_is_no_gradient_none_misleads(levels) -> None:
    astray, hard = both(Changed(before=lambda images: (images * levels).round() / levels))
    assert (astray, hard) == (None, 0.0)


@pytest.mark.parametrize("name", LABELS)
def test_labels_behind_another_gradient_are_told_and_met_by_an_attack_that_sees_labels(name) -> None:
    images, labels = shapes(10, FOLLOWED, seed=5)
    defense = Undefended(ALL_LABELS[name](honest("dropout"), images, labels).eval().requires_grad_(False))
    cases = cross({"pgd": attack("pgd", steps=5)}, ["end-to-end"], [Linf(0.15)])
    _, doubts = suspected(defense, Untouched(defense), images, labels, cases, seed=0, progress=None)
    assert (doubts.misled or 0) > MISLED
    for suite in ("fast", "brief"):
        parts = with_labels_alone(parts_of(suite), suite, doubts)("linf")
        assert parts[-1].name == LABELS_ALONE


def test_a_label_that_is_answered_switches_at_once_however_true_its_gradient() -> None:
    """The gradient is that of the answers, which are a label and next to nothing of another network."""

    class Truly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.other = honest("dropout"), honest("residual", 2)

        def forward(self, images):
            label = nn.functional.one_hot(self.network(images.detach()).argmax(1), 10)
            height = 3 + images.detach().flatten(1).std(1, keepdim=True)
            return height * label + 0.05 * self.other(images)

    astray, hard = both(Truly().eval())
    assert astray == 0
    assert (hard or 0) > ABRUPT


def test_few_images_of_one_class_tell_nothing() -> None:
    images, _ = shapes(10, FOLLOWED, seed=5)
    model = honest("dropout").requires_grad_(False)
    same = images[model(images).argmax(1) == model(images)[0].argmax()]
    assert abrupt(model, same, Linf(0.15), ImageDraws.of(0, "ways", len(same))) is None
