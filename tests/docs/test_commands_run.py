"""Every command in a document is run, at toy size, or at least taken by its parser where it cannot be.

`SMALLER` has what is run instead of a command that would take long, or needs data nobody has here. `PARSED` says
why a kind of command is not run. A command that is in neither fails.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from docs.commands import Command, accepted, commands
from faults.helpers_faults import made_up, memdef, write_files
from memory_defense.data.spec import DATASETS

OWN = "memdef evaluate package.module:build --weights f.safetensors --data DIR --epsilon 8/255 --attacks autoattack"
MODULE = """from torch import nn


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
"""
TINY = "--attacks fgsm --images 6"
SMALLER = {
    **{
        one: one
        for one in (
            "memdef compare runs/demo runs/mine --published",
            "memdef compare runs/demo runs/mine --format html --out compare.html",
            *(
                f"memdef report runs/mine --format {name}"
                for name in ("model-card", "eval-results", "cyclonedx", "jsonl")
            ),
        )
    },
    "memdef recipes": "memdef recipes",
    "memdef attacks": "memdef attacks",
    "memdef zoo": "memdef zoo",
    "memdef evaluate zoo:fashion-mnist/sound --attacks fast --images 100": (
        "memdef evaluate zoo:fashion-mnist/sound --attacks fgsm --images 6 --out zoo.json"
    ),
    "memdef evaluate zoo:fashion-mnist/sound --attacks glimpse --images 100": (
        "memdef evaluate zoo:fashion-mnist/sound --attacks glimpse --images 6 --out zoo.json"
    ),
    "memdef certify zoo:fashion-mnist/proven --bounds ibp --radius 0.05 --radius 0.1": (
        "memdef certify zoo:fashion-mnist/proven --bounds ibp --radius 0.05 --images 4 --out proven.json"
    ),
    "memdef certify zoo:fashion-mnist/sound --sigma 0.25 --radius 0.25 --radius 0.5 --images 1000": (
        "memdef certify zoo:fashion-mnist/sound --sigma 0.25 --radius 0.25 --images 3 --samples 50 --out p.json"
    ),
    "memdef certify package.module:build --weights f.safetensors --data DIR --sigma 0.25 --radius 0.5": (
        "memdef certify package.module:build --weights f.safetensors --data DIR --sigma 0.25 --radius 0.5 "
        "--samples 50 --out own.json"
    ),
    "memdef train fashion-mnist/certified-linf --out runs/proven": (
        "memdef train fashion-mnist/certified-linf-tiny --out runs/proven"
    ),
    "memdef certify runs/proven --bounds ibp --radius 0.05 --radius 0.1": (
        "memdef certify runs/proven --bounds ibp --radius 0.01 --images 4"
    ),
    "memdef evaluate runs/proven --gate 0.1": "memdef evaluate runs/proven --gate 0.01 --images 4 --attacks fgsm",
    "memdef train fashion-mnist/denoised --out runs/denoised": (
        "memdef train fashion-mnist/denoised-tiny --out runs/denoised --train-images 100"
    ),
    "memdef certify runs/denoised --sigma 0.25 --radius 0.25 --radius 0.5 --images 1000": (
        "memdef certify runs/denoised --sigma 0.25 --radius 0.25 --images 2 --samples 50"
    ),
    "memdef train fashion-mnist/proving-memory --out runs/memory": (
        "memdef train fashion-mnist/proving-tiny --out runs/memory"
    ),
    "memdef certify runs/memory --radius 0.25 --radius 0.5": "memdef certify runs/memory --radius 0.1 --images 4",
    "memdef predict runs/memory my-images --gate 0.5": "memdef predict runs/memory my-images --gate 0.1",
    "memdef train fashion-mnist/rectified --out runs/rectified": (
        "memdef train fashion-mnist/rectified-tiny --out runs/rectified"
    ),
    "memdef train fashion-mnist/consistent --out runs/consistent": (
        "memdef train fashion-mnist/consistent-tiny --out runs/consistent"
    ),
    **{
        f"memdef evaluate runs/{name} --rejection-cost 0.1 --rejection-cost 0.3": (
            f"memdef evaluate runs/{name} --rejection-cost 0.1 --rejection-cost 0.3 {TINY}"
        )
        for name in ("rectified", "consistent")
    },
    "memdef evaluate runs/mine --detection --rejection-cost 0.1 --rejection-cost 0.3": (
        f"memdef evaluate runs/mine --detection --rejection-cost 0.1 --rejection-cost 0.3 {TINY}"
    ),
    "memdef queue list": "memdef queue list",
    "memdef train fashion-mnist/sound-pgd --out runs/mine": "memdef train fashion-mnist/tiny --out runs/trained",
    "memdef evaluate runs/mine --epsilon 8/255 --epsilon 0.1": (
        f"memdef evaluate runs/mine --epsilon 8/255 --epsilon 0.1 {TINY}"
    ),
    "memdef evaluate runs/mine --detection --false-alarms 0.05": (
        f"memdef evaluate runs/mine --detection --false-alarms 0.05 {TINY}"
    ),
    "memdef report runs/demo runs/mine --out report.html": "memdef report runs/demo runs/mine --out report.html",
    "memdef predict runs/mine my-images": "memdef predict runs/mine my-images",
    "memdef predict runs/mine my-images --json": "memdef predict runs/mine my-images --json",
    "memdef predict runs/hardened DIR/test": "memdef predict runs/demo my-images",
    "memdef export runs/hardened --format onnx": "memdef export runs/demo --out small.safetensors",
    OWN: f"{OWN.removesuffix('--attacks autoattack')}{TINY}",
    "memdef reproduce table1 --row memory-defense": "memdef reproduce table5 --row target-classifier --scale tiny",
    "memdef reproduce table1": "memdef reproduce table5 --row target-classifier --scale tiny",
}
"""What a document says, and the same at toy size."""

PARSED = {
    "make": "a quarter of an hour; it runs the commands above, and the tests",
    "torchrun": "several processes; tests/training/test_ranks.py runs them",
    "pip": "would change the environment",
    "python": "tests/examples and tests/cli/test_tutorial.py run the scripts; benchmarks take half an hour",
    ".venv/bin/python": "runs the tests",
    "memdef demo": "a quarter of an hour; tests/cli/test_cli.py runs the tiny one",
    "memdef harden": "tests/cli/test_tutorial.py runs it",
    "memdef studio": "serves until it is stopped; tests/studio runs it",
    "memdef queue run": "for a GPU; tests/paper/test_queue_entries.py runs it at toy size",
    "memdef queue unpack": "needs what came back; tests/cli/test_queue.py unpacks it",
    "--device cuda": "for a GPU",
    "--processes": "several processes; tests/training/test_ranks.py runs them",
    "train_digits:build": "tests/cli/test_tutorial.py trains and evaluates it",
    "docs/tutorial.md": "tests/cli/test_tutorial.py runs every command of it, in order",
    "memdef reproduce anatomy": "tests/paper/test_anatomy.py runs it",
    "few-levels": "tests/docs/test_adding_a_defense.py trains and evaluates it",
    "RUN": "a form, not a command",
    "hf:DIR": "needs a folder of transformers; tests/cli/test_doors.py makes one and evaluates it",
    "onnx:FILE.onnx": "needs somebody's model; tests/cli/test_doors.py makes some and evaluates them",
    "FILE.pt2": "needs somebody's program; tests/cli/test_doors.py exports some and evaluates them",
    "memdef convert": "needs a checkpoint; tests/remedies converts one",
    "efficientnet_lite_pytorch": "minutes; tests/cli/test_real_model.py runs it",
    "runs/hardened.onnx": "needs what was hardened; tests/cli/test_harden_plain.py exports it and evaluates it",
    "lite0.onnx": "minutes; tests/cli/test_real_model.py runs it",
    "lite0.json": "minutes; tests/cli/test_real_model.py runs it",
    "--geometry": "needs pictures of that size; tests/workflows/test_own_pictures.py makes some and evaluates them",
    "cifar10": "needs the dataset; tests/data loads every layout of it",
}
"""Why a command is parsed and not run, by what it begins with or contains."""

COMMANDS = commands()


def reason(command: Command) -> str | None:
    """Return why a command is only parsed; None where nothing says so."""
    words = command.words
    for part, why in PARSED.items():
        if command.page == part or command.text.startswith(f"{part} ") or command.text == part:
            return why
        if part in words or part in command.text.split() or (part.startswith("--") and f" {part}" in command.text):
            return why
        if "/" not in part and any(part in word.split("/") for word in words):
            return why
    arguments = [one for one in words[2:] if not one.startswith("--")]
    return "named, not called" if not arguments or "..." in words else None


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a directory with two finished runs and a few images, which every command starts in."""
    place = tmp_path_factory.mktemp("docs")
    spec, arrays = made_up()
    spec = replace(spec, held_out_images=100)
    files = write_files(tmp_path_factory.mktemp("idx"), arrays)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "fashion-mnist", spec)
        patch.setenv("MEMDEF_DATA", str(files))
        patch.chdir(place)
        for arguments in (
            ("train", "fashion-mnist/tiny", "--out", "runs/demo", "--train-images", "100"),
            ("evaluate", "runs/demo", "--images", "6", "--attacks", "fgsm", "--out", "runs/demo/record.json"),
        ):
            said = memdef(*arguments)
            assert said.status == 0, said
        shutil.copytree("runs/demo", "runs/mine")
        Path("my-images").mkdir()
        for number in range(3):
            Image.fromarray(arrays.test_images[number, 0].numpy()).save(f"my-images/{number}.png")
        for number, label in enumerate(arrays.test_labels[:20].tolist()):
            Path(f"DIR/test/{label}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(arrays.test_images[number, 0].numpy()).save(f"DIR/test/{label}/{number:02}.png")
        Path("package").mkdir()
        Path("package/module.py").write_text(MODULE, encoding="utf-8")
        save_file(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).state_dict(), "f.safetensors")
        yield place


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: f"{one.page}: {one.text}")
def test_a_parser_takes_it_and_it_is_covered(command: Command) -> None:
    accepted(command)
    assert command.text in SMALLER or reason(command), f"{command} is neither run nor excused; add it to SMALLER"


@pytest.mark.parametrize("said", SMALLER)
def test_it_runs_at_toy_size(said: str, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert any(one.text == said for one in COMMANDS), f"no document says {said!r} any more; take it out of SMALLER"
    program, *words = SMALLER[said].split()
    assert program == "memdef"
    if "--data" in words:
        monkeypatch.delenv("MEMDEF_DATA")
    done = memdef(*words)
    assert done.status == 0, done
    assert done.out


def test_documents_do_have_commands() -> None:
    pages = {one.page for one in COMMANDS}
    assert {"README.md", "docs/tutorial.md", "docs/evaluation.md", "docs/scale.md", "docs/gpu-queue.md"} <= pages
    assert len(COMMANDS) > 40


@pytest.mark.parametrize(
    "text",
    [
        "memdef evaluate runs/mine --epsilonn 0.1",
        "memdef trian fashion-mnist/tiny --out runs/mine",
        "memdef train fashion-mnist/tinny --out runs/mine",
        "memdef reproduce table4 --scale tiny",
        "memdef queue run nothing --tiny",
        "make dmeo",
        "pip install 'memory-defense[stduio]'",
        "python examples/attack_with_foolbox.py runs/demo --epsilonn 0.1",
        "torchrun --nproc-per-node 2 -m memory_defense evaluate runs/mine --devise cuda",
    ],
)
def test_a_slip_in_a_document_is_noticed(text: str) -> None:
    try:
        accepted(Command("page.md", text))
    except (AssertionError, KeyError):
        return
    except Exception as error:
        assert hasattr(error, "exit_code"), "a usage error of the option parser"  # noqa: PT017 - its class has no public name
        return
    pytest.fail("nothing was said")


def test_a_command_that_nobody_covers_is_noticed() -> None:
    assert reason(Command("page.md", "memdef evaluate runs/other --images 7")) is None
