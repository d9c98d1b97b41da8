"""Records of several systems beside each other: tables for the terminal, Markdown, and one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from rich.table import Table as RichTable

from memory_defense.evaluation.comparison import Comparison, Measure
from memory_defense.evaluation.proportions import Difference
from memory_defense.evaluation.published import Published
from memory_defense.evaluation.record import Accuracy
from memory_defense.files import write_text
from memory_defense.reporting.cells import Cell, Column, Table
from memory_defense.reporting.html import environment, hash_of
from memory_defense.reporting.text import escaped, table_markdown, terminal_table
from memory_defense.reporting.wording import MISSING, ball_text, interval, percent, plain

_FEW = 1e-4
"""P-values below this are not told apart."""


def comparison_tables(comparison: Comparison, published: Sequence[Published] = ()) -> tuple[Table, ...]:
    """Return the systems' numbers, the differences to the first, and what was published of the same balls."""
    tables = (_shares(comparison), _differences(comparison))
    return (*tables, _published(published)) if published else tables


def _title(measure: Measure) -> Column:
    return Column("clean") if measure.ball is None else Column("worst case", ball_text(*measure.ball))


def _shares(comparison: Comparison) -> Table:
    columns = (Column("system", numeric=False), *(_title(measure) for measure in comparison.measures))
    rows = tuple(
        (
            Cell(plain(name)),
            *(_share(measure.shares[place], strong=measure.ball is not None) for measure in comparison.measures),
        )
        for place, name in enumerate(comparison.names)
    )
    notes = ["Accuracy in %, with its 95 % interval."]
    if any(cell.text == MISSING for row in rows for cell in row):
        notes.append(f"{MISSING}: not run, or nothing was tried.")
    return Table("Side by side", columns, rows, tuple(notes))


def _share(accuracy: Accuracy | None, *, strong: bool) -> Cell:
    return Cell(MISSING) if accuracy is None else Cell(percent(accuracy.accuracy), interval(accuracy), strong)


def _differences(comparison: Comparison) -> Table:
    first = plain(comparison.names[0])
    paired = any(
        one is not None and one.paired is not None for measure in comparison.measures for one in measure.differences
    )
    columns = [Column("system", numeric=False), Column("where", numeric=False), Column("difference")]
    columns += [Column("it alone"), Column(f"{first} alone"), Column("p")] if paired else []
    rows = tuple(
        (Cell(plain(name)), Cell(_where(measure)), *_difference(measure.differences[place])[: len(columns) - 2])
        for place, name in enumerate(comparison.names[1:], start=1)
        for measure in comparison.measures
    )
    notes = [
        f"Points of accuracy above {first}, with a 95 % interval (Newcombe 1998); bold if the interval excludes 0.",
        *(f"{plain(sentence)}." for sentence in comparison.pairing),
    ]
    if paired:
        notes.append(
            "Alone: images that only one of the two gets right. p: McNemar's exact test, not corrected for the "
            "number of comparisons."
        )
    return Table(f"Difference to {first}", tuple(columns), rows, tuple(notes))


def _where(measure: Measure) -> str:
    return "clean" if measure.ball is None else f"worst case, {ball_text(*measure.ball)}"


def _difference(found: Difference | None) -> tuple[Cell, ...]:
    if found is None:
        return (Cell(MISSING),) * 4
    low, high = (f"{100 * end:+.1f}" for end in found.ci95)
    value = Cell(f"{100 * found.value:+.1f}", f"[{low}, {high}]", found.clear)
    if found.p_value is None:
        return (value, Cell(MISSING), Cell(MISSING), Cell(MISSING))
    chance = f"{found.p_value:.2g}" if found.p_value >= _FEW else f"< {_FEW:g}"
    return value, Cell(f"{found.only_first:,}"), Cell(f"{found.only_second:,}"), Cell(chance)


def _published(entries: Sequence[Published]) -> Table:
    columns = (
        Column("published", numeric=False),
        Column("dataset", numeric=False),
        Column("ball", numeric=False),
        Column("clean"),
        Column("robust"),
        Column("by", numeric=False),
        Column("network", numeric=False),
        Column("from", numeric=False),
    )
    rows = tuple(
        (
            Cell(plain(one.name)),
            Cell(one.dataset),
            Cell(ball_text(one.norm, one.epsilon)),
            Cell(MISSING if one.clean is None else f"{100 * one.clean:.2f}"),
            Cell(f"{100 * one.robust:.2f}"),
            Cell(f"{one.by}, {one.images:,} images"),
            Cell(one.architecture + (", further real images" if one.extra_data else "")),
            Cell(one.venue),
        )
        for one in entries
    )
    sources = dict.fromkeys(f"{_page(one)} ({one.date})" for one in entries)
    notes = (
        "Accuracy in %, as published. Compare with care: a record of fewer images has a wider interval, and weaker "
        "attacks give a higher accuracy.",
        f"Sources: {'; '.join(sources)}; the page of each number is in evaluation/published.json.",
    )
    return Table("Published for the same dataset, norm and radius", columns, rows, notes)


def _page(one: Published) -> str:
    """Return the repository, at its revision, that a number was taken from."""
    home, _, rest = one.source.partition("/blob/")
    return f"{home}/tree/{rest.partition('/')[0]}" if rest else home


def comparison_terminal(comparison: Comparison, published: Sequence[Published] = ()) -> tuple[RichTable, ...]:
    """Return the tables for the terminal; what differs besides is `Comparison.differing`."""
    return tuple(terminal_table(table, table.title) for table in comparison_tables(comparison, published))


def comparison_markdown(comparison: Comparison, published: Sequence[Published] = ()) -> str:
    """Return the comparison in Markdown."""
    blocks = [
        block
        for table in comparison_tables(comparison, published)
        for block in (f"## {escaped(table.title)}", table_markdown(table))
    ]
    if comparison.differing:
        blocks += ["## What else differs", "\n".join(f"- {escaped(line)}" for line in comparison.differing)]
    return "\n\n".join(blocks) + "\n"


def write_comparison(
    path: Path, comparison: Comparison, published: Sequence[Published] = (), *, title: str
) -> None:
    """Write the comparison as one HTML page that needs no network, atomically."""
    templates = environment()
    script = templates.get_template("report.js").render()
    page = templates.get_template("compare.html.j2").render(
        title=title,
        tables=comparison_tables(comparison, published),
        differing=comparison.differing,
        script=Markup(script),
        script_hash=hash_of(script),
    )
    write_text(path, page)
