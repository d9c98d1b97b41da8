"""Folders of images, one folder for each class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from stat import S_ISREG

import torch
from torch import Tensor

from memory_defense.contracts import Labels, Progress, Rows
from memory_defense.data.class_order import ORDER_FILE, Order, given, order_of, read_order, same
from memory_defense.data.folder_pixels import FolderPixels, ImageFile
from memory_defense.data.geometry import Framing
from memory_defense.data.image_files import SUFFIXES, is_colour
from memory_defense.data.leftovers import LeftOut, is_document, is_leftover, listed
from memory_defense.data.limits import Limits
from memory_defense.data.places import DataNotFoundError, shown

_SPLITS = ("train", "test")
_OTHER_NAMES = {"train": ("training",), "test": ("testing", "val", "valid", "validation", "eval")}
"""What people call a split, in any case, beside its name."""


class ImageFolder:
    """Images as ``ROOT/SPLIT/CLASS/FILE``, where a split is ``train`` or ``test`` and either may be missing.

    Labels are positions of the class folders: in the order of the numbers where all names are whole numbers, else
    sorted as text; `class_order.ORDER_FILE` beside the splits says otherwise. The classes are those of ``train``
    where it is there, else those of ``test``; names whose accents are composed differently are one. Within a split
    images are sorted by class, then by file name. What systems and archives leave behind, and texts, are left out
    and told; everything else that is no image is an error. A split is listed once.

    Parameters
    ----------
    root
        The folder.
    limits
        Largest data that are read.
    progress
        Advanced as files are read.
    classes
        Classes by label; None takes the order above.

    Raises
    ------
    ValueError
        If class folders do not fit together, or links leave the folder; `DataNotFoundError`, a ValueError,
        when there is neither ``train`` nor ``test``.
    """

    def __init__(
        self, root: Path, limits: Limits, progress: Progress | None = None, *, classes: Sequence[str] | None = None
    ) -> None:
        self.root, self.limits, self._progress = root, limits, progress
        self._real, self._left_out = os.path.realpath(root), LeftOut()
        found = {entry.name: entry for entry in self._entries(root)}
        self.splits = tuple(split for split in _SPLITS if split in found and found[split].is_dir())
        if not self.splits:
            raise DataNotFoundError(self._no_splits(found))
        self._others = sorted(found.keys() - {*self.splits, ORDER_FILE})
        self._folders = {split: self._class_folders(split) for split in self.splits}
        self._order = self._ordered(classes)
        self.classes = self._order.classes
        self._times: dict[Path, int] = {}
        self._listings: dict[str, list[ImageFile]] = {}
        self._read: list[str] = []

    @property
    def otherwise(self) -> tuple[str, ...] | None:
        """The classes in the other order that a model may count them in; None where there is no doubt."""
        return self._order.otherwise

    @property
    def notes(self) -> tuple[str, ...]:
        """What was skipped, substituted or assumed so far, a line each."""
        others = [f"not read in {self.root}: {listed(self._others)}"] if self._others else []
        return (*others, *filter(None, [self._left_out.note(self.root)]), *self._order.notes, *self._read)

    def labels(self, split: str) -> Labels:
        """Return labels (N,) int64 of a split, without reading an image."""
        return torch.tensor([file.label for file in self._files(split)], dtype=torch.int64)

    def name(self, split: str, row: int) -> str:
        """Return the name of an image, for messages."""
        return shown(str(self._files(split)[row].path.relative_to(self.root)))

    def read(
        self, split: str, size: Framing = None, rows: Rows | None = None, *, order: Rows | None = None
    ) -> tuple[Tensor, Labels]:
        """Return images (N, C, H, W) uint8 and labels (N,) int64.

        C is 1 where every file of the folder is a grey image, 3 otherwise; grey images are then repeated. Many
        images, or large ones, are decoded once into the cache (`decoded`), and what is returned is mapped into
        memory from there: it takes none, and must not be written to.

        Parameters
        ----------
        split, size, rows
            As in `array_files.ArrayFile.read`. No other file is decoded; where all of these are grey, the headers
            of the others are read as well.
        order
            (M,) int64: what `rows` are the first of, so that one file of the cache serves all that begin alike;
            None takes the rows themselves.

        Raises
        ------
        ValueError
            For a file that is no readable image, or whose size differs where `size` is None; the text names it.
        """
        files = self._files(split)
        chosen = files if rows is None else [files[int(row)] for row in rows]
        self.limits.check_count(str(self.root / split), len(chosen))
        every = chosen if order is None else [files[int(row)] for row in order]
        reader = FolderPixels(self.root, split, chosen, size, self.limits, self._progress)
        images = reader.read(every)
        self._read += reader.notes
        if images.shape[1] == 1 and self._colour_elsewhere(split, chosen):
            images = images.expand(-1, 3, -1, -1)
        self._note_what_changed(split)
        there = {file.label for file in files}
        if empty := [name for label, name in enumerate(self.classes) if label not in there]:
            self._read.append(f"classes without images in {split}: {listed(empty)}")
        return images, torch.tensor([file.label for file in chosen])

    def _no_splits(self, found: dict[str, Path]) -> str:
        """Return the message for a folder without splits: what it holds, and what to do about it."""
        held = listed(sorted(found)) or "nothing"
        said = f"{self.root} has neither a folder 'train' nor a folder 'test' (it holds {held})"
        for name, entry in sorted(found.items()):
            for split in _SPLITS:
                if entry.is_dir() and (entry / split).is_dir():
                    return f"{said}; they are in {shown(str(entry))}: give that"
                if entry.is_dir() and name.casefold() in (split, *_OTHER_NAMES[split]):
                    return f"{said}; rename {name!r} to {split!r}"
        for split in _SPLITS:
            if split in found:
                return f"{said}; {split!r} is a file: give a folder, or unpack it"
        return f"{said}; put images at {self.root / 'test' / 'CLASS' / 'NAME.png'}"

    def _ordered(self, classes: Sequence[str] | None) -> Order:
        """Return the classes by label, and check that the folders of every split are among them."""
        every = [folder for split in self.splits for folder in self._folders[split]]
        listing = self.root / ORDER_FILE
        if classes is not None:
            order = Order(given(classes, every, "the classes that were asked for"), ())
        elif (lines := read_order(listing)) is not None:
            order = Order(given(lines, every, f"the lines of {listing}"), (f"classes in the order of {listing}",))
        else:
            first: dict[str, str] = {}
            for folder in self._folders[self.splits[0]]:
                first.setdefault(same(folder.name), folder.name)
            names = given(tuple(first.values()), every, f"the folders of {self.splits[0]}")
            order = order_of(names, self.root)
        if len(every) == 1 and any(entry.is_dir() for entry in self._entries(every[0])):
            raise ValueError(
                f"{every[0]} holds folders and is the only class folder: a level too deep? move what it holds to "
                f"{every[0].parent}"
            )
        self.limits.check_classes(str(self.root / self.splits[0]), len(order.classes))
        written = [str(folder.relative_to(self.root)) for folder in every if folder.name not in order.classes]
        if not written:
            return order
        note = (
            f"accents in the names of {listed(written)} are composed differently from elsewhere: taken as one class"
        )
        return order._replace(notes=(*order.notes, note))

    def _class_folders(self, split: str) -> list[Path]:
        entries = self._without_documents(self._entries(self.root / split))
        self._refuse([entry for entry in entries if not entry.is_dir()], "lie beside the class folders", split)
        for entry in entries:
            if not entry.name.isprintable():
                raise ValueError(f"{str(entry)!a} cannot be shown; rename this class folder")
        return entries

    def _files(self, split: str) -> list[ImageFile]:
        """Return the files of a split, in order, as they were when first asked for."""
        if split not in self._listings:
            self._listings[split] = self._listed(split)
        return self._listings[split]

    def _listed(self, split: str) -> list[ImageFile]:
        folders: dict[str, list[Path]] = {}
        for folder in self._folders[split]:
            folders.setdefault(same(folder.name), []).append(folder)
        files: list[ImageFile] = []
        strays: list[Path] = []
        for label, name in enumerate(self.classes):
            for folder in folders.get(same(name), ()):
                self._times[folder] = folder.stat().st_mtime_ns
                for path in self._without_documents(self._entries(folder)):
                    stamp = _stamp(path) if path.suffix.lower() in SUFFIXES else None
                    if stamp is None:
                        strays.append(path)
                    else:
                        files.append(ImageFile(path, label, stamp))
        self._refuse(
            [path for path in strays if path.is_dir()],
            "are folders inside class folders, and are not class folders",
            split,
        )
        self._refuse(strays, f"are not {', '.join(SUFFIXES)} files", split)
        return files

    def _entries(self, folder: Path) -> list[Path]:
        """Return what a folder holds, sorted by name, without leftovers; refuse links that lead outside."""
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
        for path in entries:
            if is_leftover(path.name):
                self._left_out.add(path)
        entries = [path for path in entries if not is_leftover(path.name)]
        for path in entries:
            if path.is_symlink() and not Path(target := os.path.realpath(path)).is_relative_to(self._real):
                raise ValueError(
                    f"{shown(path)} is a link out of {self.root}, to {shown(target)}; copy what it leads to instead"
                )
        return entries

    def _without_documents(self, entries: list[Path]) -> list[Path]:
        """Return entries without texts about the images, which are counted."""
        documents = {path for path in entries if is_document(path) and path.is_file()}
        for path in documents:
            self._left_out.add(path)
        return [path for path in entries if path not in documents]

    def _refuse(self, paths: list[Path], why: str, split: str) -> None:
        if paths:
            strays = listed([str(path.relative_to(self.root)) for path in paths])
            raise ValueError(
                f"{self.root}: {strays} {why}; convert, move or remove them: {split}/CLASS/FILE is read, and the "
                "folder of a file is its class"
            )

    def _colour_elsewhere(self, split: str, read: list[ImageFile]) -> bool:
        """Return whether a file that was not read has colour, so that all splits have the same channels."""
        done = {file.path for file in read}
        ordered = (split, *(other for other in self.splits if other != split))
        others = (file.path for one in ordered for file in self._files(one) if file.path not in done)
        return any(is_colour(path, self.limits) for path in others)

    def _note_what_changed(self, split: str) -> None:
        """Note the files that arrived in the class folders since they were listed."""
        known = {file.path for file in self._files(split)}
        arrived: list[str] = []
        for folder in self._folders[split]:
            if folder.is_dir() and folder.stat().st_mtime_ns != self._times[folder]:
                here = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]
                arrived += [path.name for path in here if path not in known and not is_leftover(path.name)]
        if arrived:
            self._read.append(
                f"{len(arrived):,} files arrived in {self.root / split} while it was read, and are not among the "
                f"images: {listed(arrived)}"
            )


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return bytes and time of the last change of a regular file, None for anything else."""
    try:
        state = path.stat()
    except OSError:  # a link to nothing or to itself
        return None
    return (state.st_size, state.st_mtime_ns) if S_ISREG(state.st_mode) else None
