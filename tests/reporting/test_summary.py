"""The first page: every ball, the audit in a sentence, what was not run and why."""

from __future__ import annotations

import re
from pathlib import Path

from memory_defense import evaluation
from memory_defense.evaluation.record import Accuracy, AuditLine, CascadeRecord, CascadeStage
from memory_defense.reporting import Section
from memory_defense.reporting.summary import NEED_CURVE, NEED_TABLE, NEED_TRANSFER
from reporting.pages import Page, report


def test_the_summary_names_every_ball_with_its_interval(tmp_path, record):
    text = report(tmp_path, Section("s", record))
    start = text.index('id="summary"')
    summary = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", text[start : text.index('id="headline"')]))
    for worst in record.worst_case[2:]:
        ball = {"linf": "L-inf 25/255", "l2": "L2 1.5"}[worst.norm]
        low, high = worst.ci95
        assert f"worst case, {ball} {worst.accuracy:.1%} [{low:.1%}, {high:.1%}]".replace(
            "%", ""
        ) in summary.replace(" %", "")
    for words in (
        "Audit: No check casts doubt on these numbers; the failed ones describe the defense",
        "1 of 3 checks failed, 1 passed and 1 was not run.",
        "Checks not run: “square”.",
    ):
        assert words in summary
    assert "PGD-40, knowledge selector: leaves 1.3 % right" in summary


def test_what_is_flagged_is_shown_and_explained(tmp_path, record):
    worst = record.worst_case[2].model_copy(update={"undetected": Accuracy(accuracy=0.456, ci95=(0.42, 0.49))})
    flagging = record.model_copy(update={"worst_case": (worst, *record.worst_case[3:])})
    text = report(tmp_path, Section("flags", flagging), Section("does not", record))
    page = Page(text)
    assert page.all("data-record").count("/worst_case/0/undetected/accuracy") == 3
    assert re.sub(r"\s+", " ", page.text).count("45.6") >= 3
    assert "A flagged image is reported as suspicious" in " ".join(page.text.split())
    assert "right or flagged" not in Page(report(tmp_path, Section("does not", record))).text.lower()


def test_a_cascade_alone_says_why_checks_were_not_run(tmp_path, factory):
    names = (*sorted(NEED_TABLE), *sorted(NEED_CURVE), *sorted(NEED_TRANSFER), "square")
    lines = tuple(AuditLine(check=n, verdict="not run", value=None, meaning="m", remedy="r") for n in names)
    stage = CascadeStage(
        attack="pgd-margin", knowledge="end-to-end", role="main", tried=931, fooled=900, first=890,
        disagreements=0, forward_passes=1, backward_passes=1, seconds=1.0, parameters={"steps": 20},
    )  # fmt: skip
    cascade = CascadeRecord(norm="linf", epsilon=25 / 255, stages=(stage,))
    text = Page(report(tmp_path, Section("s", factory(attacks=(), cascades=(cascade,), audit=lines)))).text
    assert text.count("Why it was not run:") == len(names) - 1
    assert "broke 890 images before any other attack, of 931 that it tried" in text
    assert text.count("had not broken (a cascade)") == len(NEED_TABLE)


def test_checks_with_a_reason_exist():
    """The names are those of the audit's own lines."""
    sources = "".join(path.read_text() for path in Path(evaluation.__file__).parent.glob("audit/*.py"))
    for name in NEED_TABLE | NEED_CURVE | NEED_TRANSFER:
        assert f'"{name}"' in sources
