"""What the figures of the reproductions share: matplotlib's drawing, the page's colours, files of their own."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memory_defense.reporting.svg import portable

_STYLE: dict[Any, Any] = {"svg.fonttype": "none", "text.parse_math": False, "path.simplify": False}

COLOURS: dict[str, tuple[str, str]] = {
    "ink": ("#1c2430", "#e8eaed"),
    "muted": ("#5c6570", "#a2abb5"),
    "grid": ("#d9d9d9", "#3a434e"),
    "fail": ("#b3261e", "#ff8f85"),
    "fixed-slots": ("#b35900", "#f0a04b"),
    "selector": ("#0072b2", "#62b5ea"),
    "end-to-end": ("#aa3377", "#e58fbf"),
    "target-classifier": ("#117733", "#55c48b"),
    "undefended": ("#6b6b6b", "#b0b0b0"),
    "other": ("#8a6d00", "#d9bd55"),
}
"""By the name of the page's CSS variable: where the page is light, and where it is dark."""

_NUMBER = re.compile(r"-?\d+\.\d+")
_PATH = re.compile(r' d="[^"]*"')
_DOT = re.compile(r"M (\S+) (\S+) +L \1 \2 *")


def colour(name: str) -> str:
    """Return what matplotlib is given for one of `COLOURS`."""
    return f"#0102{list(COLOURS).index(name):02x}"


def drawn(
    paint: Callable[[Figure], None],
    *,
    width: float,
    height: float,
    text: float,
    prefix: str,
    title: str,
    description: str,
) -> str:
    """Return an SVG element that a page can hold; the same input gives the same bytes.

    Parameters
    ----------
    paint
        Fills the empty figure.
    width, height
        In inches.
    text
        Size of letters in points.
    prefix
        Starts every id: letters, digits and hyphens.
    title, description
        What a screen reader says.
    """
    with mpl.rc_context({**_STYLE, "svg.hashsalt": prefix, "font.size": text, "text.color": colour("ink")}):
        figure = Figure(figsize=(width, height))
        figure.patch.set_alpha(0)
        paint(figure)
        page = io.StringIO()
        figure.savefig(page, format="svg", transparent=True, metadata={"Date": None})
    colours = {colour(name): f"var(--{name}, {light})" for name, (light, _) in COLOURS.items()}
    svg = portable(page.getvalue(), prefix=prefix, colours=colours, title=title, description=description)
    return _PATH.sub(lambda path: _shortened(path[0]), svg)


def _shortened(path: str) -> str:
    """Return a path's data with one decimal, a tenth of a point, and lines of no length written briefly."""
    rounded = _NUMBER.sub(lambda one: f"{float(one[0]):.1f}", path).replace("\n", "")
    return _DOT.sub(r"M\1 \2h0", rounded)


def svg_file(svg: str) -> str:
    """Return what `drawn` made as a document of its own, which follows the reader's choice of light or dark."""
    light, dark = (";".join(f"--{name}:{both[shade]}" for name, both in COLOURS.items()) for shade in (0, 1))
    style = f"<style>svg{{{light}}}@media (prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    named = svg.replace("<svg ", '<svg font-family="Helvetica, Arial, sans-serif" ', 1)
    start = named.index(">") + 1
    return f'<?xml version="1.0" encoding="utf-8"?>\n{named[:start]}{style}{named[start:]}\n'


def bare(axes: Axes, *, grid: str | None = None) -> None:
    """Take the frame away, and give ticks and lines across one axis the page's colours."""
    axes.patch.set_alpha(0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(colors=colour("muted"), length=0, pad=4)
    if grid == "x":
        axes.grid(visible=True, axis="x", color=colour("grid"), linewidth=0.8)
    elif grid == "y":
        axes.grid(visible=True, axis="y", color=colour("grid"), linewidth=0.8)
    axes.set_axisbelow(True)
