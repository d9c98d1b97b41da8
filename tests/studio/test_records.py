"""Records are rendered by reporting: the page's tables are its tables, cell for cell."""

import pytest

from memory_defense.reporting import Section, headline_table, matrix_table
from memory_defense.studio.records import records_of, report_of
from memory_defense.studio.runs import Runs
from reporting.conftest import make_record


@pytest.fixture
def evaluated(own_root) -> Runs:
    make_record().write(own_root / "first" / "record.json")
    return Runs(own_root)


def test_tables_are_the_report_s(evaluated) -> None:
    shown = records_of(list(evaluated.all().values()))
    record = make_record()
    headline = headline_table([Section(title="first", record=record)])
    assert [[cell.text for cell in row] for row in shown.headline.rows] == [
        [cell.text for cell in row] for row in headline.rows
    ]
    (one,) = shown.records
    assert one.run == "first"
    matrix = matrix_table(record)
    assert one.tables[0].title == matrix.title
    assert [[cell.detail for cell in row] for row in one.tables[0].rows] == [
        [cell.detail for cell in row] for row in matrix.rows
    ]
    assert one.tables[-1].title.startswith("Audit")
    assert shown.faults == []


def test_a_damaged_record_is_named_and_the_others_shown(evaluated, own_root) -> None:
    (own_root / "deeper" / "second" / "record.json").write_text("{}")
    shown = records_of(list(evaluated.all().values()))
    assert [one.run for one in shown.records] == ["first"]
    (fault,) = shown.faults
    assert fault.startswith("deeper/second: ")


def test_without_records_there_is_no_headline(root) -> None:
    assert records_of(list(Runs(root).all().values())).headline is None


def test_the_report_is_the_usual_page(evaluated) -> None:
    page = report_of(evaluated.find("first"))
    assert page.startswith("<!doctype html>")
    for text in ("first", "93.1", "20.6"):
        assert text in page
    with pytest.raises(ValueError, match="memdef evaluate"):
        report_of(evaluated.find("deeper/second"))


def test_the_report_is_served_in_a_sandbox(client, root, library, monkeypatch, own_root) -> None:
    make_record().write(own_root / "first" / "record.json")
    monkeypatch.setattr(library, "runs", Runs(own_root))
    answer = client.get("/report", params={"run": "first"})
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox;")
    assert "script-src" not in policy
    assert "default-src 'none'" in policy
    assert client.get("/report", params={"run": "../first"}).status_code == 422
