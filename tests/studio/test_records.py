"""Records are rendered by reporting: the page's tables are its tables, cell for cell."""

import pytest

from memory_defense import zoo
from memory_defense.reporting import Section, headline_table, matrix_table
from memory_defense.reporting.rows import table_worst_cases
from memory_defense.studio.records import records_of, report_of
from memory_defense.studio.runs import Runs
from reporting.conftest import make_record


@pytest.fixture
def evaluated(own_root) -> Runs:
    make_record().write(own_root / "first" / "record.json")
    return Runs(own_root)


def texts(table, *titles: str) -> list[list[str]]:
    """Return the cells of the columns that begin with these titles."""
    wanted = [place for place, column in enumerate(table.columns) if column.title.startswith(titles)]
    return [[f"{row[place].text} {row[place].detail}" for place in wanted] for row in table.rows]


def test_tables_are_the_report_s(evaluated) -> None:
    shown = records_of(evaluated)
    record = make_record()
    headline = headline_table([Section(title="first", record=record)])
    numbers = ("clean", "worst case")
    assert [row[0].text for row in shown.headline.rows] == ["first"]
    assert texts(shown.headline, *numbers) == texts(headline, *numbers)
    (one,) = shown.records
    assert (one.name, one.run) == ("first", True)
    matrix = matrix_table(record)
    assert one.tables[0].title == matrix.title
    assert [[cell.detail for cell in row] for row in one.tables[0].rows] == [
        [cell.detail for cell in row] for row in matrix.rows
    ]
    assert one.tables[-1].title.startswith("Audit")
    assert shown.faults == []


def test_a_record_s_numbers_and_failed_checks_come_first(evaluated) -> None:
    (one,) = records_of(evaluated).records
    record = make_record()
    worst = table_worst_cases(record)
    assert 0 < len(worst) < len(record.worst_case), "those of the curve alone are left out, as in the report"
    assert [number.name for number in one.numbers] == ["clean", "worst case, L-inf 25/255", "worst case, L2 1.5"]
    assert {f"{number.text} {number.detail}" for number in one.numbers} == {
        f"{100 * found.accuracy:.1f} [{100 * found.ci95[0]:.1f}, {100 * found.ci95[1]:.1f}]"
        for found in (record.clean, *worst)
    }
    failed = [line for line in record.audit if line.verdict == "fail"]
    assert failed
    assert [check.check for check in one.failed] == [line.check for line in failed]
    assert [check.remedy for check in one.failed] == [line.remedy for line in failed]
    assert one.audit.startswith(f"Audit: {len(failed)} of {len(record.audit)} checks failed, ")


def test_records_of_classifiers_without_a_run_are_listed(own_root, tmp_path) -> None:
    """Whatever the file is called, in any of the folders given; other JSON files are left alone."""
    mine = tmp_path / "mine"
    (mine / "deep").mkdir(parents=True)
    make_record().write(own_root / "first" / "record.json")
    make_record().write(own_root / "first" / "gated.json")
    for path in (mine / "a.json", mine / "deep" / "record.json"):
        make_record().model_copy(update={"defense": "package.module:Net"}).write(path)
    (mine / "settings.json").write_text('{"schema": 1, "recipe": 3}')
    (mine / "list.json").write_text("[1, 2]")
    shown = records_of(Runs(own_root, mine))
    assert [(one.name, one.run) for one in shown.records] == [
        ("mine/a.json", False),
        ("mine/deep/record.json", False),
        ("runs/first/gated.json", False),
        ("runs/first", True),
    ]
    assert [one.title for one in shown.records] == [
        "package.module:Net (mine/a.json)",
        "package.module:Net (mine/deep/record.json)",
        "memory-defense",
        "runs/first",
    ]
    assert shown.faults == []
    assert [place.split(" (")[0] for place in shown.looked] == [str(own_root), str(mine)]
    assert "package.module:Net" in report_of(Runs(own_root, mine).evaluation("mine/a.json"))


def test_without_a_folder_only_the_files_right_here_are_looked_at(tmp_path) -> None:
    (tmp_path / "below").mkdir()
    make_record().write(tmp_path / "mine.json")
    make_record().write(tmp_path / "below" / "other.json")
    shown = records_of(Runs(flat=tmp_path, shipped=zoo.ROOT))
    assert [one.name for one in shown.records] == ["./mine.json", *(f"zoo:{name}" for name in zoo.entries())]
    assert shown.looked[-1] == "what comes with the package"


def test_no_record_is_reached_by_a_name_that_was_not_listed(evaluated, own_root) -> None:
    outside = own_root.parent / "outside.json"
    make_record().write(outside)
    (own_root / "linked.json").symlink_to(outside)
    for name in ("linked.json", "../outside.json", str(outside), "first/record.json", ""):
        with pytest.raises(ValueError, match="unknown record"):
            evaluated.evaluation(name)


def test_a_damaged_record_is_named_and_the_others_shown(evaluated, own_root) -> None:
    (own_root / "deeper" / "second" / "record.json").write_text("{}")
    (own_root / "record.json").write_text("{")
    shown = records_of(evaluated)
    assert [one.name for one in shown.records] == ["first"]
    assert [fault.split(": ")[0] for fault in shown.faults] == ["record.json", "deeper/second"]


def test_without_records_there_is_no_headline(root) -> None:
    assert records_of(Runs(root)).headline is None


def test_the_report_is_the_usual_page(evaluated) -> None:
    page = report_of(evaluated.evaluation("first"))
    assert page.startswith("<!doctype html>")
    for text in ("first", "93.1", "20.6"):
        assert text in page
    with pytest.raises(ValueError, match="make one with: memdef evaluate"):
        evaluated.evaluation("deeper/second")


def test_the_report_is_served_in_a_sandbox(client, root, library, monkeypatch, own_root) -> None:
    make_record().write(own_root / "first" / "record.json")
    monkeypatch.setattr(library, "runs", Runs(own_root))
    answer = client.get("/report", params={"name": "first"})
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox;")
    assert "script-src" not in policy
    assert "default-src 'none'" in policy
    assert client.get("/report", params={"name": "../first"}).status_code == 422
