"""Every door that a classifier comes in by, each by one command, with the numbers of the same model from Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import memory_defense
from faults.helpers_faults import memdef, refused
from memory_defense import Options
from memory_defense.certificates.smoothing import Smoothing
from memory_defense.data.geometry import Geometry
from memory_defense.data.own import load_images
from memory_defense.systems.load import load_model
from memory_defense.workflows.certify import certify
from systems.doors import CLASSES, SIDE, Last, Levels, Net, fitted, images, write_onnx, write_program

EPSILON = 2 / 255
ASKED = ("--epsilon", "2/255", "--attacks", "pgd", "--threads", 1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("doors")
    images(place / "data")
    return place


@pytest.fixture(scope="module")
def net(home: Path) -> nn.Module:
    torch.manual_seed(0)
    return fitted(Net(), images(home / "again"))


def both(target: str, home: Path, model: nn.Module, *options: object) -> dict[str, object]:
    """Evaluate a target by one command; check its numbers against the model's from Python; return its record."""
    done = memdef("evaluate", target, "--data", home / "data", *ASKED, "--out", home / "r.json", *options)
    assert done.status == 0, done
    record = json.loads((home / "r.json").read_text())
    data = load_images(home / "data").images
    wanted = memory_defense.evaluate(model, data.floats(), data.labels, epsilon=EPSILON, attacks="pgd")
    assert record["clean"]["accuracy"] == wanted.clean.accuracy
    assert record["clean"]["accuracy"] > 1 / CLASSES
    assert [one["accuracy"] for one in record["worst_case"]] == [one.accuracy for one in wanted.worst_case]
    return record


@pytest.mark.parametrize("kind", ["nchw", "nhwc", "levels", "one", "program", "program of four"])
def test_a_file_of_others_is_evaluated_as_its_model_is(kind, home, net, monkeypatch) -> None:
    if not kind.startswith("program"):
        pytest.importorskip("onnx2fx")
    monkeypatch.chdir(home)
    pixels, place = torch.rand(2, 3, SIDE, SIDE), Path(f"{kind.replace(' ', '_')}.onnx")
    target = str(place)
    if kind == "nchw":
        write_onnx(net, pixels, place)
    elif kind == "nhwc":
        target = f"onnx:{write_onnx(Last(net), pixels.permute(0, 2, 3, 1).contiguous(), place)}"
    elif kind == "levels":
        write_onnx(Levels(net), (pixels * 255).to(torch.uint8), place)
    elif kind == "one":
        write_onnx(net, pixels[:1], place, batch=False)
    elif kind == "program":
        target = str(write_program(net, pixels, place.with_suffix(".pt2")))
    else:
        target = f"pt2:{write_program(net, torch.rand(4, 3, SIDE, SIDE), place.with_suffix('.pt2'), batch=False)}"
    loaded = load_model(target).module
    some = load_images(home / "data").images.floats()
    assert torch.allclose(loaded(some), net(some), atol=1e-5)
    reference = Rounded(net) if kind == "levels" else net
    record = both(target, home, reference)
    notes = " ".join(record["notes"])
    said = {
        "nhwc": "channels last",
        "levels": "whole grey levels",
        "one": "1 at a time",
        "program of four": "4 at a time",
    }
    assert said.get(kind, "") in notes
    assert ("as onnx2fx" in notes) == (not kind.startswith("program"))
    assert memory_defense.load(target)(some).shape == (20, CLASSES)


class Rounded(nn.Module):
    """What a model of grey levels is for floats: its pixels rounded, the gradient passed on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels):
        levels = pixels * 255
        return self.model((levels + (levels.round() - levels).detach()) / 255)


def test_without_a_converter_only_queries_are_made_and_both_record_and_audit_say_so(home, net, monkeypatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(home)
    monkeypatch.setitem(__import__("sys").modules, "onnx2fx", None)
    place = write_onnx(net, torch.rand(2, 3, SIDE, SIDE), Path("asked.onnx"))
    asked = ("evaluate", f"onnx:{place}", "--data", "data", "--epsilon", "0.3", "--threads", 1, "--out", "q.json")
    refused(memdef(*asked, "--attacks", "pgd"), "has no gradient", "square")
    done = memdef(*asked, "--attacks", "square")
    assert done.status == 0, done
    record = json.loads(Path("q.json").read_text())
    assert any("attacks only ask" in one and "pip install" in one for one in record["notes"])
    stages = [stage for cascade in record["cascades"] for stage in cascade["stages"]]
    assert {one["knowledge"] for one in stages} == {"queries"}
    gradients = [one for one in record["audit"] if "gradient" in one["check"]]
    assert any(one["verdict"] != "pass" for one in gradients)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_folder_of_transformers_is_evaluated_with_its_image_processor(kind, home, monkeypatch) -> None:
    transformers = pytest.importorskip("transformers")
    monkeypatch.chdir(home)
    torch.manual_seed(0)
    if kind == "resnet":
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=CLASSES, layer_type="basic"
        )
        model = transformers.ResNetForImageClassification(config)
        size = {"size": {"shortest_edge": 24}, "do_center_crop": True, "crop_size": {"height": 24, "width": 24}}
        geometry = Geometry(resize=24, crop=(24, 24), interpolation="bicubic")
        sized = {"image_processor_type": "BitImageProcessor", **size, "resample": 3}
    else:
        config = transformers.ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=24,
            patch_size=8,
            num_labels=CLASSES,
        )
        model = transformers.ViTForImageClassification(config)
        geometry = Geometry(resize=(24, 24))
        sized = {"image_processor_type": "ViTImageProcessor", "size": {"height": 24, "width": 24}, "resample": 2}
    told = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    told |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], **sized}
    classifier = Processed(model)
    data = load_images(home / "data", geometry=geometry).images
    order = data.labels.argsort(stable=True).view(CLASSES, -1).T.flatten()
    fitted(classifier, data.floats()[order])
    model.save_pretrained(kind)
    Path(kind, "preprocessor_config.json").write_text(json.dumps(told))
    loaded = load_model(f"hf:{kind}")
    assert (loaded.geometry, loaded.names) == (geometry, None)
    assert torch.allclose(loaded.module(data.floats()), classifier(data.floats()), atol=1e-6)
    done = memdef("evaluate", f"hf:{kind}", "--data", "data", *ASKED, "--out", "h.json")
    assert done.status == 0, done
    record = json.loads(Path("h.json").read_text())
    wanted = memory_defense.evaluate(classifier, data.floats(), data.labels, epsilon=EPSILON, attacks="pgd")
    assert record["clean"]["accuracy"] == wanted.clean.accuracy > 1 / CLASSES
    assert [one["accuracy"] for one in record["worst_case"]] == [one.accuracy for one in wanted.worst_case]
    assert any("mean=0.5/0.4/0.3,std=0.2/0.3/0.4" in one for one in record["notes"])
    smoothed = ("--sigma", "0.1", "--samples", 100, "--selection", 10, "--radius", "0.05", "--threads", 1)
    done = memdef("certify", f"hf:{kind}", "--data", "data", *smoothed, "--out", "c.json")
    assert done.status == 0, done
    proven = json.loads(Path("c.json").read_text())
    smoothing, options = Smoothing(sigma=0.1, samples=100, selection=10), Options(ids=data.ids)
    expected = certify(
        classifier, data.floats(), data.labels, radii=[0.05], smoothing=smoothing, options=options
    ).certified
    assert [one["accuracy"] for one in proven["certified"]] == [one.accuracy for one in expected]
    assert set(proven["notes"]) >= set(record["notes"])


class Processed(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels):
        mean, std = (torch.tensor(one).view(-1, 1, 1) for one in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
        return self.model(pixel_values=(pixels - mean) / std).logits


def test_code_with_preprocessing_is_predicted_exported_and_evaluated_again(home, net, monkeypatch) -> None:
    pytest.importorskip("onnx2fx")
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(home)
    Path("door_net.py").write_text(
        "from systems.doors import Net\n\ndef build(depth):\n    assert depth == 3\n    return Net()\n"
    )
    torch.save({"state_dict": {f"module.{name}": one for name, one in trained_on_levels(net).items()}}, "w.pth")
    assert memdef("convert", "w.pth", "w.safetensors", "--force").status == 0
    target = ("door_net:build", "--argument", "depth=3", "--weights", "w.safetensors", "--preprocess", "255")
    done = memdef("evaluate", *target, "--data", "data", *ASKED, "--out", "c.json")
    assert done.status == 0, done
    record = json.loads(Path("c.json").read_text())
    assert any("preprocessing of pixels in [0, 1]: 255" in one for one in record["notes"])
    data = load_images(home / "data").images
    wanted = memory_defense.evaluate(net, data.floats(), data.labels, epsilon=EPSILON, attacks="pgd")
    assert record["clean"]["accuracy"] == wanted.clean.accuracy
    done = memdef("export", *target, "--data", "data", "--format", "onnx", "--out", "c.onnx", "--force")
    assert "agrees on" in done.out, done
    again = both("c.onnx", home, net)
    assert again["clean"] == record["clean"]
    assert any("exported from door_net:build" in one for one in again["notes"])
    refused(memdef("evaluate", "c.onnx", "--data", "data", *ASKED, "--preprocess", "127"), "in [0, 1] as exported")
    pictures = [home / "data/test/0/00.png", home / "data/test/1/01.png"]
    for command in (("predict", "c.onnx", *pictures), ("predict", *target, "--data", "data", *pictures)):
        done = memdef(*command, "--json")
        said = [json.loads(line) for line in done.out.splitlines()]
        assert [one["flag"] for one in said] == [None, None]
        first = load_images(home / "data")
        expected = net(torch.stack([first.images.floats()[first.images.ids == k][0] for k in (0, 4)])).argmax(1)
        assert [one["label"] for one in said] == [str(int(one)) for one in expected]


def trained_on_levels(net: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state of the same net for pixels from 0 to 255."""
    state = {name: one.clone() for name, one in net.state_dict().items()}
    state["body.0.weight"] /= 255
    return state


def test_weights_that_nobody_trained_are_refused_unless_they_are_meant(home, monkeypatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(home)
    Path("random_net.py").write_text(
        "from torch import nn\ndef build(classes):\n    head = nn.Linear(3072, classes)\n"
        "    nn.init.zeros_(head.weight)\n"
        "    return nn.Sequential(nn.Flatten(), head)\n"
    )
    asked = ("evaluate", "random_net:build", "--data", "data", *ASKED, "--out", "n.json")
    refused(memdef(*asked), "has no --weights", "all 20 images get the answer", "--random-weights")
    assert memdef(*asked, "--random-weights").status == 0
    notes = json.loads(Path("n.json").read_text())["notes"]
    assert any(one.startswith("all 20 images get the answer") for one in notes)
