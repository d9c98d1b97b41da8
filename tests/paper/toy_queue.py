"""One entry of the queue from its first step to what comes back, at toy size."""

from __future__ import annotations

from pathlib import Path

import torch

from memory_defense.evaluation.record import Record
from memory_defense.paper.queue import QUEUE, Deadline, made_up, returned, work
from memory_defense.paper.queue_parts import write_parts

PURIFIERS = ("pixelcnn", "cifar10-purifiers", "fashion-mnist-purifiers", "cifar10-defense-vae")


class Silent:
    """A progress that says nothing."""

    def begin(self, what: str, total: int) -> None:
        pass

    def advance(self, steps: int, text: str = "") -> None:
        pass

    def note(self, text: str) -> None:
        pass


def assert_it_runs(name: str, out: Path) -> None:
    """Work on an entry, and hold what comes back to what was asked for."""

    def data(dataset: str):
        return made_up(dataset, torch.device("cpu"))

    back = out / "back"
    if judged := QUEUE[name].judges:
        assert work(judged, out, data, back=back, deadline=Deadline(Silent(), 1e9), tiny=True)
    assert work(name, out, data, back=back, deadline=Deadline(Silent(), 1e9), tiny=True)
    for one in QUEUE[name].chosen(tiny=True):
        record = Record.read(back / name / one.name / "record.json")
        assert record.recipe.startswith(one.name)
        assert record.provenance.recipe_sha256 == one.sha256
        dataset = one.model.dataset
        assert record.dataset == f"made-up images like {dataset}"
    chosen = QUEUE[name]
    for full, one in zip(chosen.recipes, chosen.chosen(tiny=True), strict=True):
        if chosen.judges or (chosen.weights is not None and full not in chosen.weights):
            assert not (back / name / one.name / "weights.json").exists()
            continue
        defense = returned(back / name / one.name)
        assert defense(data(one.model.dataset).test.floats()[:2]).shape == (2, 10)
    assert write_parts(back / name, out / "flat")
