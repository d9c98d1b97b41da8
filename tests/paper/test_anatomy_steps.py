"""The steps of the anatomy in order, one choice at a time; the released code's box by hand."""

from itertools import pairwise

import pytest
import torch

from memory_defense.attacks import PAPER_PGD
from memory_defense.paper.anatomy import STEPS, NormalisedBox, Protocol
from memory_defense.randomness import ImageDraws
from memory_defense.threat import Linf

MEAN, STD = 0.1307, 0.3081


def test_the_steps_are_in_order_and_each_changes_one_choice() -> None:
    assert "".join(step.key for step in STEPS) == "abcdefgh"
    protocols = [step.protocol.choices() for step in STEPS]
    changed = [[name for name in one if one[name] != two[name]] for one, two in pairwise(protocols)]
    assert [[step.changed] for step in STEPS[1:]] == changed
    assert changed == [["score"], ["steps"], ["units"], ["seen"], ["seen"], ["seen"], ["attacks"]]


def test_the_first_step_is_the_released_code_and_the_fifth_the_papers_protocol() -> None:
    first = STEPS[0].protocol
    assert first.attack().steps == 10
    assert first.attack().step_size == pytest.approx(0.0075 * STD)
    assert not first.attack().stop_when_fooled
    assert first.ball(25 / 255) == NormalisedBox(25 / 255, MEAN, STD)
    fifth = STEPS[4].protocol
    assert fifth.attack() == PAPER_PGD.for_transfer()
    assert fifth.ball(25 / 255) == Linf(25 / 255)
    assert fifth.seen == "clean answer"


def test_choices_name_every_choice() -> None:
    assert set(Protocol().choices()) == {"score", "steps", "units", "seen", "attacks"}


@pytest.fixture
def box() -> NormalisedBox:
    return NormalisedBox(0.1, MEAN, STD)


def test_projection_is_the_released_codes_in_normalised_space(box) -> None:
    draws = ImageDraws.of(0, "box", 5)
    centre, points = draws.child("c").uniform(1, 6, 6), draws.child("p").uniform(1, 6, 6)
    centre[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    # Written in normalised units: the change clamped to epsilon, the image clamped to [0, 1].
    x, moved = (centre - MEAN) / STD, (points - MEAN) / STD
    wanted = (x + (moved - x).clamp(-0.1, 0.1)).clamp(0, 1) * STD + MEAN
    torch.testing.assert_close(box.project(points, centre), wanted)


def test_black_and_white_are_moved_whatever_epsilon_is() -> None:
    box = NormalisedBox(0.0, MEAN, STD)
    pixels = torch.tensor([0.0, 0.05, 0.3, 1.0]).reshape(1, 1, 2, 2)
    assert box.project(pixels, pixels).flatten().tolist() == pytest.approx([MEAN, MEAN, 0.3, MEAN + STD])
    assert (255 * box.distance(box.project(pixels, pixels), pixels)).round().tolist() == [143]
    assert 255 * (float(box.project(pixels, pixels)[0, 0, 0, 0]) - 0) == pytest.approx(33.3, abs=0.1)


def test_contains_is_the_set_of_projections(box) -> None:
    centre = torch.tensor([0.0, 0.5, 0.3, 0.2]).reshape(1, 1, 2, 2)
    epsilon = 0.1 * STD
    assert box.epsilon == pytest.approx(epsilon)
    # 0.0 and 0.5 lie more than epsilon outside the box: one value each is allowed.
    inside = torch.tensor([MEAN, MEAN + STD, 0.3 + epsilon, 0.2 - epsilon]).reshape(1, 1, 2, 2)
    assert bool(box.contains(inside, centre))
    for place, change in ((0, 0.001), (0, -0.001), (1, -0.001), (2, 0.001), (3, -0.001)):
        moved = inside.clone()
        moved.view(-1)[place] += change
        assert not bool(box.contains(moved, centre))
    assert not bool(box.contains(centre, centre))  # the clean image is not in its own ball
    assert not bool(box.contains(torch.full_like(centre, torch.nan), centre))


def test_random_points_lie_in_the_box_and_fill_it(box) -> None:
    centre = torch.full((400, 1, 2, 2), 0.3)
    points = box.random_point(centre, ImageDraws.of(0, "points", 400))
    assert bool(box.contains(points, centre).all())
    change = (points - centre) / box.epsilon
    assert float(change.min()) == pytest.approx(-1, abs=0.02)
    assert float(change.max()) == pytest.approx(1, abs=0.02)
    assert float(change.mean()) == pytest.approx(0, abs=0.06)


@pytest.mark.parametrize("wrong", [(-0.1, 0.1, 0.3), (0.1, -0.1, 0.3), (0.1, 0.8, 0.3), (0.1, 0.1, 0.0)])
def test_a_box_that_cannot_be_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match="must be"):
        NormalisedBox(*wrong)
