"""An evaluation on an accelerator: the same verdicts as on a processor, from the clean images to the record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attacks import victims
from memory_defense.attacks import Fgsm, Pgd
from memory_defense.attacks.suites import parts_of
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.robustness import Evaluation, evaluate
from memory_defense.evaluation.state import State
from memory_defense.evaluation.store import take_over, to_tensors
from memory_defense.paper.queue import Deadline, made_up, work
from memory_defense.threat import L2, Linf
from memory_defense.workflows.evaluate import cascade_cases
from paper.toy_queue import Silent
from pretend import accelerator

COUNT = 40


class Plain(nn.Module):
    """A classifier that publishes itself."""

    transfer_knowledge: frozenset[str] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.network = victims.mlp()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).float()

    def surrogates(self) -> dict[str, nn.Module]:
        return {"end-to-end": self}


BALLS = (Linf(0.02), Linf(0.05), L2(0.3))


def cases(defense: Plain) -> list[Case]:
    plain = [
        Case(name="fgsm", attack=Fgsm(), knowledge="end-to-end", ball=BALLS[0]),
        Case(name="pgd", attack=Pgd(steps=3), knowledge="end-to-end", ball=BALLS[1]),
    ]
    return plain + cascade_cases(defense, parts_of("brief"), BALLS)


def evaluated(device: torch.device, place: Path | None = None) -> Evaluation:
    model = Plain().eval()
    images = torch.rand(COUNT, 1, victims.SIZE, victims.SIZE, generator=torch.Generator().manual_seed(4))
    labels = model(images).argmax(1)
    labels[::7] = (labels[::7] + 1) % victims.CLASSES
    quick = [replace(one, attack=_shortened(one.attack)) for one in cases(model)]
    return evaluate(
        model.to(device), images.to(device), labels.to(device), quick, Options(batch_size=16), state_file=place
    )


def _shortened(attack: object):
    short = {"steps": 4, "queries": 30, "restarts": 1}
    known = {name: value for name, value in short.items() if hasattr(attack, name)}
    return replace(attack, **known)


def test_the_verdicts_are_the_processors(tmp_path) -> None:
    expected = evaluated(torch.device("cpu"))
    with accelerator() as (device, ledger):
        found = evaluated(device, tmp_path / "state")
        assert ledger.uploads.total() <= 8, ledger.uploads
        assert torch.equal(found.correct.cpu(), expected.correct)
        for one, other in zip(found.broken, expected.broken, strict=True):
            assert torch.equal(one.robust.cpu(), other.robust)
            assert torch.equal(one.breaker.cpu(), other.breaker)
        for one, other in zip(found.outcomes, expected.outcomes, strict=True):
            assert torch.equal(one.robust.cpu(), other.robust)
            assert one.result.accuracy == other.result.accuracy
        assert 0 < int(found.broken[0].robust.sum()) < int(found.correct.sum())


def test_what_several_processes_found_is_put_together() -> None:
    with accelerator() as (device, _):
        whole = evaluated(device).state
        parts = [torch.arange(first, COUNT, 2) for first in range(2)]
        merged = State.blank(whole.images, whole.labels, whole.ids, cases(Plain()))
        for rows in parts:
            there = rows.to(device)
            mine = State.blank(whole.images[there], whole.labels[there], whole.ids[there], cases(Plain()))
            mine.correct, mine.predictions = whole.correct[there], whole.predictions[there]
            for one, other in zip(mine.broken, whole.broken, strict=True):
                one.robust, one.breaker = other.robust[there], other.breaker[there]
                one.distance, one.lead, one.place = other.distance[there], other.lead[there], other.place[rows]
            take_over(merged, {name: one.cpu() for name, one in to_tensors(mine).items()}, rows)
        for one, other in zip(merged.broken, whole.broken, strict=True):
            for name in ("robust", "breaker", "distance", "lead", "place"):
                assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("name", ["fashion-mnist-strong"])
def test_an_entry_of_the_queue_runs_there(tmp_path, name) -> None:
    with accelerator() as (device, _):
        back = tmp_path / "back"
        assert work(
            name,
            tmp_path,
            lambda dataset: made_up(dataset, device),
            back=back,
            deadline=Deadline(Silent(), 1e9),
            tiny=True,
        )
        assert list(back.rglob("record.json"))
