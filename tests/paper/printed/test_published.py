"""The paper's tables as constants: their shape, and that reproductions have every row."""

from __future__ import annotations

import pytest

from memory_defense import names
from memory_defense.paper.printed.published import PUBLISHED, TABLE_1, TABLE_5
from memory_defense.paper.printed.reproduced import ADDED
from memory_defense.recipes.scales import rows_at

TABLES = [table for tables in PUBLISHED.values() for table in tables]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
def test_every_row_has_a_number_for_every_cell(table) -> None:
    for row in table.rows:
        assert [len(group) for group in row.scores] == [column.cells for column in table.columns]
        for group in row.scores:
            assert all(score is None or 0 < score <= 100 for score in group)


def test_reproductions_have_the_papers_rows_first_and_in_its_order() -> None:
    assert names.TABLES.keys() == PUBLISHED.keys()
    for name, tables in PUBLISHED.items():
        for table in tables:
            keys = tuple(row.key for row in table.rows)
            assert names.TABLES[name][: len(keys)] == keys
            assert set(names.TABLES[name][len(keys) :]) <= set(ADDED)
            for scale in names.SCALES:
                assert set(names.TABLES[name]) <= set(rows_at(scale, table.dataset))


def test_what_two_tables_share_is_the_same_in_both() -> None:
    first = {row.key: row for row in TABLE_1.rows}
    for row in TABLE_5.rows:
        if row.key in first:
            assert row.scores[0] == first[row.key].scores[0]
            assert row.scores[1][0] == first[row.key].scores[1][1]  # FGSM at 25/255
