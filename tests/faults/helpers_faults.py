"""A made-up Fashion-MNIST in its makers' file format, the command line in this process, and small classifiers."""

from __future__ import annotations

import contextlib
import gzip
import io
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from memory_defense.cli import main
from memory_defense.data.decode import Arrays
from memory_defense.data.spec import DATASETS, DatasetSpec
from memory_defense.randomness import ImageDraws

CLASSES, SIDE = 10, 28


class Said(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


def memdef(*arguments: object) -> Said:
    """Run the command line as ``python -m memory_defense`` does, in this process."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["memdef", *map(str, arguments)]
    status = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        sys.argv = before
    return Said(status, out.getvalue(), " ".join(err.getvalue().split()))


def refused(said: Said, *words: str) -> None:
    """Check that a command ended with status 2 and one message that has these words, and no traceback."""
    assert said.status == 2, said
    assert "Traceback" not in said.err
    for word in words:
        assert word in said.err, said.err


def made_up() -> tuple[DatasetSpec, Arrays]:
    """Return a tiny dataset that goes by the name of Fashion-MNIST: class k is a bright bar in column 2 k."""
    labels = (torch.arange(400) % CLASSES).to(torch.uint8)
    images = (ImageDraws.of(0, "made up", 400).uniform(1, SIDE, SIDE) * 120).to(torch.uint8)
    for row, label in enumerate(labels.tolist()):
        images[row, 0, 2 * label : 2 * label + 4] += 120
    arrays = Arrays(images[:300], labels[:300], images[300:], labels[300:])
    spec = replace(
        DATASETS["fashion-mnist"],
        train_images=300,
        test_images=100,
        held_out_images=50,
        sha256=arrays.sha256(),
    )
    return spec, arrays


def write_files(folder: Path, arrays: Arrays) -> Path:
    """Write the four compressed IDX files of a dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in {
        "train-images-idx3": arrays.train_images[:, 0],
        "train-labels-idx1": arrays.train_labels,
        "t10k-images-idx3": arrays.test_images[:, 0],
        "t10k-labels-idx1": arrays.test_labels,
    }.items():
        header = struct.pack(f">{1 + values.dim()}I", 0x0800 + values.dim(), *values.shape)
        (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(header + values.numpy().tobytes(), mtime=0))
    return folder


class Front(nn.Module):
    """A fixed random network of five classes for images (B, 1, 8, 8); `back` changes its logits."""

    def __init__(self, back: Callable[[Tensor], object] = lambda logits: logits) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 5))
        self.back = back

    def forward(self, images: Tensor) -> object:
        """Return whatever `back` makes of the logits."""
        return self.back(self.network(images))


def some_images(count: int = 12) -> Tensor:
    """Return random images (B, 1, 8, 8)."""
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def some_labels(count: int = 12) -> Tensor:
    """Return what `Front` answers."""
    with torch.no_grad():
        return Front().network(some_images(count)).argmax(1)


def five_classes(path: Path, count: int = 20) -> Path:
    """Write a `.npz` file of images (N, 1, 8, 8) of five classes."""
    np.savez(path, images=some_images(count).numpy(), labels=(torch.arange(count) % 5).numpy())
    return path
