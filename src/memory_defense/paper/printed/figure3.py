"""Figure 3 as maps with a number beside each, a table and the file that both come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memory_defense.evaluation.record import Fraction
from memory_defense.paper.printed.measured import Count, Measured, MeasuredPart, Size
from memory_defense.reporting.svg import as_file, bare, colour, drawn
from memory_defense.reporting.text import plain_markdown
from memory_defense.reporting.wording import MISSING, epsilon_text, percent

_CLASS_COLOURS = (
    *("#4e79a7", "#f28e2b", "#e15759", "#3aa6a0", "#59a14f"),
    *("#c9a227", "#b07aa1", "#e377c2", "#9c755f", "#7f7f7f"),
)
"""Colours by label, legible on light and on dark pages."""


class Panel(MeasuredPart):
    """One map of Figure 3: vectors of one kind in two dimensions, and accuracies in their own space."""

    key: str
    title: str
    meaning: str
    neighbours_right: Fraction
    """Leave-one-out accuracy of the true label by the nearest neighbours, in the vectors' own space."""
    neighbours_slot: Fraction | None = None
    """The same for the slot that the selector chose; None without a selector."""
    clean_neighbours_right: Fraction | None = None
    """Accuracy of the true label by the nearest vectors of other images when clean; None where all are clean."""
    answers_right: Fraction
    """Accuracy of the whole system on these very images."""
    x: tuple[int, ...]
    """Horizontal coordinate of each image, in [0, 1000]."""
    y: tuple[int, ...]


class PanelRow(MeasuredPart):
    """The maps of one set of images."""

    title: str
    panels: tuple[Panel, ...]


class Figure3(Measured):
    """Maps of codes and of memory reads (the paper's Figure 3)."""

    images: Count
    classes: tuple[str, ...]
    labels: tuple[int, ...]
    """Label of each image; the same in every panel."""
    neighbours: Count
    perplexity: Size
    epsilon: Size
    pixels_right: Fraction
    """Leave-one-out accuracy of the nearest neighbours on the pixels of the clean images: what is there without any
    training."""
    rows: tuple[PanelRow, ...]


def write_figure3(result: Figure3, directory: Path) -> list[Path]:
    """Write figure3.json, figure3.svg and figure3.md into a directory; return their paths."""
    return result.write_with(
        directory / "figure3.json", svg=as_file(figure3_svg(result), dark=True), md=figure3_text(result)
    )


def figure3_text(result: Figure3) -> str:
    """Return the figure's table and what it means, as Markdown."""
    head = (
        "vectors",
        f"true label by {result.neighbours} neighbours",
        "slot by neighbours",
        "true label by clean neighbours",
        "the system's answer",
    )
    lines = [f"# Figure 3, {result.dataset}, at the scale {result.scale!r}", "", "![Maps](figure3.svg)", ""]
    for row in result.rows:
        cells = [
            (
                panel.title,
                percent(panel.neighbours_right),
                _optional(panel.neighbours_slot),
                _optional(panel.clean_neighbours_right),
                percent(panel.answers_right),
            )
            for panel in row.panels
        ]
        lines += [f"## {row.title}", "", *plain_markdown(head, cells), ""]
    meanings = [f"- **{panel.title}**: {panel.meaning}." for panel in result.rows[0].panels]
    return "\n".join([*lines, *meanings, "", *_remarks(result), ""])


def _remarks(result: Figure3) -> list[str]:
    return [
        f"Shares in %, of the first {result.images:,} test images. The neighbours are the nearest in the vectors' "
        "own space, not on the map; an image never votes on itself. Without any training, on the pixels, they are "
        f"right for {percent(result.pixels_right)} % of the clean images.",
        "",
        "The paper prints one map, of the memory read through the selector's slot, and calls it the bottleneck of "
        "the encoder. Such a read is a mean of the slot's own items, so its clusters are the slots, whatever the "
        "encoder learnt: the column of the slot says how completely. The code before the memory is what the "
        "encoder makes.",
        "",
        f"Attacked: PGD, 40 steps, L-inf {epsilon_text(result.epsilon)}, with the gradient of the whole system, "
        "each system for itself. In the column of clean neighbours, the vectors of other images when clean vote.",
        "",
        f"t-SNE (van der Maaten & Hinton 2008) with perplexity {result.perplexity:g}, started from the first two "
        "principal components. Distances between clusters and their sizes mean nothing on such a map.",
    ]


def _optional(share: float | None) -> str:
    return MISSING if share is None else percent(share)


def figure3_svg(result: Figure3, prefix: str = "figure3") -> str:
    """Return the maps as an SVG element: a row for each set of images, a column for each kind of vectors."""

    def paint(figure: Figure) -> None:
        rows, columns = len(result.rows), len(result.rows[0].panels)
        for down, row in enumerate(result.rows):
            top = 0.935 - 0.475 * down
            figure.text(0.005, top + 0.022, row.title, fontsize=11, fontweight="bold", color=colour("ink"))
            for across, panel in enumerate(row.panels):
                axes = figure.add_axes((0.005 + across / columns, top - 0.415, 0.985 / columns - 0.01, 0.365))
                _map(axes, panel, result.labels)
        _legend(figure, result.classes)
        assert rows == 2

    said = "; ".join(
        f"{row.title}: " + ", ".join(f"{panel.title} {percent(panel.neighbours_right)} %" for panel in row.panels)
        for row in result.rows
    )
    return drawn(
        paint,
        size=(11.0, 7.6),
        text=8.5,
        prefix=prefix,
        short=True,
        title="Maps of codes and memory reads",
        description=f"True label by {result.neighbours} nearest neighbours in the vectors' own space. {said}.",
    )


def _map(axes: Axes, panel: Panel, labels: Sequence[int]) -> None:
    bare(axes, ticks=False)
    axes.set_xlim(-30, 1030)
    axes.set_ylim(-30, 1030)
    x, y, label = np.array(panel.x), np.array(panel.y), np.array(labels)
    for number in sorted(set(labels)):
        mine = label == number
        # A line of no length with round ends is a dot: far fewer bytes than a marker for each.
        across = np.stack([x[mine], x[mine], np.full(mine.sum(), np.nan)], axis=1).ravel()
        up = np.stack([y[mine], y[mine], np.full(mine.sum(), np.nan)], axis=1).ravel()
        axes.plot(across, up, color=_CLASS_COLOURS[number % 10], linewidth=3.0, solid_capstyle="round", alpha=0.75)
        middle = float(np.median(x[mine])), float(np.median(y[mine]))
        axes.text(*middle, str(number), color=colour("ink"), fontweight="bold", ha="center", va="center")
    axes.set_title(panel.title, loc="left", fontsize=9.5, color=colour("ink"), pad=15)
    said = f"label by neighbours {percent(panel.neighbours_right)} %"
    if panel.neighbours_slot is not None:
        said += f", slot {percent(panel.neighbours_slot)} %"
    axes.text(0, 1.015, said, transform=axes.transAxes, color=colour("muted"), va="bottom")


def _legend(figure: Figure, classes: Sequence[str]) -> None:
    for number, name in enumerate(classes):
        place = 0.005 + number * 0.985 / len(classes)
        figure.text(place, 0.012, "●", color=_CLASS_COLOURS[number % 10], fontsize=9)
        figure.text(place + 0.014, 0.012, f"{number} {name}", color=colour("muted"))
