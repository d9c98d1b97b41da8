"""A model card says what the record says, and hides no failed check."""

from __future__ import annotations

import json
import re

from memory_defense.evaluation.record import AuditLine
from memory_defense.reporting.card import CardSubject, model_card

SUBJECT = CardSubject(name="mine", channels=1, size=28, classes=("a_b", "c"), parts={"recipe": "tiny"})


def front_matter(card: str) -> dict[str, object]:
    start, block, _ = card.split("---\n", 2)
    assert start == ""
    return {key: json.loads(value) for key, value in (line.split(": ", 1) for line in block.splitlines())}


def test_front_matter_holds_the_records_numbers(record):
    values = front_matter(model_card(SUBJECT, record))
    (result,) = values["model-index"][0]["results"]
    assert [metric["value"] for metric in result["metrics"]] == [
        record.clean.accuracy,
        record.worst_case[2].accuracy,
        record.worst_case[3].accuracy,
    ]
    assert [metric["name"] for metric in result["metrics"]][1:] == [
        "accuracy, worst case L-inf 25/255",
        "accuracy, worst case L2 1.5",
    ]
    assert values["license"] == "mit"
    assert values["datasets"] == [record.dataset]


def test_tables_hold_every_attack(record):
    card = model_card(SUBJECT, record)
    for entry in (record.clean, *record.attacks[:5], *record.worst_case[2:]):
        low, high = entry.ci95
        assert re.search(rf"\b{100 * entry.accuracy:.1f}\*{{0,2}} \[{100 * low:.1f}, {100 * high:.1f}\]", card), (
            entry
        )
    assert f"{record.images:,} test images" in card


def test_failed_checks_are_all_there(factory):
    lines = tuple(
        AuditLine(check=f"check {n}", verdict="fail", value=n / 10, meaning="It is so", remedy="Mend_it")
        for n in range(5)
    )
    card = model_card(SUBJECT, factory(audit=lines))
    assert all(f"failed: It is so (found: {n / 10:.4g}).** (check {n}: {n / 10:.4g}.)" in card for n in range(5))
    assert "5 of 5 checks failed" in card
    assert r"Mend\_it" in card


def test_an_unattacked_model_makes_no_claim(bare):
    card = model_card(SUBJECT, bare)
    for words in (
        "It was not attacked",
        "No check was run",
        "Attacks: none was run.",
        "Most effective attack: none",
    ):
        assert words in card
    assert "nothing is known about its robustness" in card


def test_it_says_how_to_load_it(record):
    card = model_card(SUBJECT, record)
    assert 'memory_defense.load("mine")' in card
    assert "(B, 1, 28, 28)" in card
    assert "## Intended use" in card
    assert "## Limits" in card
