"""Arrays too large to hold: read by reference, the same pixels as in memory, in order of use, whatever the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from memory_defense.data import array_files, array_pixels, decoded, npz
from memory_defense.data.array_files import ArrayFile
from memory_defense.data.decode import DamagedDataError
from memory_defense.data.limits import Limits
from memory_defense.data.own import load_images, load_splits

NOISE = np.random.default_rng(5)
COUNT = 14
LEVELS = NOISE.integers(0, 256, (COUNT, 3, 6, 9), dtype=np.uint8)
LABELS = np.arange(COUNT) % 2
KINDS = {
    "levels": LEVELS,
    "channels last": LEVELS.transpose(0, 2, 3, 1),
    "grey": LEVELS[:, 0],
    "floats": (LEVELS / 255).astype(np.float32),
    "halves": (LEVELS / 255).astype(np.float16),
    "backwards": np.asfortranarray(LEVELS),
}
ENDINGS = ("npz", "compressed", "safetensors")


@pytest.fixture(autouse=True)
def _all_are_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(array_files, "KEPT_FROM", 1)
    monkeypatch.setattr(array_files, "BLOCK_BYTES", 4 * LEVELS[0].nbytes)  # images do not fill the last block
    monkeypatch.setattr(npz, "_READ_THROUGH", 0)
    monkeypatch.setenv("MEMDEF_CACHE", str(tmp_path / "cache"))


def _file(folder: Path, ending: str, images: np.ndarray = LEVELS, **more: np.ndarray) -> Path:
    path = folder / f"x.{'safetensors' if ending == 'safetensors' else 'npz'}"
    arrays = {"images": images, "labels": LABELS, **more}
    if ending == "safetensors":
        save_file({name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in arrays.items()}, path)
    else:
        (np.savez if ending == "npz" else np.savez_compressed)(path, **arrays)
    return path


@pytest.mark.parametrize("geometry", [None, "resize=7,crop=5"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_they_are_what_memory_would_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, kind: str, geometry: str | None
) -> None:
    path = _file(tmp_path, ending, KINDS[kind])
    kept = load_images(path, geometry=geometry)
    few = load_images(path, geometry=geometry, images=5)
    files = decoded.contents()
    with monkeypatch.context() as held:
        held.setattr(array_files, "KEPT_FROM", 1 << 40)
        expected = load_images(path, geometry=geometry)
        first = load_images(path, geometry=geometry, images=5)
    assert torch.equal(kept.images.images, expected.images.images)
    assert torch.equal(few.images.images, first.images.images)
    assert torch.equal(first.images.images, expected.images.images[:5])
    assert (kept.sha256, few.sha256, kept.notes) == (expected.sha256, first.sha256, expected.notes)
    assert kept.images.labels.tolist() == expected.images.labels.tolist()
    assert len(files) == 1, "one file has the first few and all"
    assert files[0][2] - kept.images.images.numel() * kept.images.images.element_size() < 1000


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_second_load_reads_a_block_for_what_it_is_and_a_changed_file_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    path, blocks = _file(tmp_path, ending), list[int]()
    read = ArrayFile._blocks

    def counted(self: ArrayFile, key: str, *size: int):
        for block in read(self, key, *size):
            blocks.append(len(block))
            yield block

    monkeypatch.setattr(ArrayFile, "_blocks", counted)
    load_images(path)
    first = blocks.copy()
    again = load_images(path)
    assert (sum(first) - first[0], blocks[len(first) :]) == (COUNT, first[:1])
    _file(tmp_path, ending, 255 - LEVELS)
    assert torch.equal(load_images(path).images.images, 255 - again.images.images)
    assert len(decoded.contents()) == 1


def test_the_first_few_of_an_uncompressed_array_are_read_without_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_files, "KEPT_FROM", 1 << 40)
    large = LEVELS.repeat(4, axis=2).repeat(4, axis=3)  # not within what is read at once to see its header
    path = _file(tmp_path, "npz", large)
    few = load_images(path, images=5)
    content = bytearray(path.read_bytes())
    start = content.index(large.tobytes())
    other = next(row for row in range(4, COUNT) if row not in few.images.ids.tolist())
    content[start + other * large[0].nbytes] ^= 1
    path.write_bytes(content)
    assert load_images(path, images=5).sha256 == few.sha256
    with pytest.raises(DamagedDataError, match="images is not a complete array file"):
        load_images(path)


def test_memory_bounds_what_is_held_and_not_what_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(memory=LEVELS.nbytes - 1)
    for ending in ENDINGS:
        path = _file(tmp_path, ending)
        assert len(load_images(path, limits=limits).images) == COUNT
    monkeypatch.setenv("MEMDEF_CACHE", "/dev/null/cache")
    with pytest.raises(ValueError, match=rf"images takes {LEVELS.nbytes} bytes, at most {LEVELS.nbytes - 1}"):
        load_images(path, limits=limits)


def test_training_shares_the_file_and_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    square = LEVELS[..., :6]
    path = tmp_path / "x.npz"
    np.savez(path, train_images=square, train_labels=LABELS, test_images=square[:4], test_labels=LABELS[:4])
    kept = load_splits(path)
    monkeypatch.setattr(array_files, "KEPT_FROM", 1 << 40)
    held = load_splits(path)
    assert kept.spec == held.spec
    for ours, theirs in ((kept.train, held.train), (kept.held_out, held.held_out), (kept.test, held.test)):
        assert torch.equal(ours.images, theirs.images)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (LEVELS // 200, "is uint8 and at most 1, which is black"),
        (LEVELS.astype(np.int16), r"is torch.int16, expected uint8 grey levels"),
        (LEVELS / 128, r"x\.npz: images: (pixels|images) .*\[0, 1\]"),
    ],
)
def test_what_are_no_images_is_refused_and_leaves_no_file(tmp_path: Path, images: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_images(_file(tmp_path, "npz", images))
    assert decoded.contents() == []
    assert LEVELS.nbytes < array_pixels.KEPT_FROM, "small arrays are held in memory"
