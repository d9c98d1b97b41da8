"""Accuracy against epsilon as inline SVG: one line for each adversary, the worst case in bold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from memory_defense.evaluation.record import Accuracy, Record
from memory_defense.reporting.rows import curve_points, figure_norms
from memory_defense.reporting.svg import bare, colour, drawn
from memory_defense.reporting.wording import KNOWLEDGE, epsilon_text, knowledge_label, norm_label


@dataclass(frozen=True)
class Layout:
    """Size in inches, text size in points, and the axes' left, bottom, width and height in inches.

    The lines' names stand to the right of the axes, or `below` them, where each makes the figure higher.
    """

    width: float
    height: float
    text: float
    axes: tuple[float, float, float, float]
    below: bool = False

    @property
    def row(self) -> float:
        """Height of one line of text."""
        return 1.3 * self.text / 72


WIDE = Layout(7.4, 3.7, 9.5, (0.46, 0.5, 5.0, 2.87))
NARROW = Layout(3.6, 2.9, 9.0, (0.38, 0.5, 3.1, 2.1), below=True)


@dataclass(frozen=True)
class Pen:
    """Style of one line: name of its colour in `svg.COLOURS`, marker, dashes."""

    colour: str
    marker: str
    dashes: str | tuple[int, tuple[float, ...]] = "-"


_PENS = {
    "fixed-slots": Pen("fixed-slots", "s", (0, (4, 2))),
    "selector": Pen("selector", "^"),
    "end-to-end": Pen("end-to-end", "o"),
    "target-classifier": Pen("target-classifier", "v", (0, (1, 1.2))),
    "undefended": Pen("undefended", "P", (0, (5, 1.5, 1, 1.5))),
    "robust": Pen("selector", "<"),
    "accurate": Pen("undefended", ">", (0, (3, 1.5))),
}
_OTHER = Pen("other", "X", (0, (2, 1)))
_WORST = Pen("ink", "D")
_PROVEN = Pen("selector", "^")
_GATED = Pen("fixed-slots", "s", (0, (4, 2)))

Point = tuple[float, Accuracy]


@dataclass(frozen=True)
class Line:
    """One line of the figure: what it is, how it is drawn, and its points, smallest radius first."""

    label: str
    pen: Pen
    points: Sequence[Point]
    bold: bool = False
    joined: bool = True


def accuracy_figure(record: Record, norm: str, *, prefix: str, layout: Layout = WIDE) -> str:
    """Return an SVG element: accuracy (in %) against epsilon in one norm, with 95 % bands.

    Parameters
    ----------
    record
        Source of the points: the curve's attacks, the worst cases, what is certified, and clean accuracy at 0.
    norm
        ``linf`` or ``l2``.
    prefix
        Starts every id in the SVG, so that several fit on one page; letters, digits and hyphens.
    layout
        `WIDE` for a desktop, `NARROW` for a phone.

    Raises
    ------
    ValueError
        If the record holds neither a curve nor certificates in this norm.
    """
    lines = _lines(record, norm)
    if not lines:
        there = figure_norms(record)
        remedy = (
            f"draw {there[0]!r}" if there else "'memdef evaluate RUN' attacks at the radii of the recipe's curve"
        )
        raise ValueError(f"the record of {record.defense!r} holds no curve in the norm {norm!r}; {remedy}")

    height = layout.height + (layout.row * len(lines) if layout.below else 0)

    def paint(figure: Figure) -> None:
        left, bottom, across, up = layout.axes
        bottom += height - layout.height
        axes = figure.add_axes((left / layout.width, bottom / height, across / layout.width, up / height))
        _frame(axes, norm, layout)
        for line in lines:
            _draw(axes, line)
        _label(axes, lines, layout)

    best = ", ".join(f"{line.label} {100 * line.points[-1][1].accuracy:.1f} %" for line in lines)
    return drawn(
        paint,
        size=(layout.width, height),
        text=layout.text,
        prefix=prefix,
        title=f"Accuracy against epsilon, {norm_label(norm)}",
        description=f"At the largest epsilon of each line: {best}.",
    )


def _lines(record: Record, norm: str) -> list[Line]:
    return known_lines(record, norm) if norm in figure_norms(record) else []


def known_lines(record: Record, norm: str) -> list[Line]:
    """Return every line that a record has points for in one norm; a single radius is a line that is not joined."""
    curves = curve_points(record, norm)
    clean: Point = (0.0, record.clean)
    lines = [
        Line(knowledge_label(name), _PENS.get(name, _OTHER), [clean, *((r.epsilon, r) for r in results)])
        for name, results in curves.items()
    ]
    worst: list[Point] = sorted(
        (
            (w.epsilon, found)
            for w in record.worst_case
            if w.norm == norm and w.epsilon > 0 and (found := w.measured) is not None
        ),
        key=lambda p: p[0],
    )
    if len(worst) > 1:
        lines.append(Line("worst case", _WORST, [clean, *worst], bold=True))
    elif worst:
        lines.append(Line("worst case", _WORST, worst, bold=True, joined=False))
    return [*lines, *_proven(record, norm, clean)]


def _proven(record: Record, norm: str, clean: Point) -> list[Line]:
    """Return the line of what is certified, and that of what is right or flagged with a gate, method by method."""
    lines: list[Line] = []
    for method in dict.fromkeys((one.method, one.sigma) for one in record.certified if one.norm == norm):
        found = [one for one in record.certified if (one.method, one.sigma) == method and one.norm == norm]
        points = sorted(((one.epsilon, one) for one in found if one.epsilon > 0), key=lambda point: point[0])
        gated: list[Point] = [(radius, one.gate.right_or_flagged) for radius, one in points if one.gate is not None]
        lines.append(Line("proven", _PROVEN, [clean, *points], bold=True))
        lines.append(Line("right or flagged, proven", _GATED, gated))
    return [line for line in lines if line.points]


def _frame(axes: Axes, norm: str, layout: Layout) -> None:
    muted = colour("muted")
    bare(axes, grid="y")
    axes.set_ylim(-2, 102)
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.xaxis.set_major_locator(MaxNLocator(6 if layout.width > 5 else 4))
    axes.tick_params(labelsize=layout.text, pad=5)
    axes.spines["bottom"].set(visible=True, color=muted)
    axes.set_xlabel(f"epsilon ({norm_label(norm)}; pixels in [0, 1])", color=muted, fontsize=layout.text)
    axes.set_title("accuracy, %", loc="left", color=muted, fontsize=layout.text, x=0, pad=8)


def _draw(axes: Axes, line: Line) -> None:
    """Draw band, line and markers; the bold line lies under the others, so that none hides another."""
    shade = colour(line.pen.colour)
    across = [epsilon for epsilon, _ in line.points]
    middle = [100 * point.accuracy for _, point in line.points]
    low = [100 * point.ci95[0] for _, point in line.points]
    high = [100 * point.ci95[1] for _, point in line.points]
    if line.joined:
        axes.fill_between(across, low, high, color=shade, alpha=0.14, linewidth=0)
    else:
        axes.vlines(across, low, high, color=shade, linewidth=2.2)
    axes.plot(
        across,
        middle,
        color=shade,
        linestyle=line.pen.dashes if line.joined else "none",
        linewidth=4.2 if line.bold else 1.6,
        marker=line.pen.marker,
        markersize=8.5 if line.bold else 4.5,
        markeredgewidth=0,
        clip_on=False,
        zorder=2.5 if line.bold else 3,
    )


def _label(axes: Axes, lines: Sequence[Line], layout: Layout) -> None:
    """Write each line's mark, name and last value beside the axes, spread so that no two overlap, or below them.

    No line leads from a name to its curve: it would be taken for one.
    """
    end = max(epsilon for line in lines for epsilon, _ in line.points)
    axes.set_xlim(0, end * 1.02)
    inch = end * 1.02 / layout.axes[2], 104 / layout.axes[3]  # in units of the two axes
    step = inch[1] * layout.row
    order = sorted(lines, key=lambda line: line.points[-1][1].accuracy)
    if layout.below:
        at, top = 0.05 * inch[0], -2 - inch[1] * 0.5
        places = [top - step * (number - 0.5) for number in range(len(order), 0, -1)]
    else:
        at = end * 1.02 + 0.1 * inch[0]
        places = _spread([100 * line.points[-1][1].accuracy for line in order], step, 0.0, 100.0)
    for line, place in zip(order, places, strict=True):
        epsilon, last = line.points[-1]
        shade, where = colour(line.pen.colour), "" if epsilon == end else f" at {epsilon_text(epsilon)}"
        axes.plot(
            [at], [place], marker=line.pen.marker, color=shade, markersize=5, markeredgewidth=0, clip_on=False
        )
        axes.text(
            at + 0.1 * inch[0],
            place,
            f"{line.label} {100 * last.accuracy:.1f}{where}",
            color=shade,
            fontsize=layout.text,
            fontweight="bold" if line.bold else "normal",
            verticalalignment="center",
            clip_on=False,
        )


def _spread(wanted: Sequence[float], step: float, low: float, high: float) -> list[float]:
    """Return the places nearest to the ascending wanted ones (least squares) that are at least `step` apart.

    Subtracting ``index * step`` turns the distance into an order, which pooling adjacent violators restores.
    The limits hold where they leave room enough.
    """
    pools: list[list[float]] = []
    for index, value in enumerate(wanted):
        pools.append([value - index * step])
        while len(pools) > 1 and _mean(pools[-2]) > _mean(pools[-1]):
            pool = pools.pop()
            pools[-1] += pool
    last = max(low, high - (len(wanted) - 1) * step)
    flat = [min(max(_mean(pool), low), last) for pool in pools for _ in pool]
    return [value + index * step for index, value in enumerate(flat)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


assert set(_PENS) == set(KNOWLEDGE), "every known adversary has a pen"
