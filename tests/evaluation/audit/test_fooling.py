"""Defenses that mislead the evaluation: what is reported is the truth, or a failed check names the cause."""

from functools import cache

import pytest

import memory_defense
from evaluation.audit.fooling import HOLDING, LEARNING, LEVELS
from evaluation.audit.honest import HONEST, shapes
from memory_defense import Options, Record
from memory_defense.reporting.failures import verdict

EPSILON = 0.15
COUNT = 32
TOO_HIGH = 0.05

LEARNS = {"earlier questions change no answer", "answering leaves files and networks alone"}
HOLDS = {
    "images never seen withstand as those judged do",
    "answers change gradually on the way to images never seen",
    "answers do not switch half-way between images",
    "the model holds none of the images judged",
}
TELLS = {"images between two grey levels are answered as those at whole ones"}
EVERY = [
    *((name, made, LEARNS) for name, made in LEARNING.items()),
    *((name, made, HOLDS) for name, made in HOLDING.items()),
    *((name, made, TELLS) for name, made in LEVELS.items()),
]


@cache
def network():
    return HONEST["dropout"]()


def evaluated(model) -> Record:
    images, labels = shapes(10, COUNT, seed=5)
    return memory_defense.evaluate(
        model.eval(), images, labels, epsilon=EPSILON, attacks="brief", options=Options(seed=0)
    )


@cache
def truth() -> float:
    found = evaluated(network()).worst_case[0].accuracy
    assert found is not None
    return found


@pytest.mark.parametrize(("name", "made", "names"), EVERY, ids=[name for name, *_ in EVERY])
def test_what_misleads_is_named(name, made, names) -> None:
    record = evaluated(made(network(), *shapes(10, COUNT, seed=5)))
    failed = {line.check for line in record.audit if line.verdict == "fail"}
    assert failed & names or (record.worst_case[0].accuracy or 0) <= truth() + TOO_HIGH
    if failed & names:
        assert verdict(record).startswith("Do not rely"), "the headline says so"


@pytest.mark.parametrize("name", ["logits of what is near", "global names and a class", "a buffer that fills"])
def test_what_learns_is_attacked_as_it_was_before_its_first_answer(name) -> None:
    record = evaluated(LEARNING[name](network(), *shapes(10, COUNT, seed=5)))
    assert (record.worst_case[0].accuracy or 0) <= truth() + TOO_HIGH


@pytest.mark.parametrize("name", LEVELS)
def test_what_tells_levels_is_attacked_at_whole_ones(name) -> None:
    record = evaluated(LEVELS[name](network(), *shapes(10, COUNT, seed=5)))
    assert (record.worst_case[0].accuracy or 0) <= truth() + TOO_HIGH
