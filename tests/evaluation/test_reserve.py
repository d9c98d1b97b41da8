"""Cases in reserve: nobody hears of them unless they are wanted, and then they go on where the others ended.

That order, batches, processes and stops change nothing about them either is for `test_invariance`, whose scenario
has such cases.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from evaluation import scenario
from evaluation.helpers_evaluation import Brightness, grey
from memory_defense.attacks import Nes, Pgd
from memory_defense.contracts import Ball, Classifier, Draws
from memory_defense.defenses.undefended import Undefended
from memory_defense.evaluation import store
from memory_defense.evaluation.cases import Case, Later
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.results import Reserve
from memory_defense.evaluation.robustness import evaluate
from memory_defense.randomness import ImageDraws
from memory_defense.threat import Linf

BALL = Linf(0.1)
IMAGES = grey([0.42, 0.45, 0.48, 0.2, 0.55, 0.9])
LABELS = torch.tensor([0, 0, 0, 0, 1, 1])


class Told:
    """A display that keeps what it is told."""

    def __init__(self) -> None:
        self.lines = list[str]()

    def begin(self, what: str, total: int) -> None:
        self.lines.append(f"{what} {total}")

    def advance(self, steps: int, text: str = "") -> None:
        self.lines += [text] if text else []

    def note(self, text: str) -> None:
        self.lines.append(text)


class Idle:
    """An attack without gradients that finds nothing, and keeps how many images it saw."""

    gradient_free = True

    def __init__(self) -> None:
        self.seen = list[int]()

    def __call__(self, model: Classifier, images: Tensor, labels: Tensor, ball: Ball, draws: Draws) -> Tensor:
        self.seen.append(len(images))
        return images.clone()

    def for_transfer(self) -> Idle:
        return self


def case(name: str, attack, ball: Ball = BALL, **options) -> Case:
    return Case(name=name, attack=attack, knowledge="end-to-end", ball=ball, purpose="cascade", **options)


def test_what_is_not_wanted_leaves_no_trace() -> None:
    spare, asked = Idle(), list[int]()

    def wanted(found) -> str:
        asked.append(int(found.broken[0].robust.sum()))
        return ""

    progress = Told()
    cases, options = [case("idle", Idle())], Options(progress=progress)
    reserve = Reserve((case("spare", spare),), wanted)
    found = evaluate(Undefended(Brightness()), IMAGES, LABELS, cases, options, reserve=reserve)
    assert asked == [6]
    assert spare.seen == []
    plain = evaluate(Undefended(Brightness()), IMAGES, LABELS, cases, Options())
    assert found.cases == plain.cases
    stages = [[stage.attack for stage in one.cascades[0].stages] for one in (found, plain)]
    assert stages == [["idle"], ["idle"]]
    assert not [line for line in progress.lines if "spare" in line]
    assert "attacking 1" in progress.lines


def test_what_is_wanted_attacks_what_stands_and_says_why() -> None:
    spare, progress = Idle(), Told()
    cases = [case("pgd", Pgd(steps=5))]
    reserve = Reserve((case("spare", spare), case("nes", Nes(queries=60, pairs=5))), lambda _: "as they fell")
    options = Options(progress=progress)
    found = evaluate(Undefended(Brightness()), IMAGES, LABELS, cases, options, reserve=reserve)
    assert spare.seen == [2], "those that PGD did not break"
    assert [(stage.attack, stage.tried, stage.note) for stage in found.cascades[0].stages] == [
        ("pgd", 6, ""),
        ("spare", 2, "as they fell"),
        ("nes", 2, "as they fell"),
    ]
    assert [line for line in progress.lines if "as they fell" in line][:2] == [
        "spare: as they fell",
        "nes: as they fell",
    ]
    assert int(found.broken[0].robust.sum()) == 2
    assert found.worst_cases()[0].accuracy == 2 / 6


def test_it_counts_what_the_reserve_breaks() -> None:
    cases = [case("idle", Idle()), case("idle", Idle(), Linf(0.06))]
    reserve = Reserve(
        tuple(case("nes", Nes(queries=200, pairs=5), ball) for ball in (BALL, Linf(0.06))), lambda _: "to be sure"
    )
    found = evaluate(Undefended(Brightness()), IMAGES, LABELS, cases, Options(), reserve=reserve)
    assert [one.accuracy for one in found.worst_cases()] == [3 / 6, 2 / 6]
    stages = [one.stages for one in found.cascades]
    assert [[stage.attack for stage in one] for one in stages] == [["idle", "nes"], ["idle", "nes"]]
    assert [one[1].first for one in stages] == [3, 1], "what the smaller ball breaks counts in the larger one"


def test_an_attack_in_reserve_is_made_when_it_is_wanted() -> None:
    made = list[Nes]()

    def make() -> Nes:
        made.append(Nes(queries=200, pairs=5))
        return made[-1]

    def run(why: str):
        reserve = Reserve((case("nes", Later("nes", make)),), lambda _: why)
        return evaluate(
            Undefended(Brightness()), IMAGES, LABELS, [case("idle", Idle())], Options(), reserve=reserve
        )

    run("")
    assert not made
    found = run("to be sure")
    assert len(made) == 1
    stage = found.cascades[0].stages[1]
    assert (stage.attack, stage.first, stage.parameters["queries"]) == ("nes", 4, 200)
    images, draws = IMAGES[:2], ImageDraws.of(0, "a", 2)
    for later, plain in (
        (Later("nes", make), made[0]),
        (Later("nes", make).for_transfer(), made[0].for_transfer()),
    ):
        both = [one(Brightness(), images, LABELS[:2], BALL, draws) for one in (later, plain)]
        assert torch.equal(*both)


def test_where_nothing_stands_nobody_asks() -> None:
    def wanted(found) -> str:
        raise AssertionError(found)

    cases = [case("pgd", Pgd(steps=5), Linf(0.5))]
    reserve = Reserve((case("spare", Idle(), Linf(0.5)),), wanted)
    found = evaluate(Undefended(Brightness()), IMAGES, LABELS, cases, Options(), reserve=reserve)
    assert not found.broken[0].robust.any()


def test_an_unknown_knowledge_in_reserve_is_refused_before_anything_runs() -> None:
    idle = Idle()
    reserve = Reserve((replace(case("spare", Idle()), knowledge="telepathy"),), lambda _: "so")
    with pytest.raises(ValueError, match="telepathy"):
        evaluate(Undefended(Brightness()), IMAGES, LABELS, [case("idle", idle)], Options(), reserve=reserve)
    assert idle.seen == []


class Counts(Told):
    """A display that knows after how many calls each stage began."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.begun = 0, dict[str, int]()

    def begin(self, what: str, total: int) -> None:
        self.begun[f"{what} {total}"] = self.calls

    def advance(self, steps: int, text: str = "") -> None:
        self.calls += 1


@pytest.mark.parametrize("later", [1, 2, 3])
def test_stopped_in_the_reserve_it_goes_on_there(tmp_path, monkeypatch, later) -> None:
    monkeypatch.setattr(store, "SAVE_SECONDS", 0.0)
    state, options, counts = tmp_path / "state", Options(chunk=8), Counts()
    whole = scenario.run(options=replace(options, progress=counts))
    stop = scenario.StopAt(counts.begun["attacking 2"] + later)
    with pytest.raises(KeyboardInterrupt):
        scenario.run(options=replace(options, progress=stop), state_file=state)
    left = Counts()
    again = scenario.run(options=replace(options, progress=left), state_file=state)
    assert left.calls < counts.calls - later
    for one, other in zip(scenario.outcomes(again).values(), scenario.outcomes(whole).values(), strict=True):
        assert torch.equal(one, other)
    assert not state.exists()


def test_what_was_begun_is_ended_though_nobody_wants_it_now(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(store, "SAVE_SECONDS", 0.0)

    class Stopping(Idle):
        def __call__(self, *problem) -> Tensor:
            found = super().__call__(*problem)
            if len(self.seen) == 2:
                raise KeyboardInterrupt
            return found

    def run(attack, why: str):
        reserve = Reserve((case("spare", attack),), lambda _: why)
        chosen = Options(chunk=3)
        return evaluate(
            Undefended(Brightness()),
            IMAGES,
            LABELS,
            [case("idle", Idle())],
            chosen,
            reserve=reserve,
            state_file=tmp_path / "state",
        )

    monkeypatch.setattr(Idle, "__repr__", lambda _: "the same", raising=False)
    with pytest.raises(KeyboardInterrupt):
        run(Stopping(), "as it seemed")
    later = Idle()
    found = run(later, "")
    assert later.seen == [3]
    stage = found.cascades[0].stages[1]
    assert (stage.attack, stage.tried, stage.note) == ("spare", 6, "added before the evaluation was stopped")
