"""Total loss at a stated cost of a flag: the definition, image by image, and what a record may say of it."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_defense.evaluation.consistency import contradiction
from memory_defense.evaluation.record import Record, SelectionResult
from memory_defense.evaluation.rejection import rejection_losses, selection_result

EVERY = list(itertools.product((False, True), repeat=4))
"""right, flagged, lost, alarmed, in every combination."""


def columns(rows: list[tuple[bool, ...]]) -> list[torch.Tensor]:
    return [torch.tensor(column) for column in zip(*rows, strict=True)]


def result(rows: list[tuple[bool, ...]], costs: tuple[float, ...] = (0.1, 0.3)) -> SelectionResult:
    return selection_result(*columns(rows), costs=costs, norm="linf", epsilon=0.1, near=0.01)


def by_hand(right: bool, flagged: bool, lost: bool, alarmed: bool, cost: float, near: bool) -> float:
    """Return what an adversary's best image costs, read off the definition."""
    if lost or (not right and not flagged):
        return 1.0
    return cost if flagged or (near and alarmed) else 0.0


def test_a_wrong_answer_costs_one_a_flag_its_cost_and_the_rest_nothing() -> None:
    lost, flagged = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    assert rejection_losses(lost, flagged, 0.25).tolist() == [1, 1, 0.25, 0]


@settings(deadline=None)
@given(rows=st.lists(st.sampled_from(EVERY), min_size=1, max_size=30), cost=st.floats(0, 1))
def test_the_total_is_the_mean_of_the_definition(rows: list[tuple[bool, ...]], cost: float) -> None:
    found = result(rows, (cost,))
    for name, near in (("loss", False), ("loss_near", True)):
        expected = sum(by_hand(*row, cost, near) for row in rows) / len(rows)
        assert getattr(found.losses[0], name) == pytest.approx(expected, abs=1e-9)


def test_the_shares_are_counted() -> None:
    found = result(EVERY)
    right_accepted = [row for row in EVERY if row[0] and not row[1]]
    assert found.clean_right_accepted.accuracy == len(right_accepted) / 16
    assert found.clean_right_flagged.accuracy == 4 / 16
    assert found.clean_wrong_accepted.accuracy == 4 / 16
    assert found.wrong_accepted.accuracy == (8 + 2) / 16, "lost, and wrong and accepted when clean"
    assert found.robust.accuracy == 2 / 16
    assert found.flagged.accuracy == 4 / 16
    assert found.flagged_near.accuracy == 5 / 16


def test_extremes() -> None:
    refuses = [(True, True, False, True)] * 4
    answers = [(True, False, True, False)] * 3 + [(True, False, False, False)]
    assert [one.loss for one in result(refuses, (0.0, 0.3, 1.0)).losses] == [0, pytest.approx(0.3), 1]
    assert [one.loss for one in result(answers, (0.0, 1.0)).losses] == [0.75, 0.75]


@pytest.mark.parametrize("cost", [-0.1, 1.5, float("nan")])
def test_a_cost_that_is_none_is_refused(cost: float) -> None:
    with pytest.raises(ValueError, match="the cost of a flag is"):
        rejection_losses(torch.tensor([True]), torch.tensor([True]), cost)


def record_with(selection: SelectionResult, images: int, right: int) -> Record:
    from memory_defense.evaluation.metrics import accuracy
    from memory_defense.evaluation.provenance import provenance

    return Record(
        defense="rectified/tiny",
        recipe="",
        dataset="fashion-mnist",
        images=images,
        clean=accuracy(right, images),
        attacks=(),
        worst_case=(),
        selection=(selection,),
        audit=(),
        provenance=provenance(0, torch.device("cpu"), ""),
    )


def test_a_record_comes_back_and_what_cannot_be_is_told(tmp_path) -> None:
    record = record_with(result(EVERY), 16, 8)
    record.write(tmp_path / "r.json")
    assert Record.read(tmp_path / "r.json") == record
    one = record.selection[0]
    loss = one.losses[0].model_copy(update={"loss": 0.5})
    for change, said in (
        ({"robust": one.wrong_accepted}, "more than clean_right_accepted"),
        ({"wrong_accepted": one.flagged}, "parts give"),
        ({"clean_right_flagged": one.robust}, "right when clean"),
        ({"flagged_near": one.robust}, "more than flagged_near"),
        ({"losses": (loss, *one.losses[1:])}, r"losses.0.loss is 0.5"),
    ):
        damaged = record.model_copy(update={"selection": (one.model_copy(update=change),)})
        assert said in contradiction(damaged.model_dump(mode="json")), change


def test_a_record_from_before_has_no_selection() -> None:
    content = record_with(result(EVERY), 16, 8).model_dump(mode="json", by_alias=True)
    del content["selection"]
    assert Record.model_validate(content).selection == ()
    assert contradiction(content) == ""
