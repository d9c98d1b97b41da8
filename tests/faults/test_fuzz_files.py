"""Thousands of damaged files for every reader: each is read, or refused with a ValueError that names the file.

Damage is drawn from a seed: bytes changed, cut out, put in, numbers in headers made huge, and files cut short. What
may be allocated is bounded while the readers run.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import resource
import tarfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.test_record import make as made_record
from faults.helpers_faults import made_up, some_images, write_files
from faults.test_every_file import blank, state, write_state
from memory_defense.data.decode import Arrays
from memory_defense.data.layouts import AbsentDataError, read_directory
from memory_defense.data.own import load_images
from memory_defense.data.spec import DATASETS, DatasetSpec
from memory_defense.evaluation.record import Record
from memory_defense.evaluation.results import read_per_image, write_per_image
from memory_defense.evaluation.store import Store
from memory_defense.files import write_text
from memory_defense.reporting import Gallery
from memory_defense.run_directory import RunDirectory
from memory_defense.tensorfiles import read_tensors, write_tensors
from memory_defense.training.checkpoint import load_weights, read_state, save_weights

ROOM = 3 << 30
"""Address space, in bytes, that readers may take beyond what the process has; a forged size would take far more."""

NUMBERS = (
    b"-1",
    b"0",
    b"99999999999",
    b"1e999",
    b"NaN",
    b"null",
    b'"x"',
    b"[]",
    b"{}",
    b"true",
    b"0.5",
    b"9" * 400,
)
PIECES = (
    b"\x00",
    b"\xff" * 8,
    b"\x7f\xff\xff\xff",
    b"{",
    b"[" * 3000,
    b'"',
    b"\\ud800",
    b"\xc3",
    b"PK\x03\x04",
    b"\x80",
)

Read = Callable[[Path], object]


def damaged(whole: bytes, chance: random.Random) -> bytes:
    """Return the bytes with one to four faults."""
    content = bytearray(whole)
    for _ in range(chance.randint(1, 4)):
        size = len(content)
        # Headers matter most and are short: half of all faults are near the beginning.
        place = chance.randrange(size + 1) if chance.random() < 0.5 else min(int(size * chance.random() ** 8), 400)
        kind = chance.randrange(6)
        if kind == 0 and size:
            content[min(place, size - 1)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            content[place : place + chance.randint(1, 40)] = b""
        elif kind == 2:
            content[place:place] = chance.choice(PIECES)
        elif kind == 3:
            content[place:] = b"" if chance.random() < 0.3 else content[place:]
        elif kind == 4:
            content[place : place + chance.randint(1, 8)] = chance.randbytes(chance.randint(1, 8))
        else:
            _replace_number(content, place, chance)
    return bytes(content)


def _replace_number(content: bytearray, place: int, chance: random.Random) -> None:
    digits = b"0123456789"
    start = next((at for at in range(place, min(place + 300, len(content))) if content[at] in digits), None)
    if start is None:
        return
    end = start
    while end < len(content) and content[end] in digits:
        end += 1
    content[start:end] = chance.choice(NUMBERS)


@contextmanager
def little_room() -> Generator[None]:
    """Let the process grow by `ROOM` at most."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def fuzz(path: Path, read: Read, count: int, seed: int, named: str | None = None) -> None:
    """Damage a file `count` times, and read it each time; `named` is what a refusal must name, if not the file."""
    whole = path.read_bytes()
    read(path)
    chance, refusals = random.Random(seed), 0
    with little_room():
        for number in range(count):
            path.write_bytes(damaged(whole, chance))
            try:
                read(path)
            except (ValueError, AbsentDataError) as error:
                refusals += 1
                if (named or path.name) not in str(error):
                    raise AssertionError(f"fault {number} of seed {seed} names no file: {error}") from error
            except BaseException as error:
                path.with_name("fault").write_bytes(path.read_bytes())
                raise AssertionError(f"fault {number} of seed {seed}: {type(error).__name__}: {error}") from error
    path.write_bytes(whole)
    assert refusals > count / 5, "the damage must be felt"


def test_records(tmp_path) -> None:
    path = tmp_path / "record.json"
    made_record().write(path)
    fuzz(path, Record.read, 3000, 1)


def test_manifests(tmp_path, trained_run) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"x" * 500)
    run = RunDirectory(tmp_path)
    write_text(run.manifest_path, (trained_run / "manifest.json").read_text())

    def read(_: Path) -> None:
        run.check_room(run.read())

    fuzz(run.manifest_path, read, 2000, 2)


def test_weights(tmp_path) -> None:
    path = tmp_path / "weights.safetensors"
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    save_weights(path, model, {"recipe": "r"})
    fuzz(path, read_tensors, 1500, 3)
    fuzz(path, lambda one: load_weights(one, model), 1500, 4)


def test_training_states(tmp_path, trained_run) -> None:
    path = tmp_path / "joint.state.safetensors"
    write_tensors(path, {"model/weight": torch.ones(3)}, {"run": json.dumps({"step": 3, "best": None})})
    fuzz(path, read_state, 1000, 5)


def test_unfinished_evaluations(tmp_path) -> None:
    path = tmp_path / "record.progress.log"
    write_state(tmp_path, 2)
    (tmp_path / "r.progress.log").rename(path)
    fuzz(path, lambda one: Store(one, "mine").resume(blank()[0]), 1500, 6)


def test_verdicts_of_every_image(tmp_path) -> None:
    path = tmp_path / "record.images.safetensors"
    write_per_image(path, *state(2))
    fuzz(path, lambda one: read_per_image(one).broken[0].images[:], 1500, 7)


def test_galleries(tmp_path) -> None:
    path = tmp_path / "gallery.safetensors"
    images, labels = some_images(3), torch.tensor([0, 1, 1])
    tensors = {"images": images, "adversarial": images, "labels": labels}
    tensors |= {"predictions_clean": labels, "predictions_adversarial": labels}
    header = {"classes": '["a", "b"]', "attack": "pgd", "knowledge": "any", "epsilon": "0.1", "norm": "linf"}
    write_tensors(path, {name: one.clone() for name, one in tensors.items()}, header | {"defense": "d"})
    fuzz(path, Gallery.read, 1000, 8)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files_of_arrays(tmp_path, suffix) -> None:
    path = tmp_path / f"images{suffix}"
    images, labels = some_images(6), torch.arange(6) % 2
    if suffix == ".npz":
        np.savez(path, images=images.numpy(), labels=labels.numpy(), classes=np.array(["a", "b"]))
    else:
        write_tensors(path, {"images": images, "labels": labels}, {"classes": '["a", "b"]'})
    fuzz(path, load_images, 1500, 9)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".ppm", ".tif", ".webp", ".gif"])
def test_image_files(tmp_path, suffix) -> None:
    for name in ("a", "b"):
        (tmp_path / "set" / "test" / name).mkdir(parents=True)
        pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "set" / "test" / name / f"x{suffix}")
    path = tmp_path / "set" / "test" / "a" / f"x{suffix}"
    fuzz(path, lambda _: load_images(tmp_path / "set"), 500, 10)


def fuzz_dataset(folder: Path, spec: DatasetSpec, name: str, count: int, seed: int) -> None:
    fuzz(folder / name, lambda _: read_directory(folder, spec), count, seed, named=folder.name)


def test_idx_files_packed_and_unpacked(tmp_path) -> None:
    spec, arrays = made_up()
    write_files(tmp_path, arrays)
    for kind, count in (("images-idx3", 200), ("labels-idx1", 300)):
        fuzz_dataset(tmp_path, spec, f"t10k-{kind}-ubyte.gz", count, 11)
    for path in tmp_path.glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    for kind, count in (("images-idx3", 200), ("labels-idx1", 300)):
        fuzz_dataset(tmp_path, spec, f"t10k-{kind}-ubyte", count, 12)


def test_cifar_archives(tmp_path) -> None:
    size, images = 4, torch.randint(0, 256, (60, 3, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
    labels = (torch.arange(60) % 10).byte()
    arrays = Arrays(images[:50], labels[:50], images[50:], labels[50:])
    facts: dict[str, Any] = {"size": size, "train_images": 50, "test_images": 10, "sha256": arrays.sha256()}
    spec = DatasetSpec(**(vars(DATASETS["cifar10"]) | facts))
    path = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for number in range(6):
            name = f"data_batch_{number + 1}.bin" if number < 5 else "test_batch.bin"
            rows = slice(10 * number, 10 * number + 10)
            body = b"".join(
                bytes([int(n)]) + one.numpy().tobytes() for n, one in zip(labels[rows], images[rows], strict=True)
            )
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    fuzz_dataset(tmp_path, spec, path.name, 700, 13)
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "cifar-10-binary.tar").write_bytes(gzip.decompress(path.read_bytes()))
    fuzz_dataset(plain, spec, "cifar-10-binary.tar", 700, 14)
