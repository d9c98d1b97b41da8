"""Every entry of the queue from its first step to what comes back, at toy size."""

from pathlib import Path

import pytest
import torch

from memory_defense.defenses import pixeldefend
from memory_defense.evaluation.record import Record
from memory_defense.recipes.queue import QUEUE
from memory_defense.recipes.queue_work import Deadline, made_up, returned, work


class Silent:
    """A progress that says nothing."""

    def begin(self, what: str, total: int) -> None:
        pass

    def advance(self, steps: int, text: str = "") -> None:
        pass

    def note(self, text: str) -> None:
        pass


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """One place for all entries, which share what they train alike."""
    return tmp_path_factory.mktemp("queue")


@pytest.mark.parametrize("name", QUEUE)
def test_an_entry_runs(out, name, monkeypatch) -> None:
    if name == "pixelcnn":  # a pass for each pixel takes minutes here, and has tests of its own

        def nearest_even(purifier, levels, radius):
            return (2 * (levels // 2)).clamp(levels - radius, levels + radius)

        monkeypatch.setattr(pixeldefend, "purified_levels", nearest_even)

    def data(dataset: str):
        return made_up(dataset, torch.device("cpu"))

    back = out / "back"
    assert work(name, out, data, back=back, deadline=Deadline(Silent(), 1e9), tiny=True)
    for one in QUEUE[name].chosen(tiny=True):
        record = Record.read(back / name / one.name / "record.json")
        assert record.recipe.startswith(one.name)
        assert record.provenance.recipe_sha256 == one.sha256
        dataset = one.model.dataset
        assert record.dataset == f"made-up images like {dataset}"
        defense = returned(back / name / one.name)
        assert defense(data(dataset).test.floats()[:2]).shape == (2, 10)
