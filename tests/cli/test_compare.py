"""Records beside each other on the command line, and the name that was given wherever a record is shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import memory_defense
from faults.helpers_faults import memdef, refused
from memory_defense import Options, Record

COUNT = 30


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two records of linear nets on the same images, and a page that is none of ours."""
    root = tmp_path_factory.mktemp("compare")
    torch.manual_seed(0)
    images = torch.rand(COUNT, 1, 4, 4)
    first = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    labels = first(images).argmax(1)
    second = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    second.load_state_dict({name: one + 0.02 * torch.randn_like(one) for name, one in first.state_dict().items()})
    for name, net in (("first", first), ("second", second)):
        chosen = Options(defense=f"the {name}", dataset="cifar10")
        memory_defense.evaluate(
            net, images, labels, epsilon=8 / 255, attacks="fgsm", out=root / f"{name}.json", options=chosen
        )
    (root / "mine.html").write_text("my page")
    return root


def test_the_terminal_shows_numbers_differences_and_what_differs(place: Path) -> None:
    said = memdef("compare", place / "first.json", place / "second.json", "--published")
    assert said.status == 0, said.err
    for part in ("the first", "the second", "Difference to the first", "30 images that both", "Bartoldson2024"):
        assert part in " ".join(said.out.split())
    record = Record.read(place / "second.json")
    assert f"{100 * record.clean.accuracy:.1f}" in said.out
    assert "Bartoldson2024" not in memdef("compare", place / "first.json", place / "second.json").out


def test_names_may_be_given(place: Path) -> None:
    said = memdef(
        "compare", place / "first.json", place / "second.json", "--name", "A", "--name", "B", "--format", "markdown"
    )
    assert "## Difference to A" in said.out
    assert "the first" not in said.out
    refused(memdef("compare", place / "first.json", place / "second.json", "--name", "A"), "1 names for 2 records")


def test_a_page_is_written_over_pages_only(place: Path) -> None:
    files = (place / "first.json", place / "second.json", "--format", "html", "--out")
    assert memdef("compare", *files, place / "page.html").status == 0
    assert "the second" in (place / "page.html").read_text(encoding="utf-8")
    assert memdef("compare", *files, place / "page.html").status == 0
    refused(memdef("compare", *files, place / "mine.html"), "is not a report of this program")
    refused(memdef("compare", place / "first.json"), "needs at least 2 records, but 1 came")


def test_a_file_of_images_that_is_another_records_is_refused(place: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        shutil.copy(place / f"{name}.json", tmp_path)
    shutil.copy(place / "second.images.safetensors", tmp_path / "first.images.safetensors")
    refused(memdef("compare", tmp_path / "first.json", tmp_path / "second.json"), "contradict each other")


def test_the_name_given_is_shown_everywhere(place: Path, tmp_path: Path) -> None:
    both = (place / "first.json", place / "second.json")
    assert memdef("report", *both, "--out", tmp_path / "report.html").status == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for name in ("the first", "the second"):
        assert f">{name}</a>" in page
        assert f">{name}</h2>" in page
    assert ">attacks: fgsm</h2>" not in page
    one = (place / "first.json", "--format")
    card = memdef("report", *one, "model-card").out
    assert "# the first" in card
    assert json.loads(memdef("report", *one, "cyclonedx").out)["components"][0]["name"] == "the first"
    assert "uoft-cs/cifar10" in memdef("report", *one, "eval-results").out
    lines = memdef("report", *one, "jsonl").out.splitlines()
    assert [json.loads(line)["id"] for line in lines] == list(range(COUNT))


def test_the_command_line_gives_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_named.py").write_text(
        "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))\n"
    )
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x_test=rng.random((6, 1, 8, 8), dtype=np.float32), y_test=np.arange(6) % 2)
    line = ("evaluate", "own_named:build", "--data", "data.npz", "--epsilon", "0.1", "--attacks", "fgsm")
    said = memdef(*line, "--name", "what I call it", "--out", "named.json")
    assert said.status == 0, said.err
    assert "what I call it" in said.out
    assert Record.read("named.json").defense == "what I call it"
    assert memdef(*line, "--out", "plain.json").status == 0
    assert Record.read("plain.json").defense == "own_named:build"


def test_a_proof_carries_the_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_proven.py").write_text(
        "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))\n"
    )
    images = np.random.default_rng(0).random((3, 1, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "data.npz", x_test=images, y_test=np.arange(3) % 2)
    said = memdef(
        "certify", "own_proven:build", "--data", "data.npz", "--sigma", "0.25", "--radius", "0.1",
        "--samples", "50", "--name", "proven by me", "--out", "proof.json",
    )  # fmt: skip
    assert said.status == 0, said.err
    assert Record.read("proof.json").defense == "proven by me"
    assert "proven by me" in said.out
