"""Answer and flag attacked together: on a defense in closed form, what is lost is known image by image."""

from __future__ import annotations

import pytest
import torch

from memory_defense.attacks import ApgdTargeted, Pgd
from memory_defense.data.images import ImageSet
from memory_defense.defenses.flagging import FlaggingModule
from memory_defense.defenses.undefended import Undefended
from memory_defense.evaluation.detection_results import AttackedSet
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.selection import select
from memory_defense.threat import L2, Linf

ATTACKS = {"pgd-margin": Pgd(steps=30, loss="margin"), "apgd-t": ApgdTargeted(steps=10, targets=1, loss="margin")}


class Guarded(FlaggingModule):
    """Two classes by the first pixel, flagged where it lies within `width` of one half: the gate of a line."""

    flag_score = "near the border"
    transfer_knowledge = frozenset()

    def __init__(self, width: float | None = 0.1) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(4.0))
        self.flag_threshold = None if width is None else -width

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = self.scale * (images[:, 0, 0, 0] - 0.5)
        return torch.stack([-first, first], 1)

    def surrogates(self):
        return {"end-to-end": self}

    def scores(self, images: torch.Tensor):
        return {self.flag_score: -(images[:, 0, 0, 0] - 0.5).abs()}


def at(pixels: list[float], labels: list[int]) -> ImageSet:
    images = torch.full((len(pixels), 1, 4, 4), 0.5)
    images[:, 0, 0, 0] = torch.tensor(pixels)
    return ImageSet(images, torch.tensor(labels), torch.arange(len(pixels)))


PIXELS = [0.95, 0.72, 0.63, 0.55, 0.45, 0.35, 0.65]
LABELS = [1, 1, 1, 1, 1, 1, 1]
"""Right; right; right and near its flag; right and flagged; wrong and flagged; wrong and accepted; right."""


def test_what_can_be_lost_is_lost_and_nothing_else() -> None:
    """Within epsilon, an image is wrong and accepted where its first pixel reaches 0.4."""
    test = at(PIXELS, LABELS)
    for epsilon in (0.03, 0.1, 0.2, 0.3):
        (one,) = select(Guarded(), test, Options(), attacks=ATTACKS, balls=[Linf(epsilon)], costs=[0.5])
        reached = [pixel - epsilon < 0.4 for pixel in PIXELS]
        assert one.wrong_accepted.accuracy == sum(reached) / 7, epsilon
        assert one.clean_right_accepted.accuracy == 4 / 7
        assert one.clean_right_flagged.accuracy == 1 / 7
        assert one.clean_wrong_accepted.accuracy == 1 / 7
        robust = [pixel > 0.6 and not lost for pixel, lost in zip(PIXELS, reached, strict=True)]
        assert one.robust.accuracy == sum(robust) / 7
        flagged = [0.4 < pixel < 0.6 and not lost for pixel, lost in zip(PIXELS, reached, strict=True)]
        near = [0.4 < pixel < 0.6 + 0.1 * epsilon and not lost for pixel, lost in zip(PIXELS, reached, strict=True)]
        assert (one.flagged.accuracy, one.flagged_near.accuracy) == (sum(flagged) / 7, sum(near) / 7)
        assert one.losses[0].loss == pytest.approx((sum(reached) + 0.5 * sum(flagged)) / 7)
        assert one.losses[0].loss_near == pytest.approx((sum(reached) + 0.5 * sum(near)) / 7)


def test_the_inner_attack_finds_a_flag_just_where_there_is_one() -> None:
    test = at([0.605, 0.63, 0.95], [1, 1, 1])
    (one,) = select(Guarded(), test, attacks=ATTACKS, balls=[Linf(0.1)], costs=[0.1])
    assert (one.near, one.flagged_near.accuracy, one.flagged.accuracy) == (pytest.approx(0.01), 1 / 3, 0)
    (alarm,) = [stage for stage in one.stages if stage.knowledge == "alarm"]
    assert (alarm.tried, alarm.lost) == (3, 1)


def test_an_image_that_is_wrong_but_flagged_stays_under_attack() -> None:
    (one,) = select(Guarded(), at([0.45], [1]), attacks=ATTACKS, balls=[Linf(0.06)], costs=[0.1])
    assert one.wrong_accepted.accuracy == 1, "0.39 is wrong and accepted"
    (one,) = select(Guarded(), at([0.45], [1]), attacks=ATTACKS, balls=[Linf(0.04)], costs=[0.1])
    assert (one.wrong_accepted.accuracy, one.losses[0].loss) == (0, pytest.approx(0.1))


def test_larger_balls_lose_no_less_and_norms_are_kept_apart() -> None:
    test = at(PIXELS, LABELS)
    balls = [Linf(0.3), L2(0.05), Linf(0.03)]
    found = select(Guarded(), test, attacks=ATTACKS, balls=balls, costs=[])
    assert [(one.norm, one.epsilon) for one in found] == [("l2", 0.05), ("linf", 0.03), ("linf", 0.3)]
    small, large = found[1:]
    assert small.wrong_accepted.accuracy < large.wrong_accepted.accuracy
    assert large.stages[0].tried == 7 - round(7 * small.wrong_accepted.accuracy), "what is lost is not tried again"


@pytest.mark.parametrize("defense", [Guarded(None), Undefended(Guarded(None))])
def test_without_a_flag_everything_is_accepted(defense) -> None:
    test = at(PIXELS, LABELS)
    (one,) = select(defense, test, attacks=ATTACKS, balls=[Linf(0.1)], costs=[0.3])
    assert (one.score, one.threshold, one.flagged_near.accuracy) == ("", None, 0)
    assert one.clean_right_accepted.accuracy == 5 / 7
    assert one.wrong_accepted.accuracy == 3 / 7
    assert one.robust.accuracy == one.clean_right_accepted.accuracy - 1 / 7
    assert {stage.knowledge for stage in one.stages} == {"end-to-end"}


def test_images_that_were_found_count_if_they_are_accepted() -> None:
    test = at(PIXELS, LABELS)
    images = test.images[[0, 1]].clone()
    images[0, 0, 0, 0], images[1, 0, 0, 0] = 0.3, 0.45  # wrong and accepted; wrong and flagged
    rows, fooled = torch.tensor([0, 1]), torch.tensor([True, True])
    found = AttackedSet(
        attack="all", knowledge="any", ball=Linf(0.9), rows=rows, images=images, fooled=fooled, whole=False
    )
    weak = {"pgd-margin": Pgd(steps=1, step_size=1e-6, random_start=False, loss="margin")}
    small, large = select(Guarded(), test, attacks=weak, balls=[Linf(0.1), Linf(0.9)], costs=[], found=[found])
    assert (small.wrong_accepted.accuracy, large.wrong_accepted.accuracy) == (1 / 7, 2 / 7)


def test_bad_arguments_are_refused() -> None:
    test = at([0.9], [1])
    with pytest.raises(ValueError, match="cost of a flag is 2"):
        select(Guarded(), test, attacks=ATTACKS, balls=[Linf(0.1)], costs=[2])
    with pytest.raises(ValueError, match="no attack was given"):
        select(Guarded(), test, attacks={}, balls=[Linf(0.1)], costs=[0.1])


def test_who_names_targets_runs_with_what_leads_to_each_class_or_else_with_everything() -> None:
    class Confident(Guarded):
        def adaptive(self):
            one = super().adaptive()["silent"]
            return {
                "silent": one,
                "plain": one._replace(fights_flag=False),
                "each": one._replace(towards_each_class=True),
            }

    def ran(defense) -> list[tuple[str, str]]:
        (one,) = select(defense, at(PIXELS, LABELS), attacks=ATTACKS, balls=[Linf(0.1)], costs=[])
        return [(stage.attack, stage.knowledge) for stage in one.stages]

    both = [(attack, known) for attack in ATTACKS for known in ("silent", "crossing")]
    assert ran(Guarded()) == [*both, ("pgd-margin", "alarm")]
    assert ran(Confident()) == [("pgd-margin", "silent"), ("apgd-t", "each"), ("pgd-margin", "alarm")]
