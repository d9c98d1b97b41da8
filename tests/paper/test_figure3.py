"""Figure 3 at the scale tiny: maps of every space, deterministic, with numbers recomputed here."""

import importlib

import pytest
import torch

from memory_defense.paper import figure3 as reproduce_figure3
from memory_defense.paper.printed.figure3 import Figure3, write_figure3
from memory_defense.paper.trained_rows import TrainedRows
from memory_defense.randomness import ImageDraws
from memory_defense.systems.load import load
from paper.beside import SOURCE

ROW = "fashion-mnist/tiny/memory-defense"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("reproduction")


def test_figure_3_maps_every_space_of_clean_and_attacked_images(out, tmp_path) -> None:
    result = reproduce_figure3.reproduce_figure3(TrainedRows(out=out, data=SOURCE, scale="tiny", seed=1))
    assert [len(row.panels) for row in result.rows] == [4, 4]
    assert result.images == 60
    clean, attacked = result.rows
    for panel in (*clean.panels, *attacked.panels):
        assert len(panel.x) == len(panel.y) == 60
        assert min(*panel.x, *panel.y) >= 0
        assert max(*panel.x, *panel.y) <= 1000
    assert [panel.neighbours_slot is None for panel in clean.panels] == [True, False, False, True]
    assert [panel.clean_neighbours_right is None for panel in clean.panels] == [True] * 4
    assert [panel.clean_neighbours_right is None for panel in attacked.panels] == [False] * 4
    defense, sample = load(out / ROW), SOURCE("fashion-mnist").test.first(60)
    with torch.no_grad():
        right = (defense(sample.floats()).argmax(1) == sample.labels).float().mean()
    assert clean.panels[1].answers_right == clean.panels[2].answers_right == pytest.approx(float(right))
    again = reproduce_figure3.reproduce_figure3(TrainedRows(out=out, data=SOURCE, scale="tiny", seed=1))
    assert again == result
    paths = write_figure3(result, tmp_path)
    assert Figure3.read(paths[0]) == result


def test_a_read_through_a_slot_knows_the_slot(out) -> None:
    """The claim about the paper's map, on a memory that nobody trained: the clusters are there all the same."""
    space = reproduce_figure3.SPACES[2]
    defense = load(out / ROW).eval() if (out / ROW).exists() else None
    defense = defense or TrainedRows(out=out, data=SOURCE, scale="tiny", seed=1).defense("memory-defense")
    torch.nn.init.normal_(defense.memory.items)
    slots = torch.arange(60) % 10
    defense.choose_slots = lambda images: slots[: len(images)]
    vectors = reproduce_figure3.vectors_of(space, defense, ImageDraws.of(0, "noise", 60).uniform(1, 28, 28))
    same = torch.cdist(vectors, vectors) + 1e9 * torch.eye(60)
    assert torch.equal(slots[same.argmin(1)], slots)


def test_figure_3_without_scikit_learn_names_the_extra(out, monkeypatch) -> None:
    real = importlib.import_module

    def without(name: str, *rest):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ValueError, match=r"memory-defense\[figures\]"):
        reproduce_figure3.reproduce_figure3(TrainedRows(out=out, data=SOURCE, scale="tiny"))
