"""``memdef certify`` on a run and on a classifier of one's own, alone and shared out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from faults.conftest import idx_folder, small_world, trained_run
from faults.helpers_faults import memdef, refused
from memory_defense.evaluation.record import Record
from memory_defense.tensorfiles import read_tensors

__all__ = ["idx_folder", "small_world", "trained_run"]
SMOOTH = ("--radius", "0.1", "--radius", "0.3", "--sigma", "0.3", "--samples", "200", "--selection", "20")
NET = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
"""


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    """A folder with a module and images of two classes, where the user stands."""
    (tmp_path / "mine.py").write_text(NET)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8), dtype=np.uint8)
    for number, image in enumerate(pixels):
        folder = tmp_path / "images" / "test" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_classifier_of_one_s_own_is_smoothed(mine) -> None:
    done = memdef("certify", "mine:build", "--random-weights", "--data", "images", *SMOOTH)
    assert done.status == 0, done.err
    record = Record.read("certificates.json")
    assert [one.epsilon for one in record.certified] == [0.1, 0.3]
    assert record.defense == "mine:build"
    assert "right or flagged" in done.out
    assert "proven, with the gate" in done.out
    assert Path("certificates.certificates.safetensors").is_file()
    assert not any(one.bfloat16 for one in record.certified)
    done = memdef("certify", "mine:build", "--random-weights", "--data", "images", *SMOOTH, "--bfloat16")
    assert all(one.bfloat16 for one in Record.read("certificates.json").certified)
    assert "answered in bfloat16" in " ".join(done.out.split())
    done = memdef("certify", "mine:build", "--random-weights", "--data", "images", *SMOOTH, "--looks", "4")
    assert all(one.looks == 4 for one in Record.read("certificates.json").certified)
    assert "counted 4 times" in " ".join(done.out.split())
    asked = read_tensors(Path("certificates.certificates.safetensors"))[0]["asked"].double().mean()
    assert all(
        one.mean_copies == pytest.approx(float(asked), abs=0.05)
        for one in Record.read("certificates.json").certified
    )
    assert f"{float(asked):,.0f} an image on average" in " ".join(done.out.split())


def test_two_processes_find_what_one_does(mine) -> None:
    assert (
        memdef("certify", "mine:build", "--random-weights", "--data", "images", *SMOOTH, "--out", "one.json").status
        == 0
    )
    shared = ("--processes", "2", "--out", "two.json")
    assert memdef("certify", "mine:build", "--random-weights", "--data", "images", *SMOOTH, *shared).status == 0
    one, two = (read_tensors(Path(f"{name}.certificates.safetensors"))[0] for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def test_a_run_without_a_proof_is_smoothed_and_nothing_else(trained_run, idx_folder, small_world, tmp_path) -> None:
    where = ("--data-dir", idx_folder, "--images", "3", "--out", tmp_path / "c.json")
    refused(
        memdef("certify", trained_run, "--radius", "0.1", *where),
        "proves nothing by itself; give --sigma to smooth it",
    )
    assert memdef("certify", trained_run, *SMOOTH, *where).status == 0
    record = Record.read(tmp_path / "c.json")
    assert record.images == 3
    assert record.certified[0].method == "smoothing"
    page = tmp_path / "report.html"
    assert memdef("report", tmp_path / "c.json", "--out", page).status == 0
    text = page.read_text(encoding="utf-8")
    assert "Proven, smoothing" in text
    assert "whatever the attack" in text
