"""``memdef harden --without-memory``: any shape, preprocessing and classes, all of which the run keeps."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import memory_defense
from faults.helpers_faults import memdef
from memory_defense.data.own import load_splits
from memory_defense.evaluation.place import state_path
from memory_defense.evaluation.record import Record
from memory_defense.evaluation.store import Store
from memory_defense.run_directory import RunDirectory
from memory_defense.systems.load import load_defense, load_model
from memory_defense.tensorfiles import read_tensors
from memory_defense.workflows.run_images import splits_of
from workflows.own_folder import write_folder

SOURCE = """
from torch import nn

def build(width=4, outputs=5):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * width, outputs),
    )
"""
MODEL = ("wide_net:build", "--weights", "wide.safetensors", "--argument", "width=6", "--preprocess", "127")
IMAGES = ("--data", "shapes", "--geometry", "resize=16x24,interpolation=bicubic", "--classes", "classes.txt")
QUICK = ("--epochs", 1, "--attacks", "glimpse", "--images", 9, "--epsilon", "4/255", "--threads", 1)
ASKED = ("harden", *MODEL, *IMAGES, *QUICK, "--without-memory", "--train-last", 1, "--accumulate", 2)


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(Path("shapes"), train=8, test=3)
    Path("shapes", "train", "bar", "000.png").rename("only.png")
    for picture in Path("shapes", "train", "bar").iterdir():
        picture.unlink()
    Path("only.png").rename(Path("shapes", "train", "bar", "000.png"))  # one image of a class is enough
    Path("wide_net.py").write_text(SOURCE)
    Path("classes.txt").write_text("bar 4\ndisc 0\nsquare 2\n")
    space: dict[str, object] = {}
    exec(SOURCE, space)
    torch.manual_seed(0)
    net: nn.Module = space["build"](6)
    how = "resize=16x24,interpolation=bicubic"
    train = load_splits("shapes", geometry=how, rectangles=True, few=True).test
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(40):
        loss = F.cross_entropy(net((255 * train.floats() - 127) / 128), torch.tensor([4, 0, 2])[train.labels])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_file(net.state_dict(), "wide.safetensors")
    yield tmp_path
    sys.modules.pop("wide_net", None)


def test_a_run_keeps_geometry_preprocessing_and_classes_and_its_export_does(there) -> None:
    done = memdef(*ASKED, "--out", "run")
    assert done.status == 0, done
    assert "shapes: 5 classes, 3 x 16 x 24; 15 images to train on, 2 held out" in done.err
    assert "Fine-tuned adversarially, alone, it is right on" in Path("run/gained.txt").read_text()
    run = RunDirectory(Path("run"))
    manifest = run.read()
    assert manifest["images_from"]["geometry"] == "resize=16x24,interpolation=bicubic"
    assert manifest["images_from"]["outputs"] == [["bar", 4], ["disc", 0], ["square", 2]]
    assert manifest["model"]["own"] == {"arguments": [["width", 6]], "preprocess": "127"}
    splits = splits_of(run)
    assert splits.test.images.shape[1:] == (3, 16, 24)
    assert set(splits.test.labels.tolist()) == {0, 2, 4}
    tuned, brought = load_defense(run.path), read_tensors(Path("wide.safetensors"))[0]
    kept = {name.removeprefix("network.network."): one for name, one in tuned.state_dict().items()}
    assert {name for name, one in kept.items() if not torch.equal(one, brought[name])} == {"5.weight", "5.bias"}

    assert memdef("evaluate", "run", "--out", "again.json").status == 0
    assert Record.read(Path("again.json")).worst_case == Record.read(run.record).worst_case
    said = memdef("predict", "run", "shapes/test/disc", "--json")
    answers = [json.loads(line) for line in said.out.splitlines()]
    assert [one["flag"] for one in answers] == [None] * 3
    assert {one["label"] for one in answers} <= {"disc", "1", "square", "3", "bar"}
    refused = memdef("predict", "run", "shapes/test/disc", "--false-alarms", 0.1)
    assert "which flags no image; leave --false-alarms and --gate out" in refused.err

    pytest.importorskip("onnxruntime")
    done = memdef("export", "run", "--format", "onnx", "--out", "net.onnx")
    assert done.status == 0, done
    exported = load_model("net.onnx")
    assert str(exported.geometry) == "resize=16x24,interpolation=bicubic"
    assert exported.names == ("disc", "1", "square", "3", "bar")
    assert any("127" in note for note in exported.notes)
    images = splits.test.floats()
    assert torch.allclose(memory_defense.load("net.onnx")(images), tuned(images), atol=1e-3)
    done = memdef("evaluate", "net.onnx", "--data", "shapes", "--epsilon", "4/255", "--attacks", "fgsm")
    assert done.status == 0, done
    assert Record.read(Path("record.json")).clean == Record.read(run.record).clean


class _Killed(BaseException):
    """As a kill, nothing that is done about an error is done about it."""


def test_killed_inside_an_attack_it_goes_on_from_the_last_chunk(there, monkeypatch) -> None:
    assert memdef(*ASKED, "--out", "whole").status == 0
    added: list[int] = []
    add = Store.add

    def killed(store: Store, state: object, position: int, rows: torch.Tensor, attempt: object) -> None:
        if store.path is not None and "original" in store.path.name and added:
            raise _Killed
        add(store, state, position, rows, attempt)
        added.append(len(rows))

    monkeypatch.setattr("memory_defense.evaluation.store.Store.add", killed)
    monkeypatch.setattr("memory_defense.evaluation.watch.Chunks.size", lambda *_: 1)
    with pytest.raises(_Killed):
        memdef(*ASKED, "--out", "killed")
    assert state_path(Path("killed/original.json")).is_file()
    first = list(added)
    added.clear()
    monkeypatch.setattr("memory_defense.evaluation.store.Store.add", add)
    done = memdef(*ASKED, "--out", "killed")
    assert done.status == 0, done
    assert first == [1]
    assert "going on where the evaluation stopped" in done.err
    for name in ("original.json", "record.json"):
        one, other = Record.read(Path("whole", name)), Record.read(Path("killed", name))
        assert (one.clean, one.worst_case) == (other.clean, other.worst_case)
    assert Path("whole/weights.safetensors").read_bytes() == Path("killed/weights.safetensors").read_bytes()


def test_what_does_not_go_together_is_told(there) -> None:
    torch.save({}, "wide.pt")
    told = {
        ("--weights", "wide.pt"): "convert it once, its weights alone, with: memdef convert wide.pt",
        ("--keep-clean-accuracy",): "--keep-clean-accuracy asks for something else",
        ("--no-fine-tune",): "--no-fine-tune asks for something else",
        ("--train-only", "head.*"): "no parameter's name is like 'head.*'",
        ("--train-last", "9"): "the last 9 layers are to be trained, but there are 3",
        ("--accumulate", "9"): "accumulate is 9, but a batch of 15 images' training has 2",
    }
    for options, message in told.items():
        refused = memdef(*ASKED, "--out", "none", *options)
        assert refused.status == 2, refused
        assert message in refused.err, options
    square = [one for one in ASKED if one != "--without-memory"]
    refused = memdef(*square, "--out", "none")
    assert "must be square" in refused.err, refused
