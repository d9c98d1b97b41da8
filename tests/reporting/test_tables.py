from __future__ import annotations

from memory_defense.evaluation.record import BatchInvariance, Record
from memory_defense.reporting import tables
from memory_defense.reporting.cells import Table
from memory_defense.reporting.failures import audit_sentence
from memory_defense.reporting.rows import Section


def shown(entry) -> str:
    """An independent rendering of an accuracy, to compare cells with."""
    low, high = entry.ci95
    return f"{entry.accuracy:.1%} [{low:.1%}, {high:.1%}]".replace("%", "")


def by_name(table: Table) -> dict[str, dict[str, str]]:
    titles = [column.title for column in table.columns]
    return {row[0].text: dict(zip(titles, map(str, row), strict=True)) for row in table.rows}


def test_every_row_has_as_many_cells_as_columns(record, bare):
    for each in (record, bare):
        for table in (
            tables.headline_table([Section("s", each)]),
            tables.matrix_table(each),
            tables.results_table(each),
            tables.curve_table(each, "linf"),
            tables.audit_table(each),
        ):
            assert all(len(row) == len(table.columns) for row in table.rows)


def test_headline_cells_are_the_records_numbers(record):
    table = tables.headline_table([Section("mine", record)])
    cells = [str(cell) for cell in table.rows[0]]
    paper = record.attacks[0]
    linf, l2 = record.worst_case[2], record.worst_case[3]
    assert cells == ["mine", shown(record.clean), shown(paper), shown(linf), shown(l2)]
    assert [cell.strong for cell in table.rows[0]] == [False, False, False, True, True]
    assert [str(column) for column in table.columns] == [
        "system",
        "clean",
        "the paper's attack (PGD-40, L-inf 25/255; spares the selector)",
        "worst case (L-inf 25/255)",
        "worst case (L2 1.5)",
    ]


def test_different_protocols_are_named_in_their_cells(record, factory, attacked):
    other = factory(attacks=(attacked("fixed-slots", 0.7, epsilon=0.1), attacked("selector", 0.2, epsilon=0.1)))
    table = tables.headline_table([Section("a", record), Section("b", other)])
    assert table.columns[2].note == "spares the selector"
    assert [row[2].detail.split("] ")[1] for row in table.rows] == [
        "(PGD-40, L-inf 25/255)",
        "(PGD-40, L-inf 0.1)",
    ]


def test_without_the_papers_protocol_there_is_no_such_column(factory, attacked):
    table = tables.headline_table([Section("a", factory(attacks=(attacked("selector", 0.2),)))])
    assert not any("paper" in str(column) for column in table.columns)


def test_matrix_has_attacks_by_knowledge(record):
    table = tables.matrix_table(record)
    assert [str(column) for column in table.columns] == [
        "attack",
        "ball",
        "fixed slots (the paper's attack, spares the selector)",
        "selector",
        "end-to-end",
        "worst case",
    ]
    first = [str(cell) for cell in table.rows[0]]
    assert first == ["PGD-40", "L-inf 25/255", *(shown(record.attacks[k]) for k in range(3)), ""]
    assert [str(cell) for cell in table.rows[1]][2:] == ["–", shown(record.attacks[3]), "–", ""]


def test_the_worst_case_stands_once_for_each_ball_at_its_end(record):
    rows = tables.matrix_table(record).rows
    filled = [(str(row[1]), str(row[-1])) for row in rows if row[-1].text]
    assert filled == [
        ("L-inf 25/255", shown(record.worst_case[2])),
        ("L2 1.5", shown(record.worst_case[3])),
    ]
    assert [row[0].strong for row in rows] == [False, False, True, False, True]


def test_settings_that_differ_get_lines_of_their_own(factory, attacked):
    runs = (
        attacked("selector", 0.31, loss="dlr"),
        attacked("selector", 0.32, loss="cross-entropy"),
        attacked("end-to-end", 0.33, loss="dlr"),
        attacked("end-to-end", 0.34, loss="dlr"),
    )
    cells = by_name(tables.matrix_table(factory(attacks=runs, worst_case=())))
    assert set(cells) == {"PGD-40 (loss=dlr)", "PGD-40 (loss=cross-entropy)", "PGD-40 (loss=dlr, run 2)"}
    assert cells["PGD-40 (loss=dlr)"]["selector"] == shown(runs[0])
    assert cells["PGD-40 (loss=dlr)"]["end-to-end"] == shown(runs[2])
    assert cells["PGD-40 (loss=cross-entropy)"]["end-to-end"] == "–"
    assert cells["PGD-40 (loss=dlr, run 2)"]["end-to-end"] == shown(runs[3])


def test_no_result_is_lost_in_the_matrix(record):
    printed = {str(cell) for row in tables.matrix_table(record).rows for cell in row}
    wanted = {shown(result) for result in record.attacks if "purpose" not in result.parameters}
    assert wanted <= printed
    assert not {shown(result) for result in record.attacks if "purpose" in result.parameters} & printed


def test_results_table_tells_the_cost(record):
    first = [str(cell) for cell in tables.results_table(record).rows[0]]
    assert first == [
        "PGD-40",
        "fixed slots",
        "L-inf",
        "25/255",
        shown(record.attacks[0]),
        "0.0975",
        "12.3",
        "41,000",
        "40,000",
    ]


def test_curve_table_holds_every_point_of_the_figure(record):
    table = tables.curve_table(record, "linf")
    assert [row[0].text for row in table.rows] == ["0 (clean)", "2/255", "8/255", "25/255"]
    assert [str(row[1]) for row in table.rows[1:]] == [shown(result) for result in record.attacks[5:8]]
    assert [str(row[2]) for row in table.rows[1:]] == [shown(result) for result in record.attacks[8:11]]
    assert [str(row[3]) for row in table.rows] == [shown(e) for e in (record.clean, *record.worst_case[:3])]


def test_audit_table_tells_verdicts_in_words(record):
    table, brief = tables.audit_table(record), tables.audit_table(record, explained=False)
    assert [str(row[1]) for row in table.rows] == ["✗ fail", "✓ pass", "– not run"]
    assert [str(row[1]) for row in brief.rows] == ["✗ fail", "– not run"]
    assert table.rows[0][0].text.startswith("The answer is the class of the chosen memory slot")
    assert table.rows[0][0].text.endswith("(check: slot-following)")
    assert brief.notes == (audit_sentence(record),)


def test_a_record_without_attacks_says_so(bare: Record):
    assert tables.matrix_table(bare).rows == ()
    assert tables.matrix_table(bare).notes == ("No attack was run.",)
    assert [column.title for column in tables.headline_table([Section("s", bare)]).columns] == [
        "system",
        "clean",
    ]
    assert tables.audit_table(bare).notes == (audit_sentence(bare),)


def test_the_provenance_says_what_was_measured_of_batches_and_nothing_of_old_records(record):
    said = {
        BatchInvariance(granule=16): "the same in any batch and order, in passes of multiples of 16",
        BatchInvariance(granule=None): "batch and order may change them",
        BatchInvariance(granule=None, randomised=True): "drawn at random",
    }
    for measured, text in said.items():
        table = tables.provenance_table(record.model_copy(update={"batch_invariance": measured}))
        assert by_name(table)["answers"]["value"] == text
    assert record.batch_invariance is None
    assert "answers" not in by_name(tables.provenance_table(record))
