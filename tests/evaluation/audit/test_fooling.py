"""Defenses that mislead the evaluation: what is reported is the truth, or a failed check names the cause.

The truth by hand is what the network behind them leaves standing, the same for all. Here stand some of each kind,
differing in mechanism, under one attack; ``benchmarks/audit_fooling.py`` tries all, with more.
"""

from functools import cache

import pytest
import torch

import memory_defense
from evaluation.audit.fooling import HOLDING, LEARNING, LEVELS
from evaluation.audit.fooling_anew import ANEW_HELD, ANEW_LABELS, ANEW_LEVELS, ANEW_STATE
from evaluation.audit.fooling_answers import FURTHER_LABELS, FURTHER_LEVELS
from evaluation.audit.fooling_elsewhere import HOLDING_MORE, LEARNING_ELSEWHERE, LEVELS_MORE
from evaluation.audit.fooling_further import FURTHER_HELD, FURTHER_STATE
from evaluation.audit.honest import HONEST, shapes
from memory_defense import Options, Record
from memory_defense.reporting.failures import verdict
from memory_defense.workflows import suspicion
from memory_defense.workflows.suspicion import LABELS_ALONE

EPSILON = 0.15
COUNT = 32
TOO_HIGH = 0.05

LEARNS = {
    "earlier questions change no answer",
    "the order of questions changes no answer",
    "answering leaves files and networks alone",
}
HOLDS = {
    "images never seen withstand as those judged do",
    "answers change gradually on the way to images never seen",
    "answers do not switch half-way between images",
    "the model holds none of the images judged",
}
TELLS = {"images between two grey levels are answered as those at whole ones"}
MASKS = {
    "no gradient-free attack finds what gradients miss",
    "the margin loss has a gradient",
    "the cross-entropy has a gradient",
    "the gradient is that of the answers",
}
ALL = {
    **{name: (made, LEARNS) for name, made in (LEARNING | LEARNING_ELSEWHERE | FURTHER_STATE | ANEW_STATE).items()},
    **{name: (made, HOLDS) for name, made in (HOLDING | HOLDING_MORE | FURTHER_HELD | ANEW_HELD).items()},
    **{name: (made, TELLS) for name, made in (LEVELS | LEVELS_MORE | FURTHER_LEVELS | ANEW_LEVELS).items()},
    **{name: (made, MASKS) for name, made in (FURTHER_LABELS | ANEW_LABELS).items()},
}
TRIED = (
    "a buffer that fills",
    "an open file's number",
    "a generator's own names",
    "attributes of libraries",
    "pulled back onto the stored image",
    "scrambled bits, smoothly within a radius",
    "which blocks are brighter",
    "the gradient turned round",
    "counted levels",
    "the sum of levels",
    "a coroutine's own names",
    "bumps around moved copies",
    "digits read as text",
    "logits, before a decoy",
)


@cache
def network():
    return HONEST["dropout"]()


def evaluated(model, attacks="brief", count=COUNT) -> Record:
    images, labels = (one[:count] for one in shapes(10, COUNT, seed=5))
    return memory_defense.evaluate(
        model.eval(), images, labels, epsilon=EPSILON, attacks=attacks, options=Options(seed=0)
    )


@cache
def truth(attacks="brief") -> float:
    found = evaluated(network(), attacks).worst_case[0].accuracy
    assert found is not None
    return found


@pytest.mark.parametrize("name", TRIED)
def test_what_misleads_is_named(name) -> None:
    made, names = ALL[name]
    record = evaluated(made(network(), *shapes(10, COUNT, seed=5)), "pgd")
    failed = {line.check for line in record.audit if line.verdict == "fail"}
    true = (record.worst_case[0].accuracy or 0) <= truth("pgd") + TOO_HIGH
    assert failed & names or true
    if failed & names:
        assert verdict(record).startswith("Do not rely"), "the headline says so"
    if names == TELLS or name == "attributes of libraries":
        assert true, "it is attacked at whole levels, or as it was before its first answer"


class LabelsWithAGradient(torch.autograd.Function):
    """One-hot answers, however sure by a number of their own, in front of the network's gradient turned round."""

    @staticmethod
    def forward(ctx, logits):
        label = torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1])
        return label * (3.0 + label.argmax(1, keepdim=True))

    @staticmethod
    def backward(ctx, *slopes):
        return -slopes[0]


def test_labels_behind_a_gradient_meet_an_attack_that_sees_labels_alone(monkeypatch) -> None:
    monkeypatch.setattr(suspicion, "_QUERIES", 150)
    behind = network()
    record = evaluated(torch.nn.Sequential(behind, Answered()), count=8)
    assert LABELS_ALONE in {stage.attack for stage in record.cascades[0].stages}
    assert verdict(record) or (record.worst_case[0].accuracy or 0) <= truth() + TOO_HIGH


class Answered(torch.nn.Module):
    def forward(self, logits):
        return LabelsWithAGradient.apply(logits)
