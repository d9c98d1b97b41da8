"""The studio's addresses: what they answer, and that nothing makes them answer with a traceback."""

import base64
import os

import numpy as np
import pytest

from .conftest import attack, png
from .pages import opened


def test_the_page_and_its_files(client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    names = [part.split('"')[0] for part in page.text.split('="/static/')[1:]]
    assert {"studio.js", "studio.css", "icon.svg"} <= set(names)
    for name in names:
        assert client.get(f"/static/{name}").status_code == 200
    assert client.get("/static/studio.js").headers["content-type"].startswith("text/javascript")


def test_the_page_asks_nothing_of_others_and_has_nothing_inline(client) -> None:
    page = client.get("/").text
    assert "http://" not in page
    assert "https://" not in page
    assert "<style" not in page
    assert " style=" not in page
    assert not [part for part in page.split("<script")[1:] if "src=" not in part.split(">")[0]]
    assert " on" not in {word[:3] for tag in page.split("<")[1:] for word in tag.split(">")[0].split('"')[::2]}


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static/%2fetc%2fpasswd",
        "/app.py",
        "/docs",
        "/openapi.json",
        "/redoc",
        "/first/manifest.json",
        "/runs",
    ],
)
def test_nothing_else_is_served(client, path) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "start at /" in answer.json()["error"]


def test_the_shelf_lists_runs_and_attacks(client) -> None:
    shelf = client.get("/api/studio").json()
    assert [(run["name"], bool(run["fault"])) for run in shelf["runs"]] == [
        ("deeper/second", False),
        ("first", False),
        ("stopped", True),
    ]
    norms = {one["name"]: one["norms"] for one in shelf["attacks"]}
    assert norms["pgd"] == ["linf", "l2"]
    assert norms["ddn"] == norms["cw"] == ["l2"]


def test_a_run_is_described(client) -> None:
    run = client.get("/api/run", params={"run": "first"}).json()
    assert {"fixed-slots", "selector", "end-to-end"} <= {one["name"] for one in run["knowledge"]}
    assert run["slots"] is True
    assert run["test_images"] == 100
    assert "no threshold has been chosen" in run["flag"]
    assert run["flag"].endswith("--detection")


def test_test_images_are_the_dataset_s(client, splits) -> None:
    found = client.get("/api/tests", params={"run": "first", "start": 96, "count": 12}).json()
    assert [one["index"] for one in found["images"]] == [96, 97, 98, 99]
    for one in found["images"]:
        assert one["label"] == int(splits.test.labels[one["index"]])
        assert (opened(one["picture"]) == splits.test.images[one["index"], 0].numpy()).all()
    assert client.get("/api/tests", params={"run": "first", "start": 10_000}).json()["images"] == []


def test_an_upload_becomes_an_image_that_can_be_attacked(client) -> None:
    grey = np.random.default_rng(1).integers(0, 256, (28, 28), dtype=np.uint8)
    pixels = client.post("/api/image", params={"run": "first"}, content=png(grey)).json()["pixels"]
    assert base64.b64decode(pixels) == grey.tobytes()
    played = client.post(
        "/api/play", json={"run": "first", "image": {"pixels": pixels}, "attack": attack(), "label": 4}
    ).json()
    assert played["label_source"] == "you"
    assert (opened(played["clean"]["picture"]) == grey).all()


def test_two_defenses_meet_the_same_image(client, library) -> None:
    message = {"runs": ["first", "deeper/second"], "image": {"test": 6}, "attack": attack()}
    compared = client.post("/api/compare", json=message).json()
    for name, play in zip(message["runs"], compared["plays"], strict=True):
        alone = client.post("/api/play", json={"run": name, "image": {"test": 6}, "attack": attack()}).json()
        unlike = {key for key in alone if alone[key] != play[key]}
        assert unlike <= {"seconds"}
    assert all(0 <= answer < 10 for answer in compared["transfer"])
    assert "For the image made against deeper/second, first answers " in compared["sentence"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"run": "../first"}, "unknown run"),
        ({"run": "stopped"}, "not finished"),
        ({"image": {}}, "exactly one"),
        ({"image": {"test": 1, "pixels": "AAAA"}}, "exactly one"),
        ({"image": {"test": 100}}, "choose 0 to 99"),
        ({"image": {"test": -1}}, "greater than or equal to 0"),
        ({"image": {"pixels": "AAAA"}}, "have 784"),
        ({"image": {"pixels": "?"}}, "not base64"),
        ({"image": {"pixels": "A" * (1 << 17) + "A"}}, "at most 1048"),
        ({"attack": attack(epsilon=-0.1)}, "greater than or equal to 0"),
        ({"attack": attack(norm="l7")}, "'linf' or 'l2'"),
        ({"attack": attack(more=1)}, "not permitted"),
        ({"label": "boot"}, "valid integer"),
    ],
)
def test_a_wrong_question_gets_a_reason(client, changes, why) -> None:
    message = {"run": "first", "image": {"test": 0}, "attack": attack(), **changes}
    answer = client.post("/api/play", json=message)
    assert answer.status_code == 422
    assert why in answer.json()["error"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 200_000,
        b'{"run":' * 30_000,
        b"\xff\xfe",
        b"null",
        b'{"run":"first","image":{"test":0},"attack":{"attack":"pgd","knowledge":"selector","epsilon":NaN}}',
        b'{"run":"first","image":{"test":' + b"9" * 5000 + b'},"attack":{}}',
    ],
)
def test_no_body_makes_a_traceback(client, content) -> None:
    answer = client.post("/api/play", content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]


def test_a_damaged_run_says_so_and_the_others_go_on(own_root, splits) -> None:
    from fastapi.testclient import TestClient

    from memory_defense.studio.app import create_app
    from memory_defense.studio.library import Library
    from memory_defense.studio.runs import Runs
    from memory_defense.studio.tickets import Workshop

    weights = own_root / "first" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    library = Library(Runs(own_root), tests={"fashion-mnist": splits.test})
    with TestClient(create_app(library, Workshop(seconds=20))) as client:
        broken = client.get("/api/run", params={"run": "first"})
        assert broken.status_code == 422
        assert "weights.safetensors" in broken.json()["error"]
        assert client.get("/api/run", params={"run": "deeper/second"}).status_code == 200
        os.utime(weights)
        assert client.get("/api/run", params={"run": "first"}).status_code == 422


def test_a_missing_dataset_leaves_upload_and_drawing(root, tmp_path, monkeypatch) -> None:
    from memory_defense.data.sources import DataNotFoundError
    from memory_defense.studio import library as module
    from memory_defense.studio.describe import describe_run

    asked = {}

    def nothing(name, **options):
        asked.update(options)
        raise DataNotFoundError("nowhere")

    monkeypatch.setattr(module, "load_dataset", nothing)
    shown = describe_run(module.Library(module.Runs(root)), "first")
    assert asked["offline"] is True
    assert shown.test_images == 0
    assert "upload or draw" in shown.test_fault


def test_an_error_nobody_foresaw_stays_inside(client, library, monkeypatch, caplog) -> None:
    def fails(name):
        raise RuntimeError(f"secret of {name}")

    monkeypatch.setattr(library, "subject", fails)
    answer = client.get("/api/run", params={"run": "first"})
    assert answer.status_code == 500
    assert "the terminal" in answer.json()["error"]
    assert "secret" not in answer.text
    assert "secret of first" in caplog.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
