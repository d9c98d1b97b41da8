"""An export is evaluated like a classifier of one's own, and like the run it came from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import memory_defense
from memory_defense.cli.app import app
from memory_defense.evaluation.record import Record
from memory_defense.recipes.fashion_mnist import TINY
from memory_defense.run_directory import RunDirectory
from memory_defense.systems.build import build_defense
from memory_defense.systems.export import export
from memory_defense.training.checkpoint import save_weights

COUNT = 6


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with drawn weights, and images in folders that it gets right."""
    root = tmp_path_factory.mktemp("export")
    run = RunDirectory(root / "run")
    manifest = run.begin(TINY, 0, 100, resume=False)
    defense = build_defense(TINY.model, seed=1)
    save_weights(run.weights, defense)
    run.seal(manifest)
    pixels = np.random.default_rng(3).integers(0, 256, (COUNT, 28, 28), dtype=np.uint8)
    with torch.no_grad():
        answers = memory_defense.load(run.path)(torch.from_numpy(pixels)[:, None].float() / 255).argmax(1).tolist()
    for number, (image, label) in enumerate(zip(pixels, answers, strict=True)):
        for part, one in [("test", label), *(("train", each) for each in range(10))]:
            folder = root / "images" / part / str(one)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number}.png")
    return root


def record(place: Path, target: Path, attack: str) -> Record:
    out = place / "record.json"
    done = CliRunner().invoke(
        app,
        ["evaluate", str(target), "--data", str(place / "images"), "--epsilon", "0.3", "--attacks", attack,
         "--out", str(out), "--threads", "1"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return Record.read(out)


def test_an_export_is_attacked_with_all_that_its_defense_publishes(place: Path) -> None:
    export(place / "run", place / "run.safetensors")
    found = record(place, place / "run.safetensors", "glimpse")
    assert found.clean.accuracy == 1.0
    assert found.images == COUNT
    defense = memory_defense.load(place / "run")
    known = {stage.knowledge for cascade in found.cascades for stage in cascade.stages}
    assert set(defense.surrogates()) & known


def test_an_onnx_file_answers_and_is_asked(place: Path) -> None:
    export(place / "run", place / "run.onnx", format="onnx")
    found = record(place, place / "run.onnx", "square")
    assert found.clean.accuracy == 1.0
    assert {stage.knowledge for cascade in found.cascades for stage in cascade.stages} == {"queries"}
