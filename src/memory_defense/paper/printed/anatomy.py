"""The anatomy of the claim as a table, a step figure, and the part of a document that both are told in."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memory_defense.evaluation.record import Accuracy, Fraction
from memory_defense.paper.printed.measured import Count, Measured, MeasuredPart, Size
from memory_defense.paper.printed.published import TABLE_1
from memory_defense.reporting.svg import as_file, bare, colour, drawn
from memory_defense.reporting.text import plain_markdown
from memory_defense.reporting.wording import MISSING, epsilon_text, interval, percent, plain

BEGIN, END = "<!-- begin anatomy -->", "<!-- end -->"
_HEAD = (
    "",
    "what changes",
    "printed as robust accuracy",
    "attacked",
    "95 % interval",
    "selector alone",
    "answer is the slot",
    "largest pixel change",
)
_LEFT = 0.46
"""Share of the figure that the steps' titles take."""
_NOISE = "Random signs, no attack"


class AnatomyStep(MeasuredPart):
    """One way to score and attack the same weights on the same images."""

    key: str
    title: str
    changed: str
    """The choice that differs from the step before; empty for the first."""
    protocol: dict[str, str | int]
    """Every choice of the protocol, by name."""
    score: Fraction
    """Robust accuracy that this protocol would print."""
    attacked: Accuracy
    """Share of attacked images that the defense answers right, its own slot chosen from the attacked image."""
    selector: Accuracy
    """Share of attacked images that the selector alone answers right."""
    agreement: Fraction
    """Share of attacked images whose answer is the slot that the selector chose."""
    median_change: Size
    """Median over images of the largest change of a pixel."""


class Anatomy(Measured):
    """From the paper's cell to the number that is left, one choice at a time."""

    images: Count
    epsilon: Size
    clean: Accuracy
    steps: tuple[AnatomyStep, ...]
    controls: tuple[AnatomyStep, ...]
    """Measured beside a step, whose protocol they share but for what `changed` says."""


def published_cell() -> float:
    """Return the paper's number, in percent: Memory Defense, Fashion-MNIST, PGD 25/255."""
    (row,) = (row for row in TABLE_1.rows if row.key == "memory-defense")
    (column,) = (number for number, column in enumerate(TABLE_1.columns) if column.attack == "pgd")
    cell = row.scores[column][-1]
    assert cell is not None
    return cell


def write_anatomy(result: Anatomy, directory: Path) -> list[Path]:
    """Write anatomy.json, .svg, .md and .html (a fragment for a page) into a directory; return their paths."""
    title = f"# The anatomy of the claim, at the scale {result.scale!r}"
    return result.write_with(
        directory / "anatomy.json",
        svg=as_file(anatomy_svg(result), dark=True),
        md=f"{title}\n\n![Step by step](anatomy.svg)\n\n{anatomy_markdown(result)}",
        html=anatomy_html(result),
    )


def anatomy_markdown(result: Anatomy) -> str:
    """Return the table of steps, that of controls, and what the numbers say, as Markdown."""
    return "\n".join(
        [
            *plain_markdown(_HEAD, _rows(result), numeric_from=2),
            "",
            "Beside the steps, not on the way:",
            "",
            *plain_markdown(_HEAD, [_cells(one) for one in result.controls], numeric_from=2),
            "",
            *(line for remark in _remarks(result) for line in (remark, "")),
        ]
    )


def anatomy_html(result: Anatomy) -> str:
    """Return figure, tables and remarks as a section of a page that has the house's CSS variables."""
    remarks = "".join(f"<p>{escape(remark)}</p>\n" for remark in _remarks(result))
    return (
        '<section class="anatomy">\n<h2>The anatomy of the claim</h2>\n'
        f"<figure>{anatomy_svg(result)}</figure>\n"
        f"<div>{html_table(_HEAD, _rows(result))}</div>\n<h3>Beside the steps</h3>\n"
        f"<div>{html_table(_HEAD, [_cells(one) for one in result.controls])}</div>\n"
        f"{remarks}</section>\n"
    )


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an HTML table; the first cell of a row names it, the second is text, all others are numbers."""
    start = "".join(f'<th scope="col">{escape(plain(cell))}</th>' for cell in head)
    body = ""
    for row in rows:
        name, text, *numbers = (escape(plain(cell)) for cell in row)
        cells = "".join(f'<td class="number">{one}</td>' for one in numbers)
        body += f'<tr><th scope="row">{name}</th><td>{text}</td>{cells}</tr>\n'
    return f"<table>\n<thead><tr>{start}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"


def with_anatomy(document: str, result: Anatomy) -> str:
    """Return a document whose part between `BEGIN` and `END` is `anatomy_markdown`; the rest is as it was.

    Raises ValueError unless each mark is there once, in order.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise ValueError(f"the document needs the lines {BEGIN!r} and {END!r}, once each and in this order")
    return f"{before}{BEGIN}\n\n{anatomy_markdown(result)}\n{END}{after}"


def _rows(result: Anatomy) -> list[tuple[str, ...]]:
    first = ("", "The paper's cell", f"{published_cell():.2f}", *(MISSING,) * 5)
    return [first, *(_cells(step) for step in result.steps)]


def _cells(step: AnatomyStep) -> tuple[str, ...]:
    return (
        step.key,
        step.title,
        percent(step.score),
        percent(step.attacked.accuracy),
        interval(step.attacked),
        percent(step.selector.accuracy),
        percent(step.agreement),
        f"{255 * step.median_change:.0f}/255",
    )


def _remarks(result: Anatomy) -> list[str]:
    first, last = result.steps[0], result.steps[-1]
    noise = [one for one in result.controls if one.title == _NOISE]
    beside = {step.key: step for step in result.steps}
    compared = " and ".join(
        f"{percent(one.attacked.accuracy)} % where the attack of step {one.key} leaves "
        f"{percent(beside[one.key].attacked.accuracy)} %"
        for one in noise
    )
    return [
        f"In %, on the first {result.images:,} test images of {result.dataset}, for one set of weights throughout: "
        f"Memory Defense as the paper trains it, at the scale {result.scale!r}, {percent(result.clean.accuracy)} % "
        f"right on clean images. Epsilon is {epsilon_text(result.epsilon)}.",
        f"From {percent(first.score)} % to {percent(last.score)} %: nothing about the defense changed, only how it "
        "was attacked and what was counted.",
        f"Noise of random signs and the same size as the attack leaves {compared}.",
        "Selector alone: the share of the same images that the selector answers right. Answer is the slot: the "
        "share whose final answer is the slot that the selector chose. Largest pixel change: the median over "
        "images; in normalised units it is far above epsilon, since clipping moves black and white pixels whatever "
        "epsilon is. In the last row both columns and the change are those of the images that broke the "
        "defense, and of the clean image where none did.",
    ]


def anatomy_svg(result: Anatomy, prefix: str = "anatomy") -> str:
    """Return the step figure: one bar for each row, from the number before to the number after."""
    numbers = [published_cell(), *(100 * step.score for step in result.steps)]
    labels = ["The paper's cell", *(f"{step.key}  {step.title}" for step in result.steps)]
    noise = {one.key: 100 * one.score for one in result.controls if one.title == _NOISE}

    def paint(figure: Figure) -> None:
        axes = figure.add_axes((_LEFT, 0.12, 0.98 - _LEFT, 0.86))
        bare(axes, grid="x")
        axes.set_xlim(0, 112)
        axes.set_ylim(len(numbers) - 0.4, -0.6)
        axes.set_xticks(range(0, 101, 20), [f"{tick} %" for tick in range(0, 101, 20)])
        axes.set_yticks([])
        for place, (value, label) in enumerate(zip(numbers, labels, strict=True)):
            _bar(axes, place, numbers[place - 1] if place else None, value)
            weight = "bold" if place in (0, len(numbers) - 1) else "normal"
            height = _middle(place, len(numbers))
            figure.text(0.01, height, label, color=colour("ink"), va="center", fontweight=weight)
            printed = f"{value:.2f}" if place == 0 else f"{value:.1f}"
            axes.text(111, place, printed, color=colour("ink"), ha="right", va="center", fontweight=weight)
        for place, step in enumerate(result.steps, start=1):
            axes.plot([100 * step.selector.accuracy] * 2, [place - 0.36, place + 0.36], color=colour("selector"))
            if step.key in noise:
                axes.plot(noise[step.key], place, marker="D", color=colour("other"), markersize=6)
        _key(figure)

    said = "; ".join(f"{label}: {value:.1f}" for label, value in zip(labels, numbers, strict=True))
    return drawn(
        paint,
        size=(9.4, 4.6),
        text=9.5,
        prefix=prefix,
        short=True,
        title="The anatomy of the claim",
        description=f"What is printed as robust accuracy, in %, after each change. {said}.",
    )


def _middle(place: int, rows: int) -> float:
    """Return the height in the figure of a row's middle."""
    return 0.98 - 0.86 * (place + 0.6) / (rows + 0.2)


def _bar(axes: Axes, place: int, before: float | None, value: float) -> None:
    """Draw what is left, and what went or came since the number before."""
    if before is None:
        axes.barh(place, value, height=0.6, color=colour("muted"), alpha=0.75, linewidth=0)
        return
    low, high = sorted((before, value))
    kind = "fail" if value < before else "target-classifier"
    axes.barh(place, low, height=0.6, color=colour("muted"), alpha=0.35, linewidth=0)
    axes.barh(place, high - low, left=low, height=0.6, color=colour(kind), alpha=0.75, linewidth=0)


def _key(figure: Figure) -> None:
    entries: Sequence[tuple[str, str, str]] = (
        ("|", "selector", "the selector alone on the same images"),
        ("D", "other", "noise of the same size instead of the attack"),
    )
    axes = figure.add_axes((0.0, 0.0, 1, 0.05))
    bare(axes, ticks=False)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 1)
    for place, (marker, name, text) in zip((25.0, 60.0), entries, strict=True):
        axes.plot(
            place,
            0.5,
            marker=marker,
            color=colour(name),
            markersize=9 if marker == "|" else 6,
            markeredgewidth=1.8 if marker == "|" else 0,
            clip_on=False,
        )
        axes.text(place + 1.2, 0.5, text, color=colour("muted"), va="center")
