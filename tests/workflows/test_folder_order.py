"""Numbered folders: whichever way a model counts them, its labels are right, and a run keeps the order it has."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from faults.helpers_faults import memdef, refused
from memory_defense.data.own import load_images, load_splits
from memory_defense.evaluation.record import Record
from memory_defense.recipes.adapt import adapt
from memory_defense.recipes.fashion_mnist import TINY
from memory_defense.run_directory import RunDirectory
from memory_defense.workflows.folder_order import counts_otherwise
from memory_defense.workflows.run_images import images_from, keep_images_from, kept_classes, splits_of

pytestmark = pytest.mark.filterwarnings("ignore:class")
NAMES = [str(k) for k in range(12)]
TEXT = tuple(sorted(NAMES))
SOURCE = """
import torch
from torch import nn

class ByLevel(nn.Module):
    '''Folder k holds images of level 20 k; answers with the place of k among `order`.'''

    def __init__(self, order):
        super().__init__()
        self.register_buffer("levels", torch.tensor([20.0 * k for k in order]) / 255)

    def forward(self, images):
        return -100 * (images.mean((1, 2, 3))[:, None] - self.levels).abs()

def numbers():
    return ByLevel(range(12))

def text():
    return ByLevel(sorted(range(12), key=str))

def thirteen():
    return ByLevel(range(13))

class Four(ByLevel):
    def forward(self, images):
        if len(images) not in (3, 4):
            raise RuntimeError(f"expected a batch of 3 or 4, got {len(images)}")
        return super().forward(images)

def four():
    return Four(sorted(range(12), key=str))

def double():
    return ByLevel(sorted(range(12), key=str)).double()

class Named(ByLevel):
    def forward(self, images):
        return {"logits": super().forward(images)}

def named():
    return Named(range(12))
"""


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """Write the folder, twice of each class, and the models; stand beside them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "levels_net.py").write_text(SOURCE)
    return write(tmp_path / "data")


def write(root: Path, split: str = "test", count: int = 2, called: str = "{}") -> Path:
    for k, name in enumerate(called.format(one) for one in NAMES):
        (root / split / name).mkdir(parents=True)
        for number in range(count):
            level = np.full((16, 16), 20 * k, np.uint8)
            level[0, 0] += number  # no two alike
            Image.fromarray(level).save(root / split / name / f"{number}.png")
    return root


def evaluated(data: Path, model: str, *more: str) -> Record:
    said = memdef(
        "evaluate",
        f"levels_net:{model}",
        "--data",
        data,
        "--random-weights",
        "--epsilon",
        "0.01",
        "--attacks",
        "fgsm",
        "--out",
        "r.json",
        *more,
    )
    assert said.status == 0, said.err
    assert "class_order.txt" in said.err
    return Record.read(Path("r.json"))


def test_a_model_that_counts_numbers_is_right_and_the_order_is_said(data):
    record = evaluated(data, "numbers")
    assert record.clean.accuracy == 1
    (note,) = record.notes
    assert note.startswith("classes: 0, 1, 2, 3, 4 and 7 more, in the order of their numbers")


def test_a_model_that_was_trained_on_text_is_right_and_that_is_said(data):
    record = evaluated(data, "text")
    assert record.clean.accuracy == 1
    assert record.notes[-1] == (
        "class folders are taken in the order 0, 1, 10, 11, 2 and 7 more, for so the model is right on 100.0% of 24"
        " images, and on 16.7% in the order 0, 1, 2, 3, 4 and 7 more"
    )
    with_text = load_images(data, classes=TEXT)
    assert with_text.images.labels.tolist() == [TEXT.index(NAMES[int(level) // 20]) for level in _levels(with_text)]


@pytest.mark.parametrize("model", ["four", "double"])
def test_a_model_is_asked_for_its_order_as_it_wants_to_be_asked(data, model):
    assert evaluated(data, model).clean.accuracy == 1


def test_a_model_that_gives_no_logits_is_told_so(data):
    asked = (
        "evaluate",
        "levels_net:named",
        "--data",
        data,
        "--random-weights",
        "--epsilon",
        "0.01",
        "--attacks",
        "fgsm",
    )
    refused(memdef(*asked), "expected logits", "return the tensor")


@pytest.mark.parametrize("model", ["numbers", "text"])
def test_numbers_within_names_are_counted_as_the_model_does(data, model):
    other = write(data.parent / "named", called="class_{}")
    record = evaluated(other, model)
    assert record.clean.accuracy == 1
    (note,) = record.notes
    order = (
        "are taken in the order class_0, class_1, class_2," if model == "numbers" else "sorted as text: class_0,"
    )
    assert order in note


def test_a_model_that_is_right_neither_way_changes_nothing(data):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 12))
    assert counts_otherwise(net, load_images(data, classes=NAMES).images, tuple(NAMES), TEXT) is None


def test_a_program_is_warned_of_an_order_that_is_doubtful(data):
    with pytest.warns(UserWarning, match="in the order of their numbers; .* list them so"):
        load_images(data)


def test_a_listed_order_is_not_doubted(data):
    (data / "class_order.txt").write_text("\n".join(NAMES))
    assert evaluated(data, "text").clean.accuracy == pytest.approx(1 / 6)


def test_a_model_with_more_classes_than_folders_is_refused_and_the_way_out_works(data):
    asked = (
        "evaluate",
        "levels_net:thirteen",
        "--data",
        data,
        "--random-weights",
        "--epsilon",
        "0.01",
        "--attacks",
        "fgsm",
    )
    (data / "test" / "0").rename(data / "test" / "nought")
    refused(memdef(*asked), "knows 13 classes", "--classes FILE", "an empty folder each")
    (data / "test" / "nought").rename(data / "test" / "0")
    said = memdef(*asked)  # names that are numbers say it themselves
    assert said.status == 0, said.err
    assert "among the 13 outputs of the model" in said.err


def test_a_run_keeps_the_order_that_it_began_with(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / "data", split, count=3)
    splits = load_splits(tmp_path / "data", classes=TEXT)
    run = RunDirectory(tmp_path / "run")
    run.begin(adapt(TINY, splits.spec), 0, len(splits.train), resume=False)
    keep_images_from(run, images_from(tmp_path / "data", None, splits.spec))
    manifest = json.loads(run.manifest_path.read_text())
    del manifest["images_from"]["notes"], manifest["checksum"]  # as before there were any
    run.manifest_path.write_text(json.dumps(manifest))
    assert kept_classes(run, tmp_path / "data") == TEXT
    again = splits_of(run)
    assert again.spec == splits.spec
    assert torch.equal(again.test.labels, splits.test.labels)
    assert load_splits(tmp_path / "data").spec.classes == tuple(NAMES), "a new run would follow the numbers"
    assert kept_classes(RunDirectory(tmp_path / "none"), tmp_path / "data") is None


def test_hardening_follows_the_order_of_the_classifier_too(data, monkeypatch):
    write(data, "train", count=3)
    levels = torch.tensor([20.0 * int(name) for name in TEXT]) / 255
    save_file({"levels": levels}, "text.safetensors")
    seen = []

    def stop(_, __, splits, *___, **____):
        seen.append(splits)
        raise ValueError("far enough")

    monkeypatch.setattr("memory_defense.workflows.harden.harden", stop)
    said = memdef("harden", "levels_net:text", "--weights", "text.safetensors", "--data", data, "--out", "run")
    refused(said, "far enough", "class folders are taken in the order 0, 1, 10")
    assert seen[0].spec.classes == TEXT
    assert "class folders are taken in the order 0, 1, 10" in seen[0].notes[-1]


def test_a_run_whose_images_were_not_turned_once_is_told_so(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    for split in ("train", "test"):
        write(tmp_path / "data", split)
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "data/train/3/turned.png", exif=exif)
    splits = load_splits(tmp_path / "data", classes=NAMES)
    run = RunDirectory(tmp_path / "run")
    run.begin(adapt(TINY, splits.spec), 0, len(splits.train), resume=False)
    keep_images_from(run, replace(images_from(tmp_path / "data", None, splits.spec), sha256="0" * 64))
    with pytest.raises(
        ValueError, match="1 of 25 images in train turned as their EXIF orientation says, which was not"
    ):
        splits_of(run)
    assert len(splits_of(run, source=str(tmp_path / "data")).test) == 24


def _levels(data):
    return (data.images.images[:, 0, 1, 1]).tolist()


WIDE = """
from torch import nn

def build(classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))

class Vit(nn.Module):
    '''Takes 224 x 224 pixels and nothing else.'''

    def __init__(self):
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 4, 32, 32), nn.Linear(4 * 49, 4)

    def forward(self, images):
        return self.head(self.patches(images).flatten(1))
"""


@pytest.mark.parametrize(("model", "shape"), [("Vit", (224, 224, 3)), ("build", (20, 33, 3))])
@pytest.mark.parametrize("suite", ["fgsm", "fast"])
def test_images_of_any_shape_that_the_model_takes_are_evaluated(tmp_path, monkeypatch, model, shape, suite):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wide_net.py").write_text(WIDE)
    draws = np.random.default_rng(0)
    for name in ("ant", "bee", "cat", "dog"):
        (tmp_path / "data/test" / name).mkdir(parents=True)
        for number in range(1):
            image = Image.fromarray(draws.integers(0, 256, shape, dtype=np.uint8))
            image.save(tmp_path / "data/test" / name / f"{number}.png")
    asked = ("evaluate", f"wide_net:{model}", "--data", "data", "--random-weights", "--epsilon", "4/255")
    said = memdef(*asked, "--attacks", suite, "--out", "r.json")
    assert said.status == 0, said.err
    assert Record.read(tmp_path / "r.json").images == 4
    if model == "Vit":
        refused(
            memdef("train", "fashion-mnist/demo", "--data", "data", "--size", "224", "--out", "run"),
            "from 4 to 128",
        )
