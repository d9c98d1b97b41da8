"""Figures drawn with matplotlib as SVG elements for a page.

The SVG carries no metadata, no date, no font and no background, its text is text, and its colours are CSS variables
with fallbacks, so that it follows the page into dark mode. The same input gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
"""Colours on a light and on a dark page, by the name of the page's CSS variable."""

_STYLE: dict[Any, Any] = {"svg.fonttype": "none", "text.parse_math": False, "path.simplify": False}

_SVG = "http://www.w3.org/2000/svg"
_HREF = "{http://www.w3.org/1999/xlink}href"
_USED = re.compile(r"(?:url\(|href=\")#([^\")]+)")
_FONT = re.compile(r"font-family:[^;]*;? ?")
_VARIABLE = re.compile(r"var\(--[a-z-]+, (#[0-9a-f]{6})\)")
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_NUMBER = re.compile(r"-?\d+\.\d+")
_PATH = re.compile(r' d="[^"]*"')
_DOT = re.compile(r"M (\S+) (\S+) +L \1 \2 *")


def colour(name: str) -> str:
    """Return the stand-in for one of `COLOURS` that matplotlib is given; `drawn` replaces it by the variable."""
    return f"#0102{list(COLOURS).index(name):02x}"


def drawn(
    paint: Callable[[Figure], None],
    *,
    size: tuple[float, float],
    text: float,
    prefix: str,
    title: str,
    description: str,
    short: bool = False,
) -> str:
    """Return an SVG element that a page can hold.

    Parameters
    ----------
    paint
        Fills the empty figure.
    size
        Width and height in inches.
    text
        Font size in points.
    prefix
        Starts every id: letters, digits and hyphens.
    title, description
        Text for screen readers.
    short
        Round paths to a tenth of a point, for figures of many points.
    """
    with mpl.rc_context({**_STYLE, "svg.hashsalt": prefix, "font.size": text, "text.color": colour("ink")}):
        figure = Figure(figsize=size)
        figure.patch.set_alpha(0)
        paint(figure)
        page = io.StringIO()
        figure.savefig(page, format="svg", transparent=True, metadata={"Date": None})
    colours = {colour(name): f"var(--{name}, {light})" for name, (light, _) in COLOURS.items()}
    svg = portable(page.getvalue(), prefix=prefix, colours=colours, title=title, description=description)
    return _PATH.sub(lambda path: _shortened(path[0]), svg) if short else svg


def _shortened(path: str) -> str:
    """Return a path's data with one decimal, and lines of no length written briefly."""
    rounded = _NUMBER.sub(lambda one: f"{float(one[0]):.1f}", path).replace("\n", "")
    return _DOT.sub(r"M\1 \2h0", rounded)


def bare(axes: Axes, *, grid: Literal["x", "y"] | None = None, ticks: bool = True) -> None:
    """Remove the frame, and the ticks if not wanted; give the rest the page's colours."""
    axes.patch.set_alpha(0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(colors=colour("muted"), length=0, pad=4)
    if not ticks:
        axes.set_xticks([])
        axes.set_yticks([])
    if grid is not None:
        axes.grid(visible=True, axis=grid, color=colour("grid"), linewidth=0.8)
    axes.set_axisbelow(True)


def portable(svg: str, *, prefix: str, colours: Mapping[str, str], title: str, description: str) -> str:
    """Return an SVG element with ids of its own, the page's colours and font, and a text for screen readers.

    Metadata, style sheets (they would reach the whole page), unused ids and the fixed size are removed.

    Parameters
    ----------
    svg
        A document as matplotlib writes it.
    colours
        CSS values for the colours (``#rrggbb``) that the page decides.
    prefix, title, description
        As in `drawn`.
    """
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    used = set(_USED.findall(svg))
    for element in root.iter():
        _adapt(element, prefix, used, colours)
    for size in ("width", "height"):
        root.attrib.pop(size)
    root.set("role", "img")
    root.set("aria-labelledby", f"{prefix}-title {prefix}-description")
    root.set("stroke-linejoin", "round")
    root.insert(0, _text("desc", f"{prefix}-description", description))
    root.insert(0, _text("title", f"{prefix}-title", title))
    return ElementTree.tostring(root, encoding="unicode")


def as_file(svg: str, *, dark: bool = False) -> str:
    """Return what `portable` made as a document of its own, with a font.

    Its colours are the fallbacks, since programs that typeset papers know no CSS variables; with `dark` they follow
    the reader's choice of a light or a dark page.
    """
    if not dark:
        svg = _VARIABLE.sub(r"\1", svg)
    named = svg.replace("<svg ", '<svg font-family="Helvetica, Arial, sans-serif" ', 1)
    if dark:
        shades = [";".join(f"--{name}:{both[shade]}" for name, both in COLOURS.items()) for shade in (0, 1)]
        style = f"svg{{{shades[0]}}}@media (prefers-color-scheme:dark){{svg{{{shades[1]}}}}}"
        start = named.index(">") + 1
        named = f"{named[:start]}<style>{style}</style>{named[start:]}"
    return f'<?xml version="1.0" encoding="utf-8"?>\n{named}\n'


def _adapt(element: ElementTree.Element, prefix: str, used: set[str], colours: Mapping[str, str]) -> None:
    name = element.attrib.pop("id", None)
    if name in used:
        element.set("id", f"{prefix}-{name}")
    if target := element.attrib.pop(_HREF, None):
        element.set("href", f"#{prefix}-{target[1:]}")
    if clip := element.get("clip-path"):
        element.set("clip-path", clip.replace("#", f"#{prefix}-"))
    if style := element.get("style"):
        element.set("style", _COLOUR.sub(lambda hit: colours.get(hit[0], hit[0]), _FONT.sub("", style)))


def _text(tag: str, name: str, text: str) -> ElementTree.Element:
    element = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": name})
    element.text = text
    return element
