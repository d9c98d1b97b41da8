"""Tiny datasets in every layout, and a world in which only tests provide sources."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from memory_defense.data import sources
from memory_defense.data.decode import Arrays
from memory_defense.data.spec import DATASETS, DatasetSpec


@dataclass(frozen=True)
class Tiny:
    """A small dataset that goes by a real one's name."""

    spec: DatasetSpec
    arrays: Arrays

    def same(self, other: Arrays) -> bool:
        return all(
            torch.equal(mine, theirs) for mine, theirs in zip(_parts(self.arrays), _parts(other), strict=True)
        )

    def idx(self, suffix: str = "") -> dict[str, bytes]:
        """Return the files of the IDX layout, written byte by byte."""
        a = self.arrays
        parts = {
            "train-images-idx3-ubyte": a.train_images[:, 0],
            "train-labels-idx1-ubyte": a.train_labels,
            "t10k-images-idx3-ubyte": a.test_images[:, 0],
            "t10k-labels-idx1-ubyte": a.test_labels,
        }
        packed = {name + suffix: idx_bytes(values) for name, values in parts.items()}
        return {name: gzip.compress(content) for name, content in packed.items()} if suffix else packed

    def _cifar(self) -> dict[str, tuple[Tensor, Tensor]]:
        a = self.arrays
        images, labels = a.train_images.chunk(5), a.train_labels.chunk(5)
        batches = {f"data_batch_{n + 1}": (images[n], labels[n]) for n in range(5)}
        return batches | {"test_batch": (a.test_images, a.test_labels)}

    def records(self) -> dict[str, bytes]:
        """Return the files of the binary layout, one record after the other."""
        return {
            f"{name}.bin": b"".join(
                bytes([int(label)]) + image.numpy().tobytes() for image, label in zip(*batch, strict=True)
            )
            for name, batch in self._cifar().items()
        }

    def pictures(self) -> dict[str, bytes]:
        """Return the files of the PNG layout, pixel by pixel."""
        size = self.spec.size
        files: dict[str, bytes] = {}
        for name, (images, _) in self._cifar().items():
            table = Image.new("RGB", (size * size, len(images)))
            for row, image in enumerate(images.tolist()):
                for y in range(size):
                    for x in range(size):
                        table.putpixel((y * size + x, row), tuple(image[c][y][x] for c in range(3)))
            stream = io.BytesIO()
            table.save(stream, "PNG")
            files[f"{name}.png"] = stream.getvalue()
        files["train_lables.json"] = json.dumps(self.arrays.train_labels.tolist()).encode()
        files["test_lables.json"] = json.dumps(self.arrays.test_labels.tolist()).encode()
        return files


def _parts(arrays: Arrays) -> list[Tensor]:
    return [arrays.train_images, arrays.train_labels, arrays.test_images, arrays.test_labels]


def idx_bytes(values: Tensor) -> bytes:
    header = struct.pack(">HBB", 0, 8, values.dim()) + b"".join(struct.pack(">I", n) for n in values.shape)
    return header + bytes(values.flatten().tolist())


def _tiny(name: str, size: int) -> Tiny:
    noise = np.random.default_rng(7)
    channels = DATASETS[name].channels

    def images(count: int) -> Tensor:
        return torch.from_numpy(noise.integers(0, 256, (count, channels, size, size), dtype=np.uint8))

    def labels(count: int) -> Tensor:
        return torch.from_numpy(noise.permutation(np.arange(count, dtype=np.uint8) % 10))

    arrays = Arrays(images(40), labels(40), images(20), labels(20))
    spec = replace(
        DATASETS[name], size=size, train_images=40, test_images=20, held_out_images=10, sha256=arrays.sha256()
    )
    return Tiny(spec, arrays)


@pytest.fixture(scope="session")
def grey() -> Tiny:
    """Return a tiny Fashion-MNIST."""
    return _tiny("fashion-mnist", 6)


@pytest.fixture(scope="session")
def colour() -> Tiny:
    """Return a tiny CIFAR-10."""
    return _tiny("cifar10", 5)


@pytest.fixture
def put():
    """Return a function that writes files into a folder and returns the folder."""

    def write(folder: Path, files: Mapping[str, bytes]) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return folder

    return write


@pytest.fixture
def tar():
    """Return a function that writes a tar archive; a value may also be a `TarInfo` that carries no content."""

    def write(path: Path, members: Mapping[str, bytes | tarfile.TarInfo]) -> Path:
        with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
            for name, content in members.items():
                if isinstance(content, tarfile.TarInfo):
                    archive.addfile(content)
                    continue
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return path

    return write


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Leave no source but an empty cache; return its directory."""
    monkeypatch.setenv("MEMDEF_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MEMDEF_DATA", raising=False)
    monkeypatch.setattr(sources, "SYSTEM", {})
    return tmp_path / "cache"


class Heard:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.stages: list[list[object]] = []
        self.notes: list[str] = []

    def begin(self, what: str, total: int) -> None:
        self.stages.append([what, total, 0])

    def advance(self, steps: int, text: str = "") -> None:
        self.stages[-1][2] += steps  # type: ignore[operator]

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def heard() -> Heard:
    """Return a progress that remembers what it was told."""
    return Heard()
