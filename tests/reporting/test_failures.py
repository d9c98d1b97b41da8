"""Failed checks are said as failures; the first page says what weighs most, and no more than that."""

from __future__ import annotations

import html
import re
from pathlib import Path
from string import Formatter

import pytest

from memory_defense.evaluation.record import AuditLine
from memory_defense.reporting import Section, headline_markdown
from memory_defense.reporting.failures import (
    FAILURES,
    audit_sentence,
    failed_lines,
    failure,
    verdict,
    weight_of,
)
from memory_defense.reporting.rows import caution
from reporting.pages import report

AUDIT_PAGE = Path(__file__).parents[2] / "docs" / "audit.md"


def line(check: str, verdict: str = "fail", value: float | None = 0.25) -> AuditLine:
    return AuditLine.model_validate(
        {"check": check, "verdict": verdict, "value": value, "meaning": "share of it", "remedy": "mend it"}
    )


def named(weight: str) -> str:
    """The first check of this weight."""
    return next(name for name, one in FAILURES.items() if one.weight == weight)


def test_every_check_of_the_documentation_has_a_sentence_of_its_own():
    tables = re.findall(r"^\| Check \|.*\n\|[-|: ]+\n((?:\|.*\n)+)", AUDIT_PAGE.read_text(encoding="utf-8"), re.M)
    checks = [row.split("|")[1].strip() for table in tables for row in table.splitlines()]
    assert len(checks) > 30
    assert [name for name in checks if name not in FAILURES] == []


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_a_sentence_that_is_not_the_checks_name(name):
    said = failure(line(name))
    assert name.lower() not in said.lower()
    assert re.fullmatch(r"[A-Z\d].*\.", said)
    assert "{" not in said
    assert {field for _, field, _, _ in Formatter().parse(FAILURES[name].sentence) if field} <= {"value", "share"}
    assert failure(line(name, value=None)).count("None") == 0


def test_numbers_are_said_as_shares_or_as_they_are():
    assert "25.0 % of the images" in failure(line("slot-following"))
    assert "1.417 times epsilon" in failure(line("step no larger than epsilon", value=1.41666))


def test_a_check_that_is_not_known_is_described_by_its_meaning():
    said = failure(line("nothing is odd", value=0.5))
    assert said == "The check “nothing is odd” failed: share of it (found: 0.5)."
    assert weight_of(line("nothing is odd")) == "doubt"


def test_what_weighs_most_comes_first(factory):
    checks = [named(weight) for weight in ("note", "doubt", "decisive")]
    record = factory(audit=tuple(map(line, checks)))
    assert [weight_of(one) for one in failed_lines(record)] == ["decisive", "doubt", "note"]


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        ("decisive", "The robust accuracy may be far too high: 1 of 2 checks failed, 1 passed and 0 were not run."),
        ("doubt", "The robust accuracy may be somewhat too high: 1 of 2 checks failed"),
        ("note", "No check casts doubt on these numbers; the failed ones describe"),
    ],
)
def test_the_audit_in_one_sentence(factory, weight, words):
    record = factory(audit=(line(named(weight)), line("another", "pass")))
    assert audit_sentence(record).startswith(words)


def test_nothing_failed_and_nothing_run(factory, bare):
    assert audit_sentence(factory(audit=(line("a", "pass"),))) == (
        "No check casts doubt on these numbers: none of 1 checks failed, 1 passed and 0 were not run."
    )
    assert "No check was run" in audit_sentence(bare)
    assert verdict(bare) == ""


def test_a_failed_check_that_carries_the_verdict_stands_in_the_headline(tmp_path, factory):
    name = "asking leaves the defense as it was"
    record = factory(audit=(line(name, value=3.0),))
    said = failure(line(name, value=3.0))
    assert caution(record).startswith("Do not rely on these numbers")
    assert said in caution(record)
    assert "Do not rely on these numbers" in headline_markdown([Section("s", record)])
    text = report(tmp_path, Section("s", record))
    first = html.unescape(text[text.index("<body") : text.index('id="words-title"')])
    assert said in first


def test_other_failures_do_not(factory):
    record = factory(audit=(line(named("doubt")), line(named("note"))))
    assert verdict(record) == ""
    assert caution(record) == ""


def test_more_than_two_such_checks_are_counted(factory):
    decisive = [name for name, one in FAILURES.items() if one.weight == "decisive"][:5]
    assert "3 more such checks failed" in verdict(factory(audit=tuple(map(line, decisive))))


def test_the_page_says_each_failure_once_and_keeps_the_rest_behind_a_click(tmp_path, factory):
    record = factory(audit=(line("slot-following"), line("gradients", "pass"), line("square", "not run", None)))
    text = report(tmp_path, Section("s", record))
    audit = text[text.index('class="audit"') :]
    shown, folded = audit[: audit.index("<details>")], audit[audit.index("<details>") :]
    assert failure(line("slot-following")) in html.unescape(shown)
    assert "gradients" not in shown
    assert "square" not in shown
    assert all(name in folded for name in ("slot-following", "gradients", "square"))
