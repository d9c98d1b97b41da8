"""Pictures of any size and a model's own outputs, from the command line: what the same calls in Python find."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import memory_defense
from faults.helpers_faults import memdef, refused
from memory_defense import Options
from memory_defense.data.own import load_images, load_splits
from memory_defense.evaluation.record import Record
from memory_defense.recipes.adapt import adapt
from memory_defense.recipes.fashion_mnist import TINY
from memory_defense.run_directory import RunDirectory
from memory_defense.workflows.run_images import images_from, keep_images_from, kept_images_from, splits_of

FOLDERS = ("n01440764", "n02099601", "n02123045")
OUTPUTS = (0, 207, 281)
SOURCE = f"""
import torch
from torch import nn

class ByLevel(nn.Module):
    '''Of 1,000 outputs the one that belongs to the mean level: 40 more for each of three.'''

    def __init__(self):
        super().__init__()
        levels = torch.full((1000,), 9.0)
        levels[torch.tensor({OUTPUTS})] = torch.tensor([60.0, 100.0, 140.0]) / 255
        self.register_buffer("levels", levels)

    def forward(self, images):
        return -30 * (images.mean((1, 2, 3))[:, None] - self.levels).abs()
"""
GEOMETRY = "resize=12,crop=10x14,interpolation=bicubic"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "thousand_net", raising=False)
    (tmp_path / "thousand_net.py").write_text(SOURCE)
    return tmp_path


def pictures(root, names=FOLDERS, split="test", count=4, shape=(20, 30)):
    draws = np.random.default_rng(0)
    for number, name in enumerate(names):
        (root / split / name).mkdir(parents=True)
        for one in range(count):
            levels = 60 + 40 * number + draws.integers(-30, 31, (*shape, 3))
            Image.fromarray(levels.astype(np.uint8)).save(root / split / name / f"{one}.png")
    return root


def evaluate(*options):
    asked = ("evaluate", "thousand_net:ByLevel", "--data", "data", "--epsilon", "20/255", "--attacks", "fgsm")
    return memdef(*asked, "--out", "r.json", *options)


def brought(path):
    """Return a picture as `GEOMETRY` says, by Pillow alone."""
    resized = Image.open(path).resize((18, 12), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized.crop((2, 1, 16, 11)))).permute(2, 0, 1).float() / 255


def test_rectangles_brought_to_size_are_evaluated_as_the_call_in_python_does(place):
    pictures(place / "data")
    said = evaluate("--geometry", GEOMETRY)
    assert said.status == 0, said.err
    record = Record.read(place / "r.json")
    from thousand_net import ByLevel  # pyright: ignore[reportMissingImports]

    paths = [path for folder in FOLDERS for path in sorted((place / "data/test" / folder).iterdir())]
    images = torch.stack([brought(path) for path in paths])
    labels = torch.tensor(OUTPUTS).repeat_interleave(4)
    ids = load_images(place / "data").images.ids
    expected = memory_defense.evaluate(
        ByLevel(), images[ids], labels[ids], epsilon=20 / 255, attacks="fgsm", options=Options(ids=ids)
    )
    assert record.clean.accuracy == expected.clean.accuracy == 1
    assert record.worst_case[0].accuracy == expected.worst_case[0].accuracy not in (0, 1)
    assert f"images brought to size: {GEOMETRY}" in record.notes
    assert any("ImageNet's synsets" in note for note in record.notes)


def test_another_geometry_is_another_evaluation(place):
    pictures(place / "data")
    assert evaluate("--geometry", GEOMETRY).status == 0
    said = evaluate("--geometry", "resize=12,crop=10x14,interpolation=nearest")
    assert said.status == 0, said.err
    assert "nearest" in " ".join(Record.read(place / "r.json").notes)
    refused(evaluate("--geometry", GEOMETRY, "--size", "8"), "two ways to resize")
    refused(evaluate("--geometry", "resize=12,trim=3"), "does not say how images are resized")


@pytest.mark.parametrize(
    "listing",
    [
        "a 0\nb 207\nc\t281\n",
        "0\n207\n281\n",
        "\n".join({0: "a", 207: "b", 281: "c"}.get(k, f"x{k}") for k in range(1000)),
    ],
)
def test_a_file_of_classes_says_which_outputs_the_folders_are(place, listing):
    pictures(place / "data", names=("a", "b", "c"))
    refused(evaluate(), "knows 1000 classes, the data has 3", "--classes FILE")
    (place / "classes.txt").write_text(listing)
    said = evaluate("--classes", "classes.txt")
    assert said.status == 0, said.err
    assert Record.read(place / "r.json").clean.accuracy == 1


def test_rectangles_are_certified(place):
    pictures(place / "data", names=("0", "207", "281"))
    asked = ("certify", "thousand_net:ByLevel", "--data", "data", "--sigma", "0.1", "--radius", "0.05")
    said = memdef(*asked, "--samples", "100", "--geometry", "resize=6", "--images", "4", "--out", "c.json")
    assert said.status == 0, said.err
    record = Record.read(place / "c.json")
    assert (record.images, record.clean.accuracy) == (4, 1)
    assert "images brought to size: resize=6,interpolation=bilinear" in record.notes


def test_a_run_finds_its_images_again_as_they_were_brought_to_size(place):
    for split in ("train", "test"):
        pictures(place / "data", names=("a", "b"), split=split)
    geometry = "resize=12,crop=12,interpolation=box"
    splits = load_splits(place / "data", geometry=geometry)
    run = RunDirectory(place / "run")
    run.begin(adapt(TINY, splits.spec), 0, len(splits.train), resume=False)
    keep_images_from(run, images_from(place / "data", None, splits.spec, splits.notes, geometry=geometry))
    kept = kept_images_from(run.read(), run.manifest_path)
    assert kept is not None
    assert kept.geometry == geometry
    again = splits_of(run)
    assert torch.equal(again.test.images, splits.test.images)
    assert again.spec == splits.spec
    keep_images_from(run, images_from(place / "data", 12, splits.spec))
    assert "geometry" not in json.loads(run.manifest_path.read_text())["images_from"]
