"""The tutorial's commands, taken from its text and run in order, each only smaller."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

import memory_defense
from memory_defense.evaluation.record import Record

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.md"
SMALLER = {
    "harden": ("--epochs", "1", "--attacks", "glimpse", "--images", "6", "--threads", "1"),
    "evaluate": ("--attacks", "glimpse", "--images", "4", "--threads", "1"),
    "predict": ("--threads", "1"),
    "studio": ("--port", "0", "--threads", "1"),
    "export": (),
}
"""Added to each command; an option that is given twice counts as given last."""


def commands() -> list[list[str]]:
    """Return what follows a prompt in the tutorial's console blocks, in order, with continued lines joined."""
    blocks = re.findall(r"^```console\n(.*?)^```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line.removeprefix("$ ").split() for line in lines if line.startswith("$ ")]


def test_the_tutorial_goes_from_images_to_an_exported_file() -> None:
    said = [" ".join(words[:2]) for words in commands()]
    assert said == [
        "pip install",
        "python train_digits.py",
        "memdef harden",
        "memdef evaluate",
        "memdef predict",
        "memdef studio",
        "memdef export",
    ]


def run(words: list[str], place: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=place, capture_output=True, text=True, timeout=300, check=False, env=environment()
    )


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}


def test_every_command_works_in_order(tmp_path) -> None:
    for extra in ("sklearn", "onnxruntime", "uvicorn"):
        pytest.importorskip(extra)
    shutil.copy(ROOT / "examples" / "own_images" / "train_digits.py", tmp_path)
    for name, *words in commands():
        if name == "pip":
            continue
        if name == "python":
            done = run([sys.executable, *words, "1"], tmp_path)
            assert done.returncode == 0, done.stderr
            continue
        command = [sys.executable, "-m", "memory_defense", *words, *SMALLER[words[0]]]
        if words[0] == "studio":
            _studio_shows_the_run(command, tmp_path)
            continue
        done = run(command, tmp_path)
        assert done.returncode == 0, done.stderr
    made = tmp_path / "runs" / "digits"
    assert Record.read(made / "record.json").images == 6
    assert Record.read(made / "record.json").detection
    assert Record.read(made / "partial.json").images == 4
    assert memory_defense.load(tmp_path / "digits.onnx") is not None


def _studio_shows_the_run(command: list[str], place: Path) -> None:
    with subprocess.Popen(
        command, cwd=place, stdout=subprocess.PIPE, text=True, env=environment() | {"PYTHONUNBUFFERED": "1"}
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[1]
            with urllib.request.urlopen(f"{address.rstrip('/')}/api/studio", timeout=60) as answer:
                shelf = json.load(answer)
        finally:
            process.send_signal(signal.SIGINT)
    assert "digits" in json.dumps(shelf)
    assert "there is no module" not in json.dumps(shelf)
