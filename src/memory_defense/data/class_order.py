"""Which label a class folder has: the order of class names, and what there is to say about it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from memory_defense.data.leftovers import listed
from memory_defense.names import nearest

ORDER_FILE = "class_order.txt"
"""Beside the splits of a folder: the names of the classes, a line each, in the order of their labels."""
POSITIONS = "labels are positions among the folders"
"""What a note about the order says where it says no more."""
_MOST_BYTES = 1 << 20
_DIGITS = re.compile(r"(\d+)", re.ASCII)


class Order(NamedTuple):
    """The classes of a folder by label."""

    classes: tuple[str, ...]
    notes: tuple[str, ...]
    """What a reader who counts otherwise has to know, a line each."""
    otherwise: tuple[str, ...] | None = None
    """The same classes in the order that others count them in, where it is another; None if it is listed."""


def same(name: str) -> str:
    """Return what names of one class have in common: accents may be composed or not (Unicode NFC)."""
    return unicodedata.normalize("NFC", name)


def order_of(names: Sequence[str], root: Path) -> Order:
    """Return the order of class folders that are named nowhere: by numbers if all are, else as text.

    Parameters
    ----------
    names
        Folder names, sorted as text; no two are `same`.
    root
        The folder, for the notes.

    Raises
    ------
    ValueError
        If two names are one number.
    """
    text = tuple(names)
    if text and all(name.isascii() and name.isdigit() for name in text):
        return _numbered(text, root)
    notes: list[str] = []
    listing = f"list them so, a line each, in {root / ORDER_FILE}"
    if (natural := tuple(sorted(text, key=_natural))) != text:
        notes.append(
            f"classes are sorted as text: {listed(list(text))}; if your model counts them as "
            f"{listed(list(natural))}, {listing}"
        )
    if (composed := tuple(sorted(text, key=same))) != text:
        notes.append(
            f"classes are sorted as their folders are written, accents apart: {listed(list(text))}; composed, as "
            f"Linux and Windows write them, they would be {listed(list(composed))}: if your model was trained on "
            f"that order, {listing}"
        )
    otherwise = natural if natural != text else composed if composed != text else None
    return Order(text, tuple(notes + _alike(text)), otherwise)


def given(classes: Sequence[str], folders: Iterable[Path], where: str) -> tuple[str, ...]:
    """Return classes that train, a file, a run or the user lists, once every folder is among them.

    Parameters
    ----------
    classes
        By label; those without a folder have no images.
    folders
        The class folders.
    where
        Who lists the classes, for messages.

    Raises
    ------
    ValueError
        For a folder that is not listed, or a name twice.
    """
    names, known = tuple(classes), {same(name) for name in classes}
    if len(known) < len(names):
        twice = next(name for name in names if sum(same(name) == same(one) for one in names) > 1)
        raise ValueError(f"{where} name class {twice!r} twice; name each once")
    for folder in folders:
        if same(folder.name) not in known:
            unknown = nearest(folder.name, names, "class")
            raise ValueError(
                f"{folder.parent}: {unknown} ({where}); rename or remove the folder, so that only these are there"
            )
    return names


def read_order(path: Path, *, tabs: bool = False) -> tuple[str, ...] | None:
    """Return the names in an order file, None where there is no such file; raise ValueError for what is no list.

    With `tabs` a line may have some, which are taken as spaces.
    """
    if not path.is_file():
        return None
    with path.open("rb") as source:
        content = source.read(_MOST_BYTES + 1)
    try:
        if len(content) > _MOST_BYTES:
            raise ValueError("it is too long")
        lines = [line.strip() for line in content.decode("utf-8-sig").splitlines()]
    except ValueError as error:
        raise ValueError(
            f"{path} is not a list of class names in UTF-8 ({error}); write one name a line"
        ) from error
    names = tuple(line.replace("\t", " ") if tabs else line for line in lines if line)
    if not names or not all(name.isprintable() for name in names):
        raise ValueError(f"{path} names no class, or one that cannot be shown; write one name a line")
    return names


def _numbered(text: tuple[str, ...], root: Path) -> Order:
    classes = tuple(sorted(text, key=int))
    for one, other in pairwise(classes):
        if int(one) == int(other):
            raise ValueError(
                f"class folders {one} and {other} in {root} are one number; put their images into one folder, or "
                f"list all class folders in {root / ORDER_FILE}"
            )
    notes: list[str] = []
    if classes != text:
        notes.append(
            f"classes: {listed(list(classes))}, in the order of their numbers; sorted as text they would be "
            f"{listed(list(text))}: if your model was trained on that order, list them so, a line each, in "
            f"{root / ORDER_FILE}"
        )
    if other := next(
        (f"{name} is label {label}" for label, name in enumerate(classes) if int(name) != label), None
    ):
        notes.append(
            f"class folder {other}: {POSITIONS}, whose numbers do not count from 0 "
            "without a gap; if your model has outputs for the other numbers, make an empty folder for each"
        )
    return Order(classes, tuple(notes), text if classes != text else None)


def _natural(name: str) -> tuple[list[tuple[int, int | str]], str]:
    """Return a key that sorts the numbers within names as numbers."""
    parts = [part for part in _DIGITS.split(name) if part]
    return [(0, int(part)) if part.isascii() and part.isdigit() else (1, part) for part in parts], name


def _alike(names: tuple[str, ...]) -> list[str]:
    """Return a note about names that differ only in upper and lower case or in spaces."""
    first: dict[str, str] = {}
    pairs: list[str] = []
    for name in names:
        key = " ".join(same(name).casefold().split())
        if key in first:
            pairs.append(f"{first[key]!r} and {name!r}")
        first.setdefault(key, name)
    return [f"classes {listed(pairs)} differ only in case or spaces and are counted apart"] if pairs else []
