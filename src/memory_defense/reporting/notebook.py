"""What a notebook shows of a record or a comparison, and the curve as matplotlib axes."""

from __future__ import annotations

import hashlib
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from memory_defense.evaluation.comparison import Comparison
from memory_defense.evaluation.naming import name_of
from memory_defense.evaluation.record import Record
from memory_defense.reporting.cells import Cell, Table
from memory_defense.reporting.comparison import comparison_tables
from memory_defense.reporting.failures import audit_sentence
from memory_defense.reporting.figures import Line, accuracy_figure, known_lines
from memory_defense.reporting.rows import Section, answer, caution, figure_norms
from memory_defense.reporting.svg import COLOURS
from memory_defense.reporting.tables import headline_table
from memory_defense.reporting.wording import norm_label, norm_order


def record_html(record: Record) -> str:
    """Return a record for a notebook: its name, the answer in a sentence, the headline, the audit, the curve."""
    name = name_of(record)
    blocks = [
        Markup("<h4>{}</h4>").format(name),
        Markup("<p>{}</p>").format(answer(Section(name, record))),
        *([Markup("<p><strong>{}</strong></p>").format(said)] if (said := caution(record)) else []),
        _table(headline_table([Section(name, record)])),
        Markup("<p>{}</p>").format(audit_sentence(record)),
    ]
    prefix = f"record-{hashlib.sha256(record.model_dump_json().encode()).hexdigest()[:12]}"
    for norm in figure_norms(record):
        drawn = Markup(accuracy_figure(record, norm, prefix=f"{prefix}-{norm}"))
        blocks.append(Markup('<div style="max-width: 46rem">{}</div>').format(drawn))
    return str(Markup('<div class="memory-defense">{}</div>').format(Markup("").join(blocks)))


def comparison_html(comparison: Comparison) -> str:
    """Return a comparison for a notebook: its tables, and what else differs."""
    blocks = [Markup("<h4>{}</h4>{}").format(table.title, _table(table)) for table in comparison_tables(comparison)]
    lines = Markup("").join(Markup("<li>{}</li>").format(line) for line in comparison.differing)
    if lines:
        blocks.append(Markup("<h4>What else differs</h4><ul>{}</ul>").format(lines))
    return str(Markup('<div class="memory-defense">{}</div>').format(Markup("").join(blocks)))


def _table(table: Table) -> Markup:
    head = Markup("").join(Markup("<th>{}</th>").format(str(column)) for column in table.columns)
    rows = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(_cell(cell) for cell in row)) for row in table.rows
    )
    notes = Markup("<br/>").join(table.notes)
    shape = "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table><small>{}</small>"
    return Markup(shape).format(head, rows, notes)


def _cell(cell: Cell) -> Markup:
    shown = Markup("<strong>{}</strong>").format(cell.text) if cell.strong else cell.text
    return Markup("<td>{} <small>{}</small></td>").format(shown, cell.detail)


def record_plot(record: Record, norm: str | None = None, *, axes: Any = None) -> Axes:
    """Draw accuracy against epsilon into axes, and return them; see `Record.plot`.

    Raises
    ------
    ValueError
        For a record without a radius in this norm.
    """
    radii = _radii(record)
    if not radii:
        raise ValueError(
            f"the record of {record.defense!r} has no radius to draw, as nothing was attacked or proven; evaluate "
            "with epsilon=[0.05, 0.1], say"
        )
    chosen = norm or max(radii, key=lambda one: len(radii[one]))
    if chosen not in radii:
        raise ValueError(
            f"the record of {record.defense!r} has no radius in the norm {chosen!r}; draw {next(iter(radii))!r}"
        )
    if axes is None:
        from matplotlib import pyplot

        axes = pyplot.subplots()[1]
    found: Axes = axes
    lines = known_lines(record, chosen)
    if not any(line.joined for line in lines):  # where one is, it begins there
        lines = [Line("clean", lines[0].pen, [(0.0, record.clean)], joined=False), *lines]
    for line in lines:
        _interval(found, line)
    found.set(
        xlabel=f"epsilon ({norm_label(chosen)}; pixels in [0, 1])",
        ylabel="accuracy, %",
        ylim=(-2, 102),
        title=name_of(record),
    )
    found.set_xlim(left=0)
    found.legend()
    return found


def _radii(record: Record) -> dict[str, set[float]]:
    """Return the radii above 0 that something is known of, by norm, L-inf first."""
    measured = [one for one in record.worst_case if one.measured is not None]
    entries = [(one.norm, one.epsilon) for one in (*measured, *record.certified) if one.epsilon > 0]
    norms = sorted({norm for norm, _ in entries}, key=norm_order)
    return {norm: {epsilon for other, epsilon in entries if other == norm} for norm in norms}


def _interval(axes: Axes, line: Line) -> None:
    """Draw a line's points with their 95 % intervals as error bars; points that are not joined have no line."""
    shade = COLOURS[line.pen.colour][0]
    across = [epsilon for epsilon, _ in line.points]
    middle = [100 * point.accuracy for _, point in line.points]
    below = [100 * (point.accuracy - point.ci95[0]) for _, point in line.points]
    above = [100 * (point.ci95[1] - point.accuracy) for _, point in line.points]
    axes.errorbar(
        across,
        middle,
        yerr=[[max(0.0, one) for one in below], [max(0.0, one) for one in above]],
        label=line.label,
        color=shade,
        linestyle=line.pen.dashes if line.joined else "none",
        linewidth=2.2 if line.bold else 1.4,
        marker=line.pen.marker,
        capsize=3,
    )
