from __future__ import annotations

from memory_defense.evaluation.record import CertifiedResult, WorstCase
from memory_defense.reporting import rows
from memory_defense.reporting.rows import Section
from memory_defense.reporting.tables import headline_table, results_table
from memory_defense.reporting.wording import MISSING, knowledge_label, number


def test_result_rows_are_the_records_numbers(record):
    kept = [result for result in record.attacks if "purpose" not in result.parameters]
    table = results_table(record)
    assert len(table.rows) == len(kept) == 5
    for row, result in zip(table.rows, kept, strict=True):
        low, high = (100 * end for end in result.ci95)
        assert str(row[4]) == f"{100 * result.accuracy:.1f} [{low:.1f}, {high:.1f}]"
        assert row[1].text == knowledge_label(result.knowledge)
        assert row[2].text == {"linf": "L-inf", "l2": "L2"}[result.norm]
        assert row[5].text == number(result.median_distance)
        assert row[6].text == f"{result.seconds:.1f}"
        assert [cell.text for cell in row[7:]] == [f"{result.forward_passes:,}", f"{result.backward_passes:,}"]
        place = record.attacks.index(result)
        assert [cell.source.rpartition("/")[0] for cell in row[3:]] == [f"/attacks/{place}"] * 6
    assert [row[0].text for row in table.rows] == ["PGD-40", "PGD-40", "PGD-40", "FGSM", "PGD-40"]
    assert [row[3].text for row in table.rows] == ["25/255"] * 4 + ["1.5"]


def test_worst_cases_of_curve_balls_stay_out_of_tables(record):
    kept = [(worst.norm, worst.epsilon) for worst in rows.table_worst_cases(record)]
    assert kept == [("linf", 25 / 255), ("l2", 1.5)]


def test_a_worst_case_without_any_attack_is_kept(factory):
    record = factory(attacks=(), worst_case=(WorstCase(norm="linf", epsilon=0.1, accuracy=0.5, ci95=(0.4, 0.6)),))
    assert len(rows.table_worst_cases(record)) == 1


def test_paper_result_prefers_the_papers_own_setting(factory, attacked):
    candidates = (
        attacked("fixed-slots", 0.1, epsilon=0.3),
        attacked("fixed-slots", 0.2, steps=10),
        attacked("fixed-slots", 0.3),
        attacked("fixed-slots", 0.4, norm="l2"),
        attacked("fixed-slots", 0.5, name="fgsm", steps=1),
        attacked("selector", 0.0),
        attacked("fixed-slots", 0.0, purpose="curve"),
    )
    for turn in range(len(candidates)):
        turned = candidates[turn:] + candidates[:turn]
        assert rows.paper_result(factory(attacks=turned)) == candidates[2]
    assert rows.paper_result(factory(attacks=candidates[5:])) is None


def test_headline_aligns_balls_over_systems(record, factory):
    other = factory(worst_case=(WorstCase(norm="linf", epsilon=0.1, accuracy=0.5, ci95=(0.4, 0.6)),))
    balls, lines = rows.headline([Section("a", record), Section("b", other)])
    assert [(norm, round(epsilon, 3)) for norm, epsilon in balls] == [
        ("linf", 0.098),
        ("linf", 0.1),
        ("l2", 1.5),
    ]
    assert [None if worst is None else worst.accuracy for worst in lines[0].worst] == [0.011, None, 0.206]
    assert [None if worst is None else worst.accuracy for worst in lines[1].worst] == [None, 0.5, None]


def test_answer_names_clean_and_every_worst_case(record, bare):
    text = rows.answer(Section("a", record)).replace("\N{NO-BREAK SPACE}", " ")
    assert "93.1 % of 1,000 clean images" in text
    assert text.endswith("1.1 % at L-inf 25/255 and 20.6 % at L2 1.5.")
    assert "not attacked" in rows.answer(Section("a", bare))


def test_caution_only_when_the_selector_was_spared(record, factory, attacked, bare):
    assert rows.caution(record) == ""
    assert rows.caution(bare) == ""
    assert "never attacked" in rows.caution(factory(attacks=(attacked("fixed-slots", 0.8),)))


def test_curve_points_are_sorted_and_unique(factory, attacked):
    record = factory(
        attacks=(
            attacked("selector", 0.4, epsilon=0.1, purpose="curve"),
            attacked("selector", 0.3, epsilon=0.1, purpose="curve", loss="dlr"),
            attacked("selector", 0.9, epsilon=0.01, purpose="curve"),
            attacked("selector", 0.93, epsilon=0.0, purpose="curve"),
            attacked("fixed-slots", 0.9, epsilon=0.1, purpose="curve"),
            attacked("selector", 0.1, epsilon=0.2),
        )
    )
    lines = rows.curve_points(record, "linf")
    assert list(lines) == ["fixed-slots", "selector"]
    assert [(r.epsilon, r.accuracy) for r in lines["selector"]] == [(0.01, 0.9), (0.1, 0.3)]
    assert rows.curve_norms(record) == ("linf",)


def test_audit_puts_failures_first(record):
    assert [line.verdict for line in rows.audit_lines(record)] == ["fail", "pass", "not run"]


def _proof(epsilon: float, accuracy: float, method: str = "intervals", norm: str = "linf") -> CertifiedResult:
    return CertifiedResult(
        method=method, norm=norm, epsilon=epsilon, accuracy=accuracy, ci95=(0.0, 1.0), images=10, seconds=1.0
    )


def test_the_headline_has_what_is_proven_beside_what_was_attacked(record, factory):
    proofs = (_proof(0.0, 0.9), _proof(0.1, 0.6), _proof(0.1, 0.7, "better"), _proof(0.5, 0.3, norm="l2"))
    sections = [Section("attacked", record), Section("proven", factory(attacks=(), certified=proofs))]
    balls, found = rows.proven(sections)
    assert balls == (("linf", 0.1), ("l2", 0.5))
    assert found == ((None, None), (proofs[2], proofs[3]))
    table = headline_table(sections)
    assert [column.title for column in table.columns][-2:] == ["proven", "proven"]
    assert [[cell.text for cell in row[-2:]] for row in table.rows] == [[MISSING, MISSING], ["70.0", "30.0"]]
    assert [row[-2].source for row in table.rows] == ["", "/certified/2/accuracy"]
    assert any(note.startswith("Proven: ") for note in table.notes)
    assert not any(column.title == "proven" for column in headline_table(sections[:1]).columns)
