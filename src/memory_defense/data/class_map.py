"""Which output of a model a class folder stands for, where the model knows more classes than there are folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from memory_defense.data.class_order import read_order, same
from memory_defense.data.leftovers import listed
from memory_defense.names import nearest

IMAGENET_CLASSES = 1000
_SYNSETS = Path(__file__).with_name("imagenet_synsets.txt")
"""The WordNet numbers of ImageNet's 1,000 classes (ILSVRC 2012): sorted, they are the classes by index."""
_SYNSET = re.compile(r"n\d{8}", re.ASCII)
_PAIR = re.compile(r"(.*\S)\s+(\d+)", re.ASCII)


class Numbers(NamedTuple):
    """Outputs of a model by the position of a class folder, and where they come from, for a record."""

    outputs: tuple[int, ...]
    why: str


def read_listing(path: Path) -> tuple[str, ...]:
    """Return the lines of a file of classes, without a look at what they say.

    Raises
    ------
    ValueError
        If it does not exist, or is no list in UTF-8.
    """
    lines = read_order(path, tabs=True)
    if lines is None:
        raise ValueError(f"{path} does not exist; write a class a line, or FOLDER and a number a line")
    return lines


def listed_numbers(folders: Sequence[str], lines: Sequence[str], where: Path) -> Numbers:
    """Return what a file says of the class folders.

    Either its lines are the model's classes, in the order of its outputs, and every folder is one of them; or there
    is a number for each folder, in the order in which folders are sorted; or each line is a folder's name, a space
    or tab, and a number.

    Parameters
    ----------
    folders
        Names of the class folders, in their order.
    lines
        From `read_listing`.
    where
        The file, for messages.

    Raises
    ------
    ValueError
        For a folder that the file does not have.
    """
    why = f"labels are the model's outputs as {where} lists them"
    by_name = {same(line): number for number, line in enumerate(lines)}
    if len(by_name) == len(lines) and all(same(folder) in by_name for folder in folders):
        return Numbers(tuple(by_name[same(folder)] for folder in folders), why)
    if len(lines) == len(folders) and all(line.isascii() and line.isdigit() for line in lines):
        return Numbers(tuple(map(int, lines)), why)
    pairs = [_PAIR.fullmatch(line) for line in lines]
    if not all(pairs):
        missing = next(folder for folder in folders if same(folder) not in by_name)
        raise ValueError(
            f"{where}: {nearest(missing, tuple(lines), 'class')}; list the model's classes in the order of its "
            "outputs, or write the folder's name and its number on each line"
        )
    known = {same(pair[1]): int(pair[2]) for pair in pairs if pair}
    for folder in folders:
        if same(folder) not in known:
            raise ValueError(f"{where}: {nearest(folder, tuple(known), 'class folder')}; add a line for it")
    return Numbers(tuple(known[same(folder)] for folder in folders), why)


def found_numbers(folders: Sequence[str], outputs: int, names: Sequence[str] | None = None) -> Numbers | None:
    """Return which of its outputs a model has for the class folders, by their names alone; None for no answer.

    In this order: the model's own names of its classes; whole numbers, where the model has more outputs than there
    are folders; ImageNet's synsets such as ``n02123045``, where it has 1,000.

    Parameters
    ----------
    folders
        Names of the class folders.
    outputs
        How many classes the model knows.
    names
        The model's names by output, if it brings any; several of one class may be joined by commas.
    """
    if names is not None and (found := _by_names(folders, names)) is not None:
        return Numbers(found, "labels are the outputs that the model itself names so")
    if outputs <= len(folders):
        return None
    if all(folder.isascii() and folder.isdigit() and int(folder) < outputs for folder in folders):
        return Numbers(
            tuple(map(int, folders)),
            f"labels are the numbers that the class folders {listed(list(folders))} are named by, among the "
            f"{outputs:,} outputs of the model",
        )
    if outputs == IMAGENET_CLASSES and all(_SYNSET.fullmatch(folder) for folder in folders):
        known = {synset: number for number, synset in enumerate(_SYNSETS.read_text().split())}
        if all(folder in known for folder in folders):
            return Numbers(
                tuple(known[folder] for folder in folders),
                f"labels are the outputs of ImageNet's synsets {listed(list(folders))}",
            )
    return None


def class_names(folders: Sequence[str], numbers: Sequence[int], outputs: int) -> tuple[str, ...]:
    """Return a name for each output: its folder's, or its number where it has none or the name is taken."""
    named = dict(zip(numbers, folders, strict=True))
    taken = set(named.values())
    return tuple(
        named.get(number) or (str(number) if str(number) not in taken else f"output {number}")
        for number in range(outputs)
    )


def _by_names(folders: Sequence[str], names: Sequence[str]) -> tuple[int, ...] | None:
    """Return the output that has each folder's name, whatever its case, spaces and underscores; None for doubt."""
    known: dict[str, set[int]] = {}
    for number, name in enumerate(names):
        for one in {name, *name.split(",")}:
            known.setdefault(_plain(one), set()).add(number)
    found = [known.get(_plain(folder), set()) for folder in folders]
    return tuple(next(iter(one)) for one in found) if all(len(one) == 1 for one in found) else None


def _plain(name: str) -> str:
    return " ".join(same(name).casefold().replace("_", " ").replace("-", " ").split())
