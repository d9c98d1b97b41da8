"""The paper's tables beside ours: every cell comes from where it says, and none is empty."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from memory_defense.evaluation.record import Accuracy, AttackResult, Record, WorstCase
from memory_defense.paper.printed.published import TABLE_5
from memory_defense.paper.printed.reproduced import LINES, markdown, page, reproduced

RADIUS = 25 / 255


def attack(knowledge: str, accuracy: float, **other) -> AttackResult:
    values = {
        "attack": "fgsm",
        "norm": "linf",
        "epsilon": RADIUS,
        "median_distance": None,
        "forward_passes": 1,
        "backward_passes": 1,
        "seconds": 0.1,
        "parameters": {},
    }
    return AttackResult(knowledge=knowledge, accuracy=accuracy, ci95=(0.0, 1.0), **(values | other))


@pytest.fixture
def slots(record: Record) -> Record:
    """A record in which the published protocol looks well and the selector does not."""
    return record.model_copy(
        update={
            "clean": Accuracy(accuracy=0.92, ci95=(0.9, 0.94)),
            "attacks": (
                attack("fixed-slots", 0.9),
                attack("fixed-slots", 0.1, epsilon=0.3),
                attack("selector", 0.25),
                attack("end-to-end", 0.5),
            ),
            "worst_case": (
                WorstCase(accuracy=0.2, ci95=(0.1, 0.3), norm="linf", epsilon=RADIUS),
                WorstCase(accuracy=0.05, ci95=(0.0, 0.1), norm="linf", epsilon=0.3),
            ),
        }
    )


def test_the_four_lines_of_a_system(slots: Record) -> None:
    made = reproduced(TABLE_5, [("memory-defense", slots, "row.json")], scale="cpu")
    (system,) = made.systems
    assert made.head == ("Clean", "FGSM 25/255")
    assert {name: [cell.text for cell in system.lines[name]] for name in LINES} == {
        "published": ["92.36", "90.03"],
        "its protocol": ["92.0", "90.0"],
        "strongest knowledge": ["92.0", "25.0"],
        "worst case": ["92.0", "20.0"],
    }
    assert [cell.source for cell in system.lines["strongest knowledge"]] == ["clean", "attacks[2]"]
    assert [cell.source for cell in system.lines["worst case"]] == ["clean", "worst_case[0]"]


def test_a_system_that_the_paper_lacks_has_no_published_number(slots: Record) -> None:
    with pytest.raises(ValueError, match="no FGSM 25/255 with the knowledge oblivious"):
        reproduced(TABLE_5, [("magnet", slots, "row.json")], scale="cpu")
    made = reproduced(TABLE_5, [("memory-defense-sound", slots, "row.json")], scale="cpu")
    assert [cell.text for cell in made.systems[0].lines["published"]] == ["–", "–"]
    assert "not in the paper" in made.systems[0].title
    with pytest.raises(ValueError, match="no row 'somebody'"):
        reproduced(TABLE_5, [("somebody", slots, "row.json")], scale="cpu")


def test_a_record_that_lacks_a_cell_is_refused(slots: Record) -> None:
    with pytest.raises(ValueError, match="evaluate it again"):
        reproduced(TABLE_5, [("memory-defense", slots.model_copy(update={"attacks": ()}), "r")], scale="cpu")
    with pytest.raises(ValueError, match="no worst case"):
        reproduced(TABLE_5, [("memory-defense", slots.model_copy(update={"worst_case": ()}), "r")], scale="cpu")


def test_both_forms_show_every_cell(slots: Record) -> None:
    table = reproduced(TABLE_5, [("memory-defense", slots, "a/b.json")], scale="cpu")
    text, html = markdown(table), page([table], "A <title>")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(LINES)
    assert len({line.count("|") for line in rows}) == 1
    assert all(cell.strip() for line in rows[2:] for cell in line.split("|")[3:-1])
    assert "A &lt;title&gt;" in html
    shown = re.findall(r"<td(?: title=\"[^\"]*\")?>([^<]*)</td>", html)
    assert shown == [cell.text for name in LINES for cell in table.systems[0].lines[name]]
    assert 'href="a/b.json"' in html


def test_a_missing_score_is_printed_as_the_paper_does(slots: Record) -> None:
    row = replace(TABLE_5.rows[-1], scores=((92.36,), (None,)))
    made = reproduced(replace(TABLE_5, rows=(row,)), [(row.key, slots, "r")], scale="cpu")
    assert made.systems[0].lines["published"][1].text == "NA"


def test_a_row_that_stays_under_its_published_number_is_explained_below_the_table(slots: Record) -> None:
    near = reproduced(TABLE_5, [("memory-defense", slots, "r")], scale="cpu")
    row = replace(TABLE_5.rows[-1], scores=((92.36,), (96.5,)))
    far = reproduced(replace(TABLE_5, rows=(row,)), [(row.key, slots, "r")], scale="cpu")
    assert far.remarks[: len(near.remarks)] == near.remarks
    (said,) = far.remarks[len(near.remarks) :]
    assert said.startswith("Memory Defense, under the attack of its own protocol: 6.5 points under the published")
