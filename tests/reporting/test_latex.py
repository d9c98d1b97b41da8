"""LaTeX: balanced, escaped, rectangular, and the record's numbers."""

from __future__ import annotations

import re

from memory_defense.evaluation.record import AuditLine
from memory_defense.reporting.cells import Cell, Column, Table
from memory_defense.reporting.latex import escaped, latex, latex_table
from memory_defense.reporting.rows import Section
from memory_defense.reporting.tables import headline_table

NASTY = r"50% of_x & {y} #1 $z$ ~^ \cmd [a] <b> | * – 1×2"


def check_syntax(text: str) -> None:
    """Balanced groups and environments, no bare special, and rows as wide as their tabular."""
    text = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    plain = re.sub(r"\\[\\{}%&_#$]", "", text)  # escaped characters and row ends
    depth = 0
    for letter in plain:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
    assert depth == 0
    assert plain.count("$") % 2 == 0
    assert "%" not in plain
    assert "#" not in plain
    assert not re.search(r"(?<!\\label\{tab:)_", plain)
    assert "^" not in plain
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    for columns, body in re.findall(r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", text, re.S):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert rows
        for row in rows:
            assert len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1
            assert not row.startswith("[")
        rules = re.findall(r"\\(toprule|midrule|bottomrule)", body)
        assert rules == ["toprule", "midrule", "bottomrule"]


def test_every_table_of_a_report(record, bare):
    text = latex([Section("One & only_100%", record), Section("Bare {", bare)])
    check_syntax(text)
    assert text.count(r"\begin{tabular}") == 5
    assert r"\caption{One \& only\_100\%: Attacks by knowledge.}" in text


def test_specials_are_escaped_once():
    assert escaped(NASTY) == (
        r"50\% of\_x \& \{y\} \#1 \$z\$ \textasciitilde{}\textasciicircum{} \textbackslash{}cmd {[}a{]} "
        r"\textless{}b\textgreater{} \textbar{} {*} -- 1$\times$2"
    )
    cells = (Cell(NASTY, NASTY, strong=True), Cell("1.0", "[0.5, 2.0]", strong=True))
    table = Table(NASTY, (Column(NASTY, NASTY, numeric=False), Column("n")), (cells,), (NASTY,))
    check_syntax(latex_table(table))


def test_numbers_are_the_records(record):
    text = latex_table(headline_table([Section("mine", record)]))
    for entry in (record.clean, record.worst_case[3]):
        low, high = (f"{100 * bound:.1f}" for bound in entry.ci95)
        assert f"{{[}}{low}, {high}{{]}}" in text
    assert r"\textbf{1.1}" in text
    assert r"\begin{tabular}{lrrrr}" in text


def test_the_audits_texts_do_not_break_it(factory):
    lines = (AuditLine(check=NASTY, verdict="fail", value=0.5, meaning=NASTY, remedy=NASTY),)
    check_syntax(latex([Section("s", factory(audit=lines))]))


def test_labels_are_plain(record):
    labels = re.findall(r"\\label\{(.*?)\}", latex([Section("A_b & C", record)]))
    assert len(set(labels)) == len(labels)
    assert all(re.fullmatch(r"tab:[a-z0-9-]+", label) for label in labels)
