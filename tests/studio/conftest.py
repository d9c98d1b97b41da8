"""A small run on made-up images, and the studio around it."""

import io
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from memory_defense.data.decode import Arrays
from memory_defense.data.images import Splits, split
from memory_defense.data.spec import DATASETS
from memory_defense.randomness import ImageDraws
from memory_defense.recipes.registry import recipe
from memory_defense.run_directory import RunDirectory
from memory_defense.studio.app import create_app
from memory_defense.studio.guard import Guard, Patience
from memory_defense.studio.library import Library
from memory_defense.studio.runs import Runs
from memory_defense.studio.server import StudioOptions, build_server
from memory_defense.studio.tickets import Workshop
from memory_defense.systems.build import build_defense
from memory_defense.training.checkpoint import save_weights

from .pages import CHROMIUM, DESK, FLAGS, SETTLED, TOURED, until

BASE = "http://127.0.0.1:8765"


@pytest.fixture(scope="session")
def splits() -> Splits:
    """Fashion-MNIST's shape with made-up images: class k is a bright bar in row 2 k."""
    spec = replace(DATASETS["fashion-mnist"], held_out_images=50)
    labels = (torch.arange(400) % 10).to(torch.uint8)
    images = (ImageDraws.of(0, "made up", 400).uniform(1, 28, 28) * 120).to(torch.uint8)
    for row, label in enumerate(labels.tolist()):
        images[row, 0, 2 * label : 2 * label + 4] += 120
    return split(Arrays(images[:300], labels[:300], images[300:], labels[300:]), spec)


def untrained(path: Path, seed: int) -> None:
    """Write a run as training leaves it, only that nothing was learnt."""
    tiny, run = recipe("fashion-mnist/tiny"), RunDirectory(path)
    path.mkdir(parents=True)
    manifest = run.begin(tiny, seed, 300, resume=False)
    save_weights(run.weights, build_defense(tiny.model, seed))
    run.write({**manifest, "complete": True})


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """Two finished runs, ``first`` and ``deeper/second``, and an unfinished one."""
    path = tmp_path_factory.mktemp("runs")
    untrained(path / "first", 3)
    untrained(path / "deeper" / "second", 4)
    RunDirectory(path / "stopped").write({**RunDirectory(path / "first").read(), "complete": False})
    return path


@pytest.fixture
def own_root(root, tmp_path) -> Path:
    """A copy of the runs that a test may change."""
    return Path(shutil.copytree(root, tmp_path / "runs"))


@pytest.fixture(scope="session")
def library(root, splits) -> Library:
    return Library(Runs(root), tests={"fashion-mnist": splits.test})


@pytest.fixture(scope="session")
def client(library) -> Iterator[TestClient]:
    guarded = Guard(create_app(library, Workshop(seconds=20)), patience=Patience(body_seconds=1))
    with TestClient(guarded, base_url=BASE, headers={"origin": BASE}) as opened:
        yield opened


def attack(**changes) -> dict:
    return {"attack": "pgd", "options": {"steps": 10}, "knowledge": "end-to-end", "epsilon": 0.1, **changes}


def png(pixels: np.ndarray, **options) -> bytes:
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, format="PNG", **options)
    return written.getvalue()


class Running:
    """The studio on a real socket, in a thread."""

    def __init__(self, root: Path, splits: Splits, **settings) -> None:
        self.server = build_server(StudioOptions(runs=root, port=0, **settings))
        guard = self.server.config.app
        guard._app = create_app(
            Library(Runs(root, shipped=settings.get("shipped")), tests={"fashion-mnist": splits.test}),
            Workshop(seconds=settings.get("seconds", 20)),
        )
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)

    def __enter__(self) -> "Running":
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self.server.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)
        return self

    def __exit__(self, *error: object) -> None:
        self.server.should_exit = True
        self._thread.join(20)


@pytest.fixture(scope="session")
def running(root, splits) -> Iterator[Running]:
    with Running(root, splits) as one:
        yield one


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, running, request) -> Iterator[object]:
    """A page of its own, past the tour; afterwards, nothing was asked of another machine and no script failed."""
    asked: list[str] = []
    failed: list[str] = []
    context = chromium.new_context(
        **{"viewport": DESK, "reduced_motion": "reduce", **getattr(request, "param", {})}
    )
    context.set_default_timeout(30_000)
    context.add_init_script(TOURED)
    page = context.new_page()
    page.on("request", lambda one: asked.append(one.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.on("console", lambda message: failed.append(message.text) if message.type == "error" else None)
    page.goto(running.address)
    until(page, SETTLED)
    yield page
    context.close()
    refused = [
        text for text in failed if not any(status in text for status in ("413", "415", "422"))
    ]  # a refused upload is a refusal, not a failure
    assert refused == []
    away = [url for url in asked if urlsplit(url).scheme != "data" and urlsplit(url).hostname != "127.0.0.1"]
    assert asked
    assert away == []
