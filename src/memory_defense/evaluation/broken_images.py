"""Broken images by their rows: read from logs and files one by one, for whoever wants to see one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch

from memory_defense.contracts import Images, Rows
from memory_defense.evaluation.coded import decoded
from memory_defense.evaluation.log import Log
from memory_defense.evaluation.pixels import Pixels


class BrokenImages:
    """The breaking image of each row, or the clean one where there is none.

    Parameters
    ----------
    clean
        (N, C, H, W).
    place
        (N,) on the CPU: where each is in its log, -1 where there is none.
    logs
        Row i's is the one at i modulo their number.
    """

    def __init__(self, clean: Pixels, place: Rows, logs: Sequence[Log]) -> None:
        self.clean, self.place, self.logs = clean, place, logs

    def __getitem__(self, rows: Rows | slice) -> Images:
        """Return the images (n, C, H, W) at these positions, as float32; raise ValueError where one is damaged."""
        rows = positions(rows, len(self.place))
        images = self.clean[rows]
        for at, row in enumerate(cast("list[int]", rows.tolist())):
            place = int(self.place[row])
            if place >= 0:
                images[at] = decoded(self.coded(row), images[at]).to(images.device)
        return images

    def coded(self, row: int) -> bytes:
        """Return what `coded.coded` made of a row's breaking image."""
        return self.logs[row % len(self.logs)].blob(int(self.place[row]))


class FiledImages:
    """The breaking image of each row as a file of every image has it, NaN where nothing broke it.

    Parameters
    ----------
    shape
        C, H and W.
    place
        (N,) on the CPU: the number of the image in the file, -1 where there is none.
    image
        Returns one of them (C, H, W) by its number.
    """

    def __init__(self, shape: tuple[int, ...], place: Rows, image: Callable[[int], Images]) -> None:
        self.shape, self.place, self.image = shape, place, image

    def __getitem__(self, rows: Rows | slice) -> Images:
        """Return the images (n, C, H, W) at these positions."""
        rows = positions(rows, len(self.place))
        images = torch.full((len(rows), *self.shape), torch.nan)
        for at, number in enumerate(cast("list[int]", self.place[rows].tolist())):
            if number >= 0:
                images[at] = self.image(number)
        return images


def positions(rows: Rows | slice, count: int) -> Rows:
    """Return rows, given as positions, a mask or a slice of so many, as positions (n,) on the CPU."""
    if isinstance(rows, slice):
        return torch.arange(count)[rows]
    rows = rows.cpu()
    return rows.nonzero().squeeze(1) if rows.dtype == torch.bool else rows
