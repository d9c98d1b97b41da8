"""Matplotlib's SVG made fit to stand inside a page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree

_SVG = "http://www.w3.org/2000/svg"
_HREF = "{http://www.w3.org/1999/xlink}href"
_USED = re.compile(r"(?:url\(|href=\")#([^\")]+)")
_FONT = re.compile(r"font-family:[^;]*;? ?")
_VARIABLE = re.compile(r"var\(--[a-z-]+, (#[0-9a-f]{6})\)")
_COLOUR = re.compile(r"#[0-9a-f]{6}")


def portable(svg: str, *, prefix: str, colours: Mapping[str, str], title: str, description: str) -> str:
    """Return an SVG element with ids of its own, the page's colours and font, and a text for screen readers.

    Metadata, style sheets (they would reach the whole page), unused ids and the fixed size are removed.

    Parameters
    ----------
    svg
        A document as matplotlib writes it.
    prefix
        Starts every id.
    colours
        CSS values for the colours (``#rrggbb``) that the page decides.
    title, description
        What a screen reader says.
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


def as_file(svg: str) -> str:
    """Return what `portable` made as a document of its own.

    Its colours are the fallbacks, as programs that set papers know no CSS variables, and its font is named.
    """
    plain = _VARIABLE.sub(r"\1", svg).replace("<svg ", '<svg font-family="Helvetica, Arial, sans-serif" ', 1)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{plain}\n'


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
