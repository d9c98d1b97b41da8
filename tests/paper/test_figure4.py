"""Figure 4 at the scale tiny: errors of the images handed in, one selector for every memory size."""

import math

import pytest
import torch

from memory_defense.attacks import PAPER_PGD
from memory_defense.defenses.memory.surrogates import FixedSlots
from memory_defense.paper.figure4 import reproduce_figure4, with_memory_of
from memory_defense.paper.printed.figure4 import Figure4, write_figure4
from memory_defense.paper.timing import reproduce_timing
from memory_defense.paper.trained_rows import TrainedRows
from memory_defense.randomness import ImageDraws
from memory_defense.recipes.registry import recipe
from memory_defense.systems.load import load
from memory_defense.threat import Linf
from paper.beside import SOURCE

ROW = "fashion-mnist/tiny/memory-defense"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("reproduction")


def test_figure_4_errors_are_those_of_the_images_handed_in(out, tmp_path) -> None:
    result = reproduce_figure4(TrainedRows(out=out, data=SOURCE, scale="tiny", seed=1))
    assert [size.items for size in result.sizes] == [20, 50]
    attacks = [(one.knowledge, round(255 * one.epsilon)) for one in result.sizes[0].attacked]
    assert attacks == [("fixed-slots", 9), ("end-to-end", 9), ("fixed-slots", 25), ("end-to-end", 25)]
    defense = load(out / with_memory_of(recipe(ROW), 20).name)
    assert len(defense.memory.items) == 20
    sample = SOURCE("fashion-mnist").test.first(result.images)
    images = sample.floats()

    def errors(of):
        with torch.no_grad():
            rebuilt = defense.reconstruct(of, defense.choose_slots(of))
        return sorted((of - rebuilt).square().mean((1, 2, 3)).tolist())

    rank = math.ceil(0.99 * result.images) - 1
    assert result.sizes[0].percentile_99 == pytest.approx(errors(images)[rank])
    frozen_slots = FixedSlots(defense, defense.choose_slots(images))
    draws = ImageDraws.of(1, "figure4", sample.ids)
    attacked = PAPER_PGD.for_transfer()(frozen_slots, images, sample.labels, Linf(25 / 255), draws)
    assert result.sizes[0].attacked[2].percentile_99 == pytest.approx(errors(attacked)[rank], rel=1e-4)
    paths = write_figure4(result, tmp_path)
    assert Figure4.read(paths[0]) == result


def test_all_memory_sizes_share_the_selector(out) -> None:
    reproduce_figure4(TrainedRows(out=out, data=SOURCE, scale="tiny", seed=1))
    selectors = [load(out / name).selector.state_dict() for name in (ROW, f"{ROW}-m20", f"{ROW}-m50")]
    for other in selectors[1:]:
        assert all(torch.equal(selectors[0][key], other[key]) for key in selectors[0])


def test_unknown_scales_are_refused(out) -> None:
    with pytest.raises(ValueError, match="did you mean 'tiny'"):
        reproduce_figure4(TrainedRows(out=out, data=SOURCE, scale="tinny"))
    with pytest.raises(ValueError, match="unknown dataset"):
        reproduce_timing(TrainedRows(out=out, data=SOURCE, scale="tiny", dataset="mnist"))
