"""Detection tables: every number is the record's, and every renderer shows them."""

from __future__ import annotations

import json
from typing import Any

from memory_defense.evaluation.record import Accuracy, DetectionResult, Record, Separation
from memory_defense.reporting import Section, markdown, terminal_tables, write_report
from memory_defense.reporting.latex import latex
from memory_defense.reporting.tables import detection_tables


def share(value: float) -> Accuracy:
    return Accuracy(accuracy=value, ci95=(max(0.0, value - 0.02), min(1.0, value + 0.03)))


def separation(auroc: float) -> Separation:
    return Separation(images=80, auroc=auroc, tpr_at_1=0.123, tpr_at_5=0.456, flagged=share(0.234))


def result(**changes: Any) -> DetectionResult:
    values: dict[str, Any] = {
        "attack": "pgd-margin",
        "knowledge": "end-to-end",
        "norm": "linf",
        "epsilon": 25 / 255,
        "fights_flag": False,
        "score": "reconstruction",
        "false_alarms": 0.01,
        "threshold": 0.0321,
        "calibration_images": 5000,
        "attacked": separation(0.912),
        "fooled": separation(0.887),
        "clean_flagged": share(0.013),
        "clean_right": share(0.905),
        "attacked_right": share(0.345),
        "parameters": {"steps": 20},
    }
    return DetectionResult(**{**values, **changes})


def with_detection(record: Record) -> Record:
    fought = result(fights_flag=True, knowledge="silent", fooled=None, attacked_right=share(0.021))
    found = result(attack="all attacks, first to fool", knowledge="any", attacked=None)
    return record.model_copy(update={"detection": (result(), fought, found)})


def test_a_record_without_detection_has_no_tables(record) -> None:
    assert detection_tables(record) == ()


def test_the_numbers_are_the_records(record) -> None:
    separate, flag = detection_tables(with_detection(record))
    assert [str(cell) for cell in separate.rows[0]] == [
        "pgd-margin, end-to-end", "L-inf 25/255", "ignored", "reconstruction",
        "0.912", "0.887", "12.3", "12.3", "45.6", "45.6",
    ]  # fmt: skip
    assert [cell.text for cell in separate.rows[1]][4:] == ["0.912", "–", "12.3", "–", "45.6", "–"]
    assert [cell.text for cell in separate.rows[2]][4:] == ["–", "0.887", "–", "12.3", "–", "45.6"]
    assert separate.rows[2][0].text == "all attacks, first to fool"
    assert [cell.text for cell in flag.rows[0]][4:] == ["1.3", "23.4", "90.5", "34.5"]
    assert [cell.text for cell in flag.rows[1]][2:] == ["fought", "reconstruction", "1.3", "–", "90.5", "2.1"]
    assert [row[-1].strong for row in flag.rows] == [False, True, False]
    assert flag.rows[0][-1].detail == "[32.5, 37.5]"
    assert "1.0 % false alarms come from 5,000 held-out clean images" in flag.notes[0]


def test_every_number_says_where_it_stands(record) -> None:
    whole = with_detection(record)
    content = json.loads(whole.model_dump_json(by_alias=True))
    for table in detection_tables(whole):
        for row in table.rows:
            for cell, column in zip(row, table.columns, strict=True):
                assert bool(cell.source) == (column.numeric and cell.text != "–")
                if cell.source:
                    value: Any = content
                    for key in cell.source.strip("/").split("/"):
                        value = value[int(key) if isinstance(value, list) else key]
                    assert cell.text in (f"{value:.3f}", f"{100 * value:.1f}")


def test_every_renderer_shows_them(record, tmp_path) -> None:
    section = Section("A system", with_detection(record))
    titles = [str(table.title) for table in terminal_tables([section])]
    assert [title for title in titles if "Detection" in title] == [
        "A system: Detection: how well the scores separate", "A system: Detection: the flag at its threshold",
    ]  # fmt: skip
    for text in (markdown([section]), latex([section])):
        assert "0.912" in text
        assert "the flag at its threshold" in text
    write_report(tmp_path / "r.html", [section], title="T")
    page = (tmp_path / "r.html").read_text()
    assert "Detection: the flag at its threshold" in page
    assert "0.887" in page
