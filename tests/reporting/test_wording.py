from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_defense.evaluation.record import Accuracy
from memory_defense.reporting import wording


@given(st.integers(1, 254).filter(lambda level: level % 51))
def test_whole_grey_levels_are_written_as_such(level):
    assert wording.epsilon_text(level / 255) == f"{level}/255"
    assert wording.epsilon_text(round(level / 255, 7)) == f"{level}/255"


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [
        (0.0, "0"),
        (0.1, "0.1"),
        (0.3, "0.3"),
        (1.5, "1.5"),
        (0.2, "0.2"),
        (1.0, "1"),
        (0.0314, "0.0314"),
        (3.0, "3"),
    ],
)
def test_other_radii_are_decimals(epsilon, text):
    assert wording.epsilon_text(epsilon) == text


def test_percent_and_interval_have_one_decimal():
    accuracy = Accuracy(accuracy=0.8604, ci95=(0.8375, 0.9))
    assert wording.percent(accuracy.accuracy) == "86.0"
    assert wording.interval(accuracy) == "[83.8, 90.0]"


@pytest.mark.parametrize(
    ("name", "parameters", "label"),
    [
        ("pgd", {"steps": 40}, "PGD-40"),
        ("fgsm", {"steps": 1}, "FGSM"),
        ("square", {"queries": 5000}, "Square"),
        ("my\x1battack", {"steps": 2}, "my\N{REPLACEMENT CHARACTER}attack-2"),
        ("pgd", {"steps": True}, "PGD"),
    ],
)
def test_attack_label(attacked, name, parameters, label):
    assert wording.attack_label(attacked("selector", 0.5, name=name, **{"steps": None, **parameters})) == label


def test_known_names_come_first_in_their_order():
    names = ["zebra", "undefended", "fixed-slots", "alpha", "end-to-end", "selector"]
    assert sorted(names, key=wording.knowledge_order) == [
        "fixed-slots",
        "selector",
        "end-to-end",
        "undefended",
        "alpha",
        "zebra",
    ]
    assert sorted(["l2", "l1", "linf"], key=wording.norm_order) == ["linf", "l2", "l1"]


def test_plain_keeps_letters_and_drops_what_steers_a_terminal():
    assert wording.plain("Größe 5 %") == "Größe 5 %"
    assert wording.plain("a\x1b[31m\nb\u202ec") == "a\N{REPLACEMENT CHARACTER}[31m b\N{REPLACEMENT CHARACTER}c"


@pytest.mark.parametrize(
    ("parts", "text"), [(["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_joined(parts, text):
    assert wording.joined(parts) == text


def test_number():
    assert wording.number(None) == wording.MISSING
    assert wording.number(0.123456) == "0.1235"
