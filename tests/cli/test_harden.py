"""``memdef harden`` as its users see it, and the commands that go on with what it left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import memory_defense
from memory_defense.cli.harden import SIZES, HardenArguments, check
from memory_defense.evaluation.record import Record
from memory_defense.recipes.hardened import LARGEST, SMALLEST
from workflows.own_folder import PLACE, write_folder, write_net

QUICK = ("--epochs", "1", "--attacks", "glimpse", "--images", "8")


def memdef(*arguments: str | Path, at: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "memory_defense", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=300, check=False, cwd=at
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("user")
    write_net(root, write_folder(root / "shapes", train=12, test=4))
    return root


@pytest.fixture(scope="module")
def hardened(place):
    """Harden by a path relative to the user's own folder."""
    data = ("--weights", "shapes.safetensors", "--data", "shapes", "--out", "run")
    done = memdef("harden", PLACE, *data, *QUICK, at=place)
    assert done.returncode == 0, done.stderr
    return done


def test_harden_says_its_plan_its_records_and_its_paragraph(hardened, place) -> None:
    assert "shapes: 3 classes, 3 x 16 x 16; 33 images to train on, 3 held out, 8 of 12" in hardened.stderr
    assert "epsilon 0.03137" in hardened.stderr
    said, words = hardened.stdout.split(), (place / "run" / "gained.txt").read_text().split()
    assert " ".join(words) in " ".join(said)
    for title in ("as it was", "fine-tuned, alone", "Memory Defense"):
        assert title in hardened.stdout


def test_evaluate_finds_the_images_again_and_repeats_the_record(hardened, place) -> None:
    before = Record.read(place / "run" / "record.json")
    done = memdef("evaluate", "run", "--out", "again.json", at=place)
    assert done.returncode == 0, done.stderr
    again = Record.read(place / "again.json")
    assert (again.clean, again.dataset, again.images) == (before.clean, "shapes", 8)
    assert again.worst_case == before.worst_case


def test_predict_answers_for_the_users_files(hardened, place) -> None:
    done = memdef("predict", "run", "shapes/test/disc", "--json", at=place)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 4
    assert {line["label"] for line in lines} <= {"bar", "disc", "square"}
    other = memdef("predict", "run", "shapes/test/disc", "--false-alarms", "0.4", at=place)
    assert other.returncode == 0, other.stderr
    assert "40" in other.stdout


def test_export_refuses_code_and_writes_an_onnx_file_that_needs_none(hardened, place) -> None:
    refused = memdef("export", "run", at=place)
    assert refused.returncode == 2
    assert "--format onnx" in refused.stderr
    pytest.importorskip("onnxruntime")
    done = memdef("export", "run", "--format", "onnx", "--out", "net.onnx", at=place)
    assert done.returncode == 0, done.stderr
    exported, run = memory_defense.load(place / "net.onnx"), load_here(place)
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(exported(images), run(images), atol=1e-4)


def load_here(place: Path, run: str = "run"):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return memory_defense.load(place / run)


def test_where_the_module_is_missing_its_name_is_said(hardened, place, tmp_path) -> None:
    done = memdef("predict", place / "run", place / "shapes" / "test", at=tmp_path)
    assert done.returncode == 2
    assert "there is no module shapes_net" in done.stderr


def test_a_recipe_trains_on_the_users_images_and_is_evaluated(place) -> None:
    trained = memdef("train", "fashion-mnist/tiny", "--data", "shapes", "--out", "tiny", at=place)
    assert trained.returncode == 0, trained.stderr
    manifest = json.loads((place / "tiny" / "manifest.json").read_text())
    assert manifest["recipe"] == "fashion-mnist/tiny on shapes"
    assert manifest["images_from"]["source"] == str(place / "shapes")
    done = memdef("evaluate", "tiny", "--attacks", "fgsm", "--images", "4", at=place)
    assert done.returncode == 0, done.stderr
    assert Record.read(place / "tiny" / "partial.json").dataset == "shapes"


BAD = {
    "no place": ({"classifier": "net"}, "such as net:build"),
    "a pickle": ({"weights": "net.pt"}, "is not a .safetensors file"),
    "no weights": ({"weights": "none.safetensors"}, "does not exist; train your net"),
    "no data": ({"data": "none"}, "--data none does not exist; give a folder"),
    "too small": ({"size": 8}, "--size is 8, but the memory autoencoder takes 16 to 1024"),
    "too large": ({"size": 1025}, "--size is 1025"),
    "no number": ({"epsilon": "eight"}, "is not a number"),
    "grey levels": ({"epsilon": "8"}, "in grey levels is divided by 255 .8/255."),
    "nothing": ({"epsilon": "0"}, "must be above 0"),
    "no copy to mix": ({"keep_clean_accuracy": True, "fine_tune": False}, "leave out one of both"),
    "noise of nothing": ({"certified": 0.0}, "--certified is 0.0"),
    "no certificate": ({"radius": ["0.1"], "black_box": True}, "--radius, --black-box: only with --certified"),
    "both": ({"certified": 0.25, "epsilon": "0.1", "fine_tune": False}, "--epsilon, --no-fine-tune: not together"),
    "two ways": ({"certified": 0.25, "keep_clean_accuracy": True}, "--keep-clean-accuracy: not together"),
    "three ways": ({"certified": 0.25, "without_memory": True, "accumulate": 2}, "-memory, --accumulate: not"),
    "no L2 radius": ({"certified": 0.25, "radius": ["-1"]}, "an L2 radius must be at least 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_told(place, monkeypatch, name) -> None:
    monkeypatch.chdir(place)
    changes, message = BAD[name]
    values = {"classifier": PLACE, "weights": "shapes.safetensors", "data": "shapes"} | changes
    with pytest.raises(ValueError, match=message):
        check(HardenArguments(**(values | {"weights": Path(values["weights"])})))


def test_certified_leaves_the_classifier_as_it_is_and_certify_goes_on(place) -> None:
    brought = (place / "shapes.safetensors").read_bytes()
    data = ("--weights", "shapes.safetensors", "--data", "shapes", "--out", "proven")
    few = ("--epochs", "1", "--images", "2", "--samples", "40", "--selection", "10", "--radius", "0.05")
    done = memdef("harden", PLACE, *data, *few, "--certified", "0.1", "--black-box", at=place)
    assert done.returncode == 0, done.stderr
    assert "no weight of shapes_net:build changes" in done.stderr
    assert "2 images, up to 50 noisy copies of each" in done.stderr
    said, words = done.stdout.split(), (place / "proven" / "gained.txt").read_text().split()
    start = next(place for place in range(len(said)) if said[place : place + 3] == words[:3])
    assert said[start : start + len(words)] == words
    assert (place / "shapes.safetensors").read_bytes() == brought
    copies = ("--samples", "40", "--selection", "10")
    again = memdef("certify", "proven", "--sigma", "0.1", "--radius", "0.05", "--images", "2", *copies, at=place)
    assert again.returncode == 0, again.stderr
    assert Record.read(place / "proven" / "certificates.json").certified[0].images == 2
    kept = Record.read(place / "proven" / "certified-after.json").certified[0]
    assert Record.read(place / "proven" / "certificates.json").certified[0].accuracy == kept.accuracy


def test_the_sizes_are_those_of_the_recipe() -> None:
    assert SIZES == (SMALLEST, LARGEST)


def test_arguments_are_checked_before_torch_is_imported(place) -> None:
    code = (
        "import sys; from pathlib import Path; from memory_defense.cli.harden import HardenArguments, check; "
        "weights = Path('shapes.safetensors'); "
        "check(HardenArguments(classifier='a:b', weights=weights, data='shapes', epsilon='8/255')); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_data_that_cannot_serve_are_told(place) -> None:
    for name, lacks, message in (
        ("one-class", {"classes": ("bar",)}, "1 class"),
        ("no-test", {"test": 0}, "test"),
    ):
        folder = write_folder(place / name, train=3, **({"test": 1} | lacks))
        if name == "no-test":
            for inside in sorted((folder / "test").rglob("*"), reverse=True):
                inside.rmdir()
            (folder / "test").rmdir()
        done = memdef("harden", PLACE, "--weights", "shapes.safetensors", "--data", name, *QUICK, at=place)
        assert done.returncode == 2
        assert message in done.stderr


@pytest.fixture(scope="module")
def mixed(place):
    asked = ("--weights", "shapes.safetensors", "--data", "shapes", "--out", "mixed", "--keep-clean-accuracy")
    done = memdef("harden", PLACE, *asked, *QUICK, at=place)
    assert done.returncode == 0, done.stderr
    return done


def test_keeping_clean_accuracy_mixes_and_says_what_came_back(mixed, place) -> None:
    said, words = mixed.stdout.split(), (place / "mixed" / "gained.txt").read_text().split()
    assert " ".join(words) in " ".join(said)
    for title in ("as it was", "fine-tuned, alone", "mixed"):
        assert title in mixed.stdout
    assert "memory autoencoder" not in mixed.stdout
    assert "joint" not in mixed.stderr


def test_a_mixture_is_evaluated_predicts_and_is_exported(mixed, place) -> None:
    done = memdef("evaluate", "mixed", "--out", "mixed-again.json", at=place)
    assert done.returncode == 0, done.stderr
    again, before = Record.read(place / "mixed-again.json"), Record.read(place / "mixed" / "record.json")
    assert (again.clean, again.worst_case) == (before.clean, before.worst_case)
    done = memdef("predict", "mixed", "shapes/test/disc", "--json", at=place)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4
    refused = memdef("export", "mixed", at=place)
    assert refused.returncode == 2
    assert "--format onnx" in refused.stderr
    pytest.importorskip("onnxruntime")
    done = memdef("export", "mixed", "--format", "onnx", "--out", "mixed.onnx", at=place)
    assert done.returncode == 0, done.stderr
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    exported, run = memory_defense.load(place / "mixed.onnx"), load_here(place, "mixed")
    assert torch.allclose(exported(images), run(images), atol=1e-4)
