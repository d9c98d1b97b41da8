"""Words are explained where they are first met, and none that is not used."""

from __future__ import annotations

import pytest

from evaluation.test_record import certified, make
from memory_defense.reporting import Section
from memory_defense.reporting.words import change_text, first_table, words
from reporting.pages import Page, report


@pytest.mark.parametrize(
    ("norm", "epsilon", "text"),
    [
        ("linf", 9 / 255, "each pixel by at most 9 of 255 grey levels"),
        ("linf", 0.1, "each pixel by at most 0.1 (black is 0, white is 1)"),
        ("l2", 1.5, "all pixels together by at most 1.5 (the square root of the sum of the squared changes)"),
        ("l1", 3.0, "by at most 3 in the norm l1"),
    ],
)
def test_how_far_an_image_may_be_changed(norm, epsilon, text):
    assert change_text(norm, epsilon) == text


def test_only_what_is_used_is_explained(record, bare):
    assert [word.key for word in words([Section("s", record)])] == [
        "clean",
        "paper",
        "worst-case",
        "ball",
        "knowledge",
    ]
    assert [word.key for word in words([Section("s", bare)])] == ["clean"]
    proven = make().model_copy(
        update={"attacks": (), "cascades": (), "worst_case": (), "certified": (certified(0.25, 7, 9),)}
    )
    assert [word.key for word in words([Section("s", proven)])] == ["clean", "proven", "flagged", "ball"]


def test_every_ball_is_explained(record):
    (ball,) = [word for word in words([Section("s", record)]) if word.key == "ball"]
    assert ball.term == "L-inf and L2"
    assert "L-inf 25/255: each pixel by at most 25 of 255 grey levels; L2 1.5: all pixels" in ball.meaning


def test_the_words_of_the_bars_lead_to_their_meaning(tmp_path, record):
    page = Page(report(tmp_path, Section("s", record)))
    terms = {attrs["href"] for tag, attrs in page.tags if tag == "a" and attrs.get("class") == "term"}
    assert terms == {"#word-clean", "#word-paper", "#word-worst-case"}
    assert {target.removeprefix("#") for target in terms} <= set(page.all("id"))


def test_two_reports_of_one_recipe_have_different_titles(tmp_path, record):
    titles = [report(tmp_path, Section(name, record)).split("<title>")[1].split("</title>")[0] for name in "ab"]
    assert titles == ["Report: a", "Report: b"]


def test_the_first_table_has_a_system_in_each_column_and_its_numbers(record):
    table = first_table([Section("mine", record), Section("other", record.model_copy(update={"worst_case": ()}))])
    assert [column.title for column in table.columns] == [
        "right answers, in % of 1,000 test images",
        "mine",
        "other",
    ]
    rows = {row[0].text: [str(cell) for cell in row[1:]] for row in table.rows}
    assert rows["clean: the images are unchanged"] == ["93.1 [91.4, 94.5]"] * 2
    linf = f"right under all attacks tried, which may change {change_text('linf', 25 / 255)}"
    assert rows[f"worst case, L-inf 25/255: {linf}"] == ["1.1 [0.6, 2.0]", "–"]
    assert all(len(row) == 3 for row in table.rows)
    assert table.notes[-1] == "–: not measured."


def test_the_first_table_says_what_is_proven():
    proven = make().model_copy(update={"certified": (certified(0.25, 7, 9),)})
    said = [row[0].text for row in first_table([Section("s", proven)]).rows]
    assert any(
        text.startswith("proven, L2 0.25: right under any attack that changes all pixels together") for text in said
    )
