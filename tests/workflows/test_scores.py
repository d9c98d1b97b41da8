"""The attack in reserve, which makes its gradient from scores: where it is carried on, and who pays nothing."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from torch import nn

import memory_defense
from evaluation.audit.fooling_anew import HoldsSignsSmoothly, LogitsBehind
from evaluation.audit.honest import HONEST, shapes
from memory_defense import Options, Record
from memory_defense.evaluation.results import Reserve
from memory_defense.recipes.fashion_mnist import TINY
from memory_defense.systems.load import load
from memory_defense.threat import L2, Linf
from memory_defense.workflows import assess, evaluate, suspicion
from memory_defense.workflows.suspicion import SCORES_ALONE, in_reserve
from paper.made_up import made_up_splits, tiny_run

EPSILON = 0.15
ASTRAY, MISSED = "is not that of the answers", "broke what gradients had missed"


@cache
def honest() -> nn.Module:
    return HONEST["dropout"]()


def evaluated(model, attacks="brief", count=8, epsilon=EPSILON, **also) -> Record:
    images, labels = (one[:count] for one in shapes(10, 32, seed=5))
    return memory_defense.evaluate(model.eval(), images, labels, epsilon=epsilon, attacks=attacks, seed=0, **also)


def stages(record: Record):
    return {stage.attack: stage for stage in record.cascades[0].stages}


def passes(record: Record) -> list[tuple[str, int, int]]:
    return [(one.attack, one.forward_passes, one.backward_passes) for one in record.cascades[0].stages]


def signs() -> nn.Module:
    """Return a network that counts signs of the images that are judged; its gradient shows nothing of them."""
    images, labels = shapes(10, 32, seed=5)
    return HoldsSignsSmoothly(honest(), images[:8], labels[:8])


class Counted(nn.Module):
    """Counts the images that it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.asked = honest(), list[int]()

    def forward(self, images):
        self.asked.append(len(images))
        return self.network(images)


@pytest.mark.parametrize("epsilon", [EPSILON, 0.03])
def test_an_honest_network_is_asked_no_more_than_without_a_reserve(monkeypatch, epsilon) -> None:
    """At the smaller radius images stand, so that the check is asked, and its line is the audit's."""
    model, without = Counted(), Counted()
    record = evaluated(model, epsilon=epsilon, batch_size=64)
    monkeypatch.setattr(evaluate, "in_reserve", lambda _: lambda _: ())
    plain = evaluated(without, epsilon=epsilon, batch_size=64)
    assert (record.worst_case[0].accuracy == 0) == (epsilon == EPSILON)
    assert SCORES_ALONE not in stages(record)
    assert passes(record) == passes(plain)
    assert sum(model.asked) == sum(without.asked)
    assert [(line.check, line.verdict, line.value) for line in record.audit] == [
        (line.check, line.verdict, line.value) for line in plain.audit
    ]
    assert record.notes == plain.notes


def test_where_squares_break_what_gradients_do_not_it_follows_and_says_so(tmp_path) -> None:
    record = evaluated(signs(), out=tmp_path / "record.json")
    assert "no gradient-free attack finds what gradients miss" in {
        line.check for line in record.audit if line.verdict == "fail"
    }
    assert (record.worst_case[0].accuracy or 0) <= 1 / 8
    scores = stages(record)[SCORES_ALONE]
    assert scores.tried == 8 - sum(one.first for name, one in stages(record).items() if name != SCORES_ALONE)
    assert scores.first > 0
    assert MISSED in scores.note
    assert sum(scores.note in note for note in record.notes) == 1
    assert Record.read(tmp_path / "record.json").cascades == record.cascades
    assert not list(tmp_path.glob("*progress*")), "nothing to go on from is left"


def test_where_gradients_miss_hardly_any_image_nothing_follows(monkeypatch) -> None:
    found = suspicion.black_box_stronger
    monkeypatch.setattr(suspicion, "black_box_stronger", lambda one: found(one).model_copy(update={"value": 0.02}))
    record = evaluated(signs())
    assert SCORES_ALONE not in stages(record)
    assert any(line.verdict == "fail" and "gradient-free" in line.check for line in record.audit)


def test_where_the_gradient_is_anothers_it_follows_the_suite(monkeypatch) -> None:
    monkeypatch.setattr(suspicion, "_QUERIES", 50)
    images, labels = shapes(10, 32, seed=5)
    record = evaluated(LogitsBehind(honest(), images, labels))
    assert ASTRAY in stages(record)[SCORES_ALONE].note
    assert list(stages(record))[-1] == SCORES_ALONE


@pytest.mark.parametrize(
    ("names", "kept"),
    [("fast", 1), ("brief", 1), ("pgd,fast", 1), ("pgd", 0), ("standard", 0), ("glimpse", 0), ("fast,nes", 0)],
)
def test_our_suites_have_a_reserve_unless_it_is_asked_for_anyway(names, kept) -> None:
    assert len(in_reserve(names)("linf")) == len(in_reserve(names)("l2")) == kept


def test_a_stopped_evaluation_of_a_masked_model_goes_on_in_its_reserve(tmp_path, monkeypatch) -> None:
    class Stops:
        def begin(self, what: str, total: int) -> None:
            pass

        def advance(self, steps: int, text: str = "") -> None:
            if SCORES_ALONE in text:
                raise KeyboardInterrupt

        def note(self, text: str) -> None:
            pass

    monkeypatch.setattr(evaluate, "audit", lambda *_, **__: ())
    place = tmp_path / "record.json"
    whole = evaluated(signs())
    with pytest.raises(KeyboardInterrupt):
        evaluated(signs(), out=place, options=Options(progress=Stops()))
    assert list(tmp_path.glob("*progress*"))
    again = evaluated(signs(), out=place)
    assert passes(again) == passes(whole)
    assert again.worst_case == whole.worst_case
    assert [stage.note for stage in again.cascades[0].stages] == [stage.note for stage in whole.cascades[0].stages]


@pytest.mark.parametrize(
    ("suite", "knowledge", "balls"),
    [
        ("brief", None, ["linf", "l2"]),
        ("brief", ("end-to-end",), ["linf", "l2"]),
        ("brief", ("selector",), []),
        ("glimpse", None, []),
        (None, None, []),
    ],
)
def test_the_evaluation_of_a_run_has_the_same_reserve(tmp_path, monkeypatch, suite, knowledge, balls) -> None:
    class SeenError(Exception):
        pass

    def attack_all(*_, reserve: Reserve | None = None, **__):
        found.extend(reserve.cases if reserve else ())
        raise SeenError

    found = []
    splits = made_up_splits()
    run = tiny_run(tmp_path / "run", splits)
    monkeypatch.setattr(evaluate, "attack_all", attack_all)
    recipe = replace(
        TINY,
        evaluation=replace(
            TINY.evaluation, suite=suite, knowledge=knowledge, linf=(Linf(0.1),), l2=(L2(0.5),), images=4
        ),
    )
    with pytest.raises(SeenError):
        assess.assess(recipe, run, load(run.path), splits)
    assert [case.ball.norm for case in found] == balls
    assert {case.knowledge for case in found} <= {"end-to-end"}
    assert {case.name for case in found} <= {SCORES_ALONE}
