"""Faults 21 to 25, and what a terminal can do: datasets, pictures, arguments, company, detection."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import memory_defense
from faults.helpers_faults import Front, five_classes, memdef, refused, some_images, some_labels
from memory_defense.data import sources
from memory_defense.data.image_files import read_image
from memory_defense.data.limits import Limits
from memory_defense.evaluation.detection import auroc, conformal_threshold, tpr_at_fpr
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.place import per_image_path
from memory_defense.evaluation.results import read_per_image
from memory_defense.training.fit import FitConfig


def copied(idx_folder: Path, place: Path) -> Path:
    shutil.copytree(idx_folder, place)
    return place


@pytest.mark.usefixtures("small_world")
def test_case_21_datasets_that_are_not_what_they_say(tmp_path, idx_folder, monkeypatch) -> None:
    name = "t10k-images-idx3-ubyte.gz"
    whole = (idx_folder / name).read_bytes()
    body = gzip.decompress(whole)
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb") as packed:
        packed.write(body[:16])
        for _ in range(256):
            packed.write(bytes(1 << 20))
    faults = {
        "hash": (gzip.compress(body[:-1] + bytes([body[-1] ^ 1])), "the SHA-256 of its images and labels is"),
        "cut": (whole[: len(whole) // 2], "is damaged"),
        "bomb": (bomb.getvalue(), "is longer than its header says"),
        "huge": (
            gzip.compress(struct.pack(">4I", 0x0803, 1 << 31, 28, 28) + body[16:]),
            "announces shape (2147483648, 28, 28), expected (100, 28, 28)",
        ),
    }
    for fault, (content, said) in faults.items():
        place = copied(idx_folder, tmp_path / fault)
        (place / name).write_bytes(content)
        refused(memdef("data", "--data-dir", place), said, "delete it and fetch it again")
    monkeypatch.setenv("MEMDEF_CACHE", str(tmp_path / "cold"))
    monkeypatch.setattr(sources, "SYSTEM", {})
    refused(memdef("data", "--offline"), "fashion-mnist was not found", "turn it off to allow them", "MEMDEF_DATA")


def test_case_21_archives_that_reach_outside(tmp_path) -> None:
    link = tarfile.TarInfo("data_batch_1.bin")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    outside = tarfile.TarInfo("../../data_batch_1.bin")
    for member, said in ((link, "is neither a file nor a folder"), (outside, "lies outside of the archive")):
        path = tmp_path / "cifar-10-binary.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            archive.addfile(member)
        refused(memdef("data", "cifar10", "--data-dir", tmp_path), path.name, said)
        assert [one.name for one in tmp_path.iterdir()] == [path.name], "nothing is unpacked"


def png(width: int, height: int) -> bytes:
    """Return a PNG of zeros that is small however large it says it is."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def clear_palette() -> Image.Image:
    image = Image.new("P", (8, 8))
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.info["transparency"] = 0
    return image


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (png(50_000, 50_000), "has 50000 x 50000 pixels, at most"),
        (b"", "is empty"),
        (saved(Image.new("L", (8, 8)), "ICO"), "is not a PNG, JPEG, BMP, PGM, PPM, TIFF, WebP, GIF or AVIF image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image, whatever its name says; convert it or remove it"),
        (saved(Image.new("CMYK", (8, 8)), "JPEG"), "is CMYK, neither grey nor RGB; save it as an 8-bit"),
        (saved(Image.fromarray(np.full((8, 8), 700, np.uint16)), "PNG"), "has 16 bits a channel"),
        (saved(clear_palette(), "PNG", transparency=0), "has transparent pixels; paint it on a background"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20 << 20), "has more than 16777216 bytes"),
    ],
)
def test_case_22_pictures_that_are_refused(tmp_path, content, said) -> None:
    """Uploads to the studio go the same way; their own limits are in tests/studio."""
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.png") as refusal:
        read_image(path, Limits())
    assert said in str(refusal.value)


def test_case_22_pictures_that_are_read_as_they_are(tmp_path) -> None:
    turned = Image.fromarray(np.arange(96, dtype=np.uint8).reshape(8, 12))
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate me", as a camera that was held upright writes
    for name, image, options, shape in (
        ("turned.png", turned, {"exif": exif}, (12, 8)),
        ("one.png", Image.new("L", (1, 1), 7), {}, (1, 1)),
    ):
        image.save(tmp_path / name, **options)
        assert read_image(tmp_path / name, Limits()).shape == shape
    for label in ("a", "b"):
        (tmp_path / "set" / "test" / label).mkdir(parents=True)
        shutil.copy(tmp_path / "one.png", tmp_path / "set" / "test" / label / "one.png")
    (tmp_path / "mine_fault_22.py").write_text("build = None\n")
    said = memdef("evaluate", "mine_fault_22:build", "--data", tmp_path / "set", "--epsilon", "0.1")
    refused(said, "one.png is 1 x 1 pixels, but each side must have at least 4")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "fashion-mnist/tiny", "--out", "x", "--optimiser", "sgd"), "No such option"),
        (("train", "fashion-mnist/tyni", "--out", "x"), "did you mean 'fashion-mnist/tiny'?"),
        (("train", "fashion-mnist/tiny", "--out", "x", "--seed", "one"), "Invalid value for '--seed'"),
        (
            ("train", "fashion-mnist/tiny", "--out", "x", "--train-images", "0"),
            "Invalid value for '--train-images'",
        ),
        (("train", "fashion-mnist/tiny", "--out", "x", "--device", "cuda:99"), "--device"),
        (("train", "fashion-mnist/tiny"), "--out"),
    ],
)
def test_case_23_arguments(tmp_path, monkeypatch, arguments, said) -> None:
    monkeypatch.chdir(tmp_path)
    refused(memdef(*arguments), said)
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_case_23_values_and_names(tmp_path, monkeypatch) -> None:
    with pytest.raises(ValueError, match="epochs is -1, but it must be at least 1"):
        FitConfig(epochs=-1)
    with pytest.raises(ValueError, match="did you mean 'square'"):
        memory_defense.evaluate(Front().eval(), some_images(), some_labels(), epsilon=0.1, attacks="sqare")
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 200_000)
    refused(memdef("report", deep, "--out", tmp_path / "page.html"), "deep.json is not a record")
    odd = tmp_path / "run with spaces é 名"
    odd.mkdir()
    monkeypatch.chdir(odd)
    (odd / "mine_fault_23.py").write_text(
        "from torch import nn\nbuild = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))\n"
    )
    five_classes(odd / "fünf five.npz")
    command = ("evaluate", "mine_fault_23:build", "--data", odd / "fünf five.npz", "--epsilon", "8/255")
    said = memdef(*command, "--random-weights", "--attacks", "fgsm", "--out", odd / "rec örd.json")
    assert said.status == 0, said
    assert memdef("report", odd / "rec örd.json", "--out", odd / "page.html").status == 0


def test_case_24_company_changes_no_outcome(tmp_path) -> None:
    """Where the record says so. Ranks are in tests/evaluation/test_invariance.py, which also kills and goes on."""
    images, labels = some_images(30), some_labels(30)
    labels[::7] = (labels[::7] + 1) % 5
    found = []
    for number, batch in enumerate((1, 7, 128, 16)):
        order = torch.arange(30) if number < 3 else torch.randperm(30, generator=torch.Generator().manual_seed(2))
        out = tmp_path / f"{number}.json"
        record = memory_defense.evaluate(
            Front().eval(),
            images[order],
            labels[order],
            epsilon=0.02,
            attacks="fgsm,pgd",
            out=out,
            options=Options(ids=order, chunk=batch, batch_size=batch),
        )
        assert record.batch_invariance is not None
        results = read_per_image(per_image_path(out))
        back = results.ids.argsort()
        broken = results.broken[0]
        found.append([one[back] for one in (broken.robust, broken.breaker, broken.distance, broken.images[:])])
    assert 0 < int(found[0][0].sum()) < 26
    for other in found[1:] if record.batch_invariance.granule is not None else []:
        for one, reference in zip(other, found[0], strict=True):
            assert torch.equal(one.nan_to_num(-1), reference.nan_to_num(-1))


def test_case_25_detection() -> None:
    clean, attacked = torch.linspace(0, 1, 10), torch.linspace(0.5, 1.5, 10)
    same = torch.ones(10)
    assert auroc(same, same) == 0.5
    assert tpr_at_fpr(same, same, 0.05) == 0
    for bad in (torch.full((3,), torch.nan), torch.empty(0)):
        with pytest.raises(ValueError, match=r"NaN|shape"):
            auroc(clean, bad)
        with pytest.raises(ValueError, match=r"NaN|shape"):
            tpr_at_fpr(bad, attacked, 0.05)
        with pytest.raises(ValueError, match=r"NaN|shape|too few"):
            conformal_threshold(bad, 0.5)
    with pytest.raises(
        ValueError, match=r"10 calibration images are too few for 1 % false alarms; use at least 99"
    ):
        conformal_threshold(clean, 0.01)
    assert conformal_threshold(clean, 0.1) == clean[-1]


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "xterm"}
COMMAND = [sys.executable, "-m", "memory_defense"]


def test_a_closed_output_and_a_pipe_that_is_no_terminal() -> None:
    piped = f"{sys.executable} -m memory_defense --help | head -1"
    done = subprocess.run(piped, shell=True, capture_output=True, env=ENVIRONMENT, check=False)
    assert b"Traceback" not in done.stderr
    shown = subprocess.run([*COMMAND, "--help"], capture_output=True, env=ENVIRONMENT, check=True).stdout
    assert b"\x1b" not in shown, "no control characters where nobody looks"


@pytest.mark.usefixtures("small_world")
def test_progress_has_no_control_characters(tmp_path, trained_run, idx_folder) -> None:
    command = ("evaluate", trained_run, "--attacks", "fgsm", "--images", 5, "--data-dir", idx_folder)
    said = memdef(*command, "--out", tmp_path / "r.json")
    assert said.status == 0, said
    assert "\x1b" not in said.out + said.err
    assert "\r" not in said.out + said.err
    assert json.loads((tmp_path / "r.json").read_text())["images"] == 5
