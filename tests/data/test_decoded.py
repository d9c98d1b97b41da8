"""Decoded once, mapped after that: the same pixels whoever decoded them, whole or absent, whatever happened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from memory_defense.data import decoded, folder_pixels
from memory_defense.data.folders import ImageFolder
from memory_defense.data.geometry import Geometry
from memory_defense.data.limits import Limits
from memory_defense.data.own import load_images, load_splits

GENERATOR = np.random.default_rng(0)
COUNT = 12


class Heard:
    """A progress that keeps its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def begin(self, what: str, total: int) -> None: ...

    def advance(self, steps: int, text: str = "") -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(autouse=True)
def _few_are_many(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(folder_pixels, "KEPT_FROM", 4)
    monkeypatch.setenv("MEMDEF_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    paths: list[str] = []
    decode = folder_pixels.decode_image

    def counted(path: Path, limits: Limits):
        paths.append(path.name)
        return decode(path, limits)

    monkeypatch.setattr(folder_pixels, "decode_image", counted)
    return paths


def _folder(root: Path, *, split: str = "test", count: int = COUNT, size: tuple[int, int] = (6, 9)) -> Path:
    for number in range(count):
        place = root / split / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = GENERATOR.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number:03}.png")
    return root


def _files() -> list[Path]:
    return [path for path, _, _ in decoded.contents()]


def test_the_second_load_decodes_nothing_and_is_the_same(tmp_path: Path, decodings: list[str]) -> None:
    root = _folder(tmp_path / "x")
    first, read = load_images(root), len(decodings)
    second = load_images(root)
    assert (read, len(decodings)) == (COUNT, COUNT)
    assert torch.equal(first.images.images, second.images.images)
    assert (first.sha256, first.notes, first.images.ids.tolist()) == (
        second.sha256,
        second.notes,
        second.images.ids.tolist(),
    )
    names = sorted((root / "test").glob("*/*"), key=lambda path: (path.parent.name, path.name))
    for image, number in zip(second.images.images, second.images.ids, strict=True):
        expected = np.asarray(Image.open(names[int(number)]))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_it_is_what_memory_would_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _folder(tmp_path / "x")
    Image.fromarray(GENERATOR.integers(0, 256, (6, 9), dtype=np.uint8)).save(root / "test/a/000.png")
    kept = load_images(root)
    monkeypatch.setattr(folder_pixels, "KEPT_FROM", 1000)
    for path in _files():
        path.unlink()
    held = load_images(root)
    assert torch.equal(kept.images.images, held.images.images)
    assert (kept.sha256, kept.notes) == (held.sha256, held.notes)
    assert _files() == []


def test_the_first_few_decode_few_and_more_go_on_from_them(tmp_path: Path, decodings: list[str]) -> None:
    root = _folder(tmp_path / "x")
    whole = [2, 5, 9, COUNT]
    seen = [load_images(root, images=count).images.images.clone() for count in whole]
    assert len(decodings) == 2 + COUNT  # two too few to be kept, then each once
    for count, images in zip(whole, seen, strict=True):
        assert torch.equal(images, seen[-1][:count])
    assert len(_files()) == 1
    load_images(root, images=2)
    assert len(decodings) == 2 + COUNT  # few, but there


def test_training_and_held_out_images_share_a_file(tmp_path: Path, decodings: list[str]) -> None:
    root = _folder(_folder(tmp_path / "x", split="train", count=30), split="test")
    splits = load_splits(root, size=8)
    assert len(decodings) == 30 + COUNT
    assert len(_files()) == 2
    again = load_splits(root, size=8)
    assert len(decodings) == 30 + COUNT
    for one, other in ((splits.train, again.train), (splits.held_out, again.held_out), (splits.test, again.test)):
        assert torch.equal(one.images, other.images)
    assert splits.spec == again.spec


@pytest.mark.parametrize("change", ["pixels", "end", "cut", "other"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, decodings: list[str], change: str) -> None:
    root, heard = _folder(tmp_path / "x"), Heard()
    before = load_images(root).images.images.clone()
    (path,) = _files()
    content = bytearray(path.read_bytes())
    if change == "pixels":
        content[100] ^= 1
    elif change == "end":
        content[-30] ^= 1
    path.write_bytes(b"nothing" if change == "other" else content[:-5] if change == "cut" else content)
    after = load_images(root, progress=heard).images.images
    assert torch.equal(before, after)
    assert len(decodings) == 2 * COUNT
    assert any("was damaged: its images are decoded again" in note for note in heard.notes)


def test_a_changed_folder_is_decoded_anew_and_the_old_file_goes(tmp_path: Path, decodings: list[str]) -> None:
    root = _folder(tmp_path / "x")
    load_images(root)
    Image.fromarray(np.full((6, 9, 3), 7, np.uint8)).save(root / "test/a/000.png")
    os.utime(root / "test/a/000.png", (1, 1))
    found = load_images(root).images
    assert len(decodings) == 2 * COUNT
    assert int(found.images[found.ids == 0].max()) == 7
    assert len(_files()) == 1


def test_each_size_is_a_file_of_its_own(tmp_path: Path, decodings: list[str]) -> None:
    root = _folder(tmp_path / "x", size=(20, 30))
    shapes = [
        tuple(load_images(root, size=size, geometry=geometry).images.images.shape[1:])
        for size, geometry in (
            (8, None),
            (None, "resize=8"),
            (None, Geometry(resize=10, crop=(8, 12))),
            (None, None),
        )
    ]
    assert shapes == [(3, 8, 8), (3, 8, 12), (3, 8, 12), (3, 20, 30)]
    assert (len(_files()), len(decodings)) == (4, 4 * COUNT)
    assert sorted(of.removeprefix(str(root / "test")).strip() for _, of, _ in decoded.contents()) == [
        "",
        "resize=10,crop=8x12,interpolation=bilinear",
        "resize=8,interpolation=bilinear",
        "size=8",
    ]
    assert decoded.forget() > 4 * COUNT * 3 * 8 * 8
    assert _files() == []


def test_turned_pictures_are_noted_every_time(tmp_path: Path) -> None:
    root = _folder(tmp_path / "x", size=(6, 6))
    exif = Image.Exif()
    exif[274] = 3
    for name in ("000", "002"):
        pixels = GENERATOR.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"test/a/{name}.png", exif=exif)
    for _ in range(2):
        assert any(note.startswith("2 of 12 images in test turned") for note in load_images(root).notes)


def test_grey_pictures_are_repeated_where_others_have_colour(tmp_path: Path) -> None:
    root = tmp_path / "x"
    for split, mode in (("test", "L"), ("train", "RGB")):
        for number in range(8):
            (root / split / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
            level = Image.new(mode, (5, 5), (number,) * len(mode))
            level.save(root / split / "ab"[number % 2] / f"{number}.png")
    for _ in range(2):
        found = load_images(root).images
        assert found.images.shape == (8, 3, 5, 5)
        assert (found.images == found.images[:, :1]).all()
        assert torch.equal(found.floats()[:, 0, 0, 0].mul(255).round().long(), _levels(found.ids))


def _levels(ids: torch.Tensor) -> torch.Tensor:
    return torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])[ids]


def test_a_cache_that_cannot_be_written_to_costs_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, heard = _folder(tmp_path / "x"), Heard()
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MEMDEF_CACHE", str(tmp_path / "file"))
    assert len(load_images(root, progress=heard).images) == COUNT
    assert any("decoded images are not kept, and take memory instead" in note for note in heard.notes)


def test_a_disk_without_room_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, heard = _folder(tmp_path / "x"), Heard()
    usage = type("Usage", (), {"free": COUNT * 3 * 6 * 9 - 1})
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda _: usage)
    assert len(load_images(root, progress=heard).images) == COUNT
    assert any("has room for 1,943 bytes" in note and "takes 1,944" in note for note in heard.notes)
    assert _files() == []


LOAD = """
import sys
from memory_defense.data import folder_pixels
from memory_defense.data.own import load_images
folder_pixels.KEPT_FROM = 4
data = load_images(sys.argv[1])
where = next(line for line in open("/proc/self/maps") if ".pixels" in line)
print(data.sha256, where.split()[4], flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_processes_that_begin_together_share_one_file(tmp_path: Path) -> None:
    root = _folder(tmp_path / "x", count=60, size=(40, 40))
    command = [sys.executable, "-c", LOAD, str(root)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    said = [worker.stdout.readline().split() if worker.stdout else [] for worker in workers]
    for worker in workers:
        worker.communicate("")
    expected = load_images(root).sha256
    assert [sha256 for sha256, _ in said] == [expected] * 3
    assert len({inode for _, inode in said}) == 1
    assert len(_files()) == 1


def test_a_failed_decoding_leaves_nothing(tmp_path: Path) -> None:
    root = _folder(tmp_path / "x")
    (root / "test/b/011.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    with pytest.raises(ValueError, match=r"011\.png is truncated or damaged"):
        load_images(root)
    assert list(decoded.folder().iterdir()) == []


def test_what_is_mapped_is_read_only(tmp_path: Path) -> None:
    found, _ = ImageFolder(_folder(tmp_path / "x"), Limits()).read("test")
    (path,) = _files()
    assert "r--s" in next(line for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line)
    assert found.shape == (COUNT, 3, 6, 9)
