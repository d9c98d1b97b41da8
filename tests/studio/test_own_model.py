"""A classifier of one's own, opened by ``memdef studio``: its own geometry, and the answers that Python gets."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from torch import nn

from memory_defense.cli.studio import studio
from memory_defense.data.geometry import Geometry
from memory_defense.data.own import load_images
from memory_defense.studio import server
from memory_defense.studio.server import build_server
from systems.doors import SIDE, Net, fitted, images, write_onnx, write_program

from .conftest import BASE, attack, png
from .pages import opened

Open = Callable[..., TestClient]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("own")
    images(place / "data")
    return place


@pytest.fixture(scope="module")
def net(home: Path) -> nn.Module:
    torch.manual_seed(0)
    return fitted(Net(), images(home / "again"))


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[Open]:
    """Yield what opens the command's studio without a socket."""
    monkeypatch.chdir(home)
    kept: list[server.StudioOptions] = []
    monkeypatch.setattr(server, "serve", lambda settings, say: kept.append(settings))

    def start(target: str, **options: object) -> TestClient:
        studio(folders=[Path(target)], **options)  # pyright: ignore[reportArgumentType]
        made = TestClient(build_server(kept[-1]).config.app, base_url=BASE, headers={"origin": BASE})
        return running.enter_context(made)

    with ExitStack() as running:
        yield start


def answers(client: TestClient, target: str, image: dict[str, object]) -> dict:
    """Return what the studio says of a clean image."""
    asked = attack(options={}, attack="square", epsilon=0.0, knowledge=known(client, target)[0])
    told = client.post("/api/play", json={"run": target, "image": image, "attack": asked})
    assert told.status_code == 200, told.json()
    return told.json()["clean"]


def known(client: TestClient, target: str) -> list[str]:
    return [one["name"] for one in client.get("/api/run", params={"run": target}).json()["knowledge"]]


@pytest.mark.parametrize("kind", ["onnx", "queries", "program", "code"])
def test_every_door_answers_as_the_model_does(kind, home, net, client, monkeypatch) -> None:
    pixels, options = torch.rand(2, 3, SIDE, SIDE), {}
    if kind == "program":
        target = str(write_program(net, pixels, home / "net.pt2"))
    elif kind == "code":
        monkeypatch.syspath_prepend(home)
        (home / "studio_net.py").write_text("from systems.doors import Net\n\ndef build():\n    return Net()\n")
        state = {name: one.clone() for name, one in net.state_dict().items()}
        state["body.0.weight"] /= 255
        __import__("safetensors.torch").torch.save_file(state, home / "w.safetensors")
        target = "studio_net:build"
        options = {"weights": home / "w.safetensors", "preprocess": "255"}
    else:
        pytest.importorskip("onnxruntime" if kind == "queries" else "onnx2fx")
        target = f"onnx:{write_onnx(net, pixels, home / f'{kind}.onnx')}"
        if kind == "queries":
            monkeypatch.setitem(__import__("sys").modules, "onnx2fx", None)
    opened_here = client(target, data=str(home / "data"), **options)
    data = load_images(home / "data").images
    shelf = opened_here.get("/api/studio").json()
    assert (shelf["first"], shelf["runs"][0]["height"], shelf["runs"][0]["width"]) == (target, SIDE, SIDE)
    shown = opened_here.get("/api/tests", params={"run": target}).json()
    assert shown["total"] == len(data)
    assert [one["label"] for one in shown["images"]] == data.labels[:12].tolist()
    with torch.no_grad():
        every = net(data.floats()).softmax(1)
    right = int((every.argmax(1) == data.labels).nonzero()[0])  # what is wrong before any attack is not attacked
    wanted = every[right]
    found = answers(opened_here, target, {"test": right})["probabilities"]
    assert torch.allclose(torch.tensor(found), wanted, atol=1e-4)
    asked = {"run": target, "image": {"test": right}, "attack": attack(options={"steps": 2})}
    if kind == "queries":
        asked["attack"]["knowledge"] = "queries"
        refused = opened_here.post("/api/play", json=asked)
        assert refused.status_code == 422
        assert "pgd follows a gradient, but this model only answers; choose " in refused.json()["error"]
    else:
        played = opened_here.post("/api/play", json=asked).json()
        assert 0 < played["linf"] <= 0.1 + 1e-6


def test_pictures_of_any_aspect_take_the_model_s_own_geometry(home, client, monkeypatch) -> None:
    """A folder of transformers that crops; pixels beyond what a page sent of smaller images."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=5, layer_type="basic"
    )
    transformers.ResNetForImageClassification(config).save_pretrained(home / "resnet")
    told = {"image_processor_type": "BitImageProcessor", "do_resize": True, "size": {"shortest_edge": 336}}
    told |= {"do_center_crop": True, "crop_size": {"height": 320, "width": 224}, "resample": 3}
    told |= {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": False}
    (home / "resnet" / "preprocessor_config.json").write_text(json.dumps(told))
    target = "hf:resnet"
    there = client(target, data=str(home / "data"), images=3)
    geometry = Geometry(resize=336, crop=(320, 224), interpolation="bicubic")
    view = there.get("/api/studio").json()["runs"][0]
    assert (view["height"], view["width"]) == (320, 224)
    assert there.get("/api/tests", params={"run": target}).json()["total"] == 3
    wide = np.random.default_rng(0).integers(0, 256, (90, 200, 3), dtype=np.uint8)
    sent = there.post(f"/api/image?run={target}", content=png(wide), headers={"content-type": "image/png"}).json()
    levels = geometry.apply(wide).transpose(2, 0, 1)
    assert base64.b64decode(sent["pixels"]) == levels.tobytes()
    look = answers(there, target, {"pixels": sent["pixels"]})
    assert (opened(look["picture"]) == levels.transpose(1, 2, 0)).all()
    thin = there.post(f"/api/image?run={target}", content=png(wide[:4]), headers={"content-type": "image/png"})
    assert thin.status_code == 200, "its shorter side is enlarged as the processor would"
    monkeypatch.setattr(Geometry, "apply", lambda *_: wide[:50])
    other = there.post(f"/api/image?run={target}", content=png(wide), headers={"content-type": "image/png"})
    assert (other.status_code, "choose one of that aspect" in other.json()["error"]) == (422, True)


def test_a_rectangular_set_without_a_stated_geometry_gives_up_the_aspect(home, client, monkeypatch) -> None:
    monkeypatch.syspath_prepend(home)
    (home / "studio_wide_net.py").write_text(
        "from torch import nn\n\ndef build(classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 12, classes))\n"
    )
    for label in "ab":
        (home / "wide" / "test" / label).mkdir(parents=True)
        for number in range(2):
            pixels = np.random.default_rng((number, ord(label))).integers(0, 256, (8, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(home / "wide" / "test" / label / f"{label}{number}.png")
    there = client("studio_wide_net:build", data=str(home / "wide"), random_weights=True)
    tall = np.random.default_rng(5).integers(0, 256, (30, 10, 3), dtype=np.uint8)
    sent = there.post(
        "/api/image?run=studio_wide_net:build", content=png(tall), headers={"content-type": "image/png"}
    )
    expected = Geometry(resize=(8, 12)).apply(tall).transpose(2, 0, 1)
    assert base64.b64decode(sent.json()["pixels"]) == expected.tobytes()


def test_options_of_a_classifier_need_one_and_no_two_are_opened(home, monkeypatch) -> None:
    monkeypatch.chdir(home)
    with pytest.raises(ValueError, match="--data, --preprocess: only with a classifier; name one"):
        studio(folders=[home], data="data", preprocess="255")
    with pytest.raises(ValueError, match="a:b and c:d: one classifier at a time"):
        studio(folders=[Path("a:b"), Path("c:d")], data="data")
    with pytest.raises(ValueError, match="which images"):
        studio(folders=[Path("a:b")])
