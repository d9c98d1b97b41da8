"""Folders of images, one folder for each class."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from memory_defense.checks import nearest
from memory_defense.contracts import Progress
from memory_defense.data.image_files import SUFFIXES, is_colour, read_image
from memory_defense.data.limits import Limits, check_sides, fit
from memory_defense.data.sources import DataNotFoundError

_SPLITS = ("train", "test")
_SYSTEM_FILES = ("Thumbs.db", "desktop.ini")
_NAMED = 5
"""Offending files that one message lists."""
_NOTED = 100
"""Files read between two notes of progress."""


class ImageFolder:
    """Images as ``ROOT/SPLIT/CLASS/FILE``, where a split is ``train`` or ``test`` and either may be missing.

    Labels are the positions of the class folders' names in sorted order: those of ``train`` where it is there,
    else those of ``test``. Within a split images are sorted by class, then by file name. Hidden files are left
    out; everything else that is no image is an error.

    Parameters
    ----------
    root
        The folder.
    limits
        Largest data that are read.
    progress
        Advanced as files are read.

    Raises
    ------
    ValueError
        If class folders do not fit together, or links leave the folder; `DataNotFoundError`, a ValueError,
        when there is neither ``train`` nor ``test``.
    """

    def __init__(self, root: Path, limits: Limits, progress: Progress | None = None) -> None:
        self.root, self.limits, self._progress = root, limits, progress
        self._real = os.path.realpath(root)
        found = {entry.name: entry for entry in self._entries(root)}
        self.splits = tuple(split for split in _SPLITS if split in found and found[split].is_dir())
        if not self.splits:
            held = ", ".join(sorted(found)[:_NAMED]) or "nothing"
            raise DataNotFoundError(
                f"{root} has neither a folder 'train' nor a folder 'test' (it holds {held}); "
                f"put images at {root / 'test' / 'CLASS' / 'NAME.png'}"
            )
        if progress and (others := sorted(found.keys() - set(self.splits))):
            progress.note(f"not read in {root}: {', '.join(others)}")
        self.classes = self._classes()

    def read(self, split: str, size: int | None = None) -> tuple[Tensor, Tensor]:
        """Return images (N, C, H, W) uint8 and labels (N,) int64.

        C is 1 where every file of the folder is a grey image, 3 otherwise; grey images are then repeated.

        Parameters
        ----------
        split, size
            As in `array_files.ArrayFile.read`.

        Raises
        ------
        ValueError
            For a file that is no readable image, or whose size differs where `size` is None; the text names it.
        """
        files = self._files(split)
        self.limits.check_count(str(self.root / split), len(files))
        pictures = self._pictures(split, [path for path, _ in files], size)
        colour = any(picture.ndim == 3 for picture in pictures) or self._colour_elsewhere(split)
        channels, side = (3 if colour else 1), len(pictures[0])
        images = np.empty((len(pictures), channels, side, side), np.uint8)
        for place, picture in zip(images, pictures, strict=True):
            place[:] = picture.transpose(2, 0, 1) if picture.ndim == 3 else picture  # (C, H, W)
        return torch.from_numpy(images), torch.tensor([label for _, label in files])

    def _classes(self) -> tuple[str, ...]:
        names = {split: self._folders(split) for split in self.splits}
        classes = names[self.splits[0]]
        for name in names[self.splits[-1]]:
            if name not in classes:
                raise ValueError(f"{self.root / 'test'}: {nearest(name, classes, 'class')} (the folders of train)")
        self.limits.check_classes(str(self.root / self.splits[0]), len(classes))
        return classes

    def _folders(self, split: str) -> tuple[str, ...]:
        entries = self._entries(self.root / split)
        self._refuse([entry for entry in entries if not entry.is_dir()], "lie beside the class folders")
        for entry in entries:
            if not entry.name.isprintable():
                raise ValueError(f"{str(entry)!a} cannot be shown; rename this class folder")
        return tuple(entry.name for entry in entries)

    def _files(self, split: str) -> list[tuple[Path, int]]:
        """Return the files of a split and their labels, in order."""
        files: list[tuple[Path, int]] = []
        strays: list[Path] = []
        for label, name in enumerate(self.classes):
            folder = self.root / split / name
            for path in self._entries(folder) if folder.is_dir() else ():
                if path.suffix.lower() in SUFFIXES and path.is_file():
                    files.append((path, label))
                else:
                    strays.append(path)
        self._refuse(strays, f"are no {', '.join(SUFFIXES)} files")
        return files

    def _entries(self, folder: Path) -> list[Path]:
        """Return what a folder holds, sorted by name, without hidden files; refuse links that lead outside."""
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
        entries = [path for path in entries if not path.name.startswith(".") and path.name not in _SYSTEM_FILES]
        for path in entries:
            if path.is_symlink() and not Path(target := os.path.realpath(path)).is_relative_to(self._real):
                raise ValueError(f"{path} is a link out of {self.root}, to {target}; copy what it leads to instead")
        return entries

    def _refuse(self, paths: list[Path], why: str) -> None:
        if paths:
            shown = ", ".join(str(path.relative_to(self.root)) for path in paths[:_NAMED])
            more = f" and {len(paths) - _NAMED} more" * (len(paths) > _NAMED)
            raise ValueError(f"{self.root}: {shown}{more} {why}; convert, move or remove them")

    def _pictures(self, split: str, paths: list[Path], size: int | None) -> list[np.ndarray]:
        pictures: list[np.ndarray] = []
        if self._progress:
            self._progress.begin(f"reading {self.root / split}", len(paths))
        for number, path in enumerate(paths):
            picture = read_image(path, self.limits)
            height, width = picture.shape[:2]
            check_sides(str(path), height, width, size)
            picture = picture if size is None else fit(picture, size)
            if not pictures:
                self.limits.check_memory(str(self.root / split), len(paths) * 3 * len(picture) ** 2)
            elif len(picture) != len(pictures[0]):
                raise ValueError(
                    f"{path} is {len(picture)} x {len(picture)} pixels, but {paths[0]} is {len(pictures[0])} x "
                    f"{len(pictures[0])}; resize them all with size={len(pictures[0])}, say"
                )
            pictures.append(picture)
            if self._progress and ((number + 1) % _NOTED == 0 or number + 1 == len(paths)):
                self._progress.advance(number % _NOTED + 1)
        return pictures

    def _colour_elsewhere(self, split: str) -> bool:
        """Return whether another split has colour, so that all splits have the same channels."""
        others = (path for other in self.splits if other != split for path, _ in self._files(other))
        return any(is_colour(path, self.limits) for path in others)
