"""Seconds to the first useful result of docs/index.md, for each of its three readers, on one processor core.

    python benchmarks/first_result.py [--repeats 3] [--out benchmarks/results/first-result.json]

Runs the commands of the page in an empty folder, with the package that this Python finds (install it first, as the
page says). Fashion-MNIST must be on the machine: a download is not timed. Each number is the median of the repeats,
in seconds of processor time, which other programs on the machine hardly change; wall-clock seconds are written too.
A command is timed from its start to its end, the studio until its page and the example that it opens with have been
sent and it has been stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MEMDEF = [sys.executable, "-m", "memory_defense"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def command(*words: str) -> Callable[[Path], None]:
    """Return what runs a command in a folder."""

    def run(folder: Path) -> None:
        subprocess.run(words, cwd=folder, env=ENVIRONMENT, check=True, capture_output=True)

    return run


def studio(folder: Path) -> None:
    """Start the studio, fetch its page and what the page opens with, and stop it."""
    words = [*MEMDEF, "studio", "--port", "0"]
    with subprocess.Popen(words, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stdout is not None
            found = re.search(r"http://\S+", serving.stdout.readline())
            assert found is not None, "the studio printed no address"
            address = found[0].rstrip("/.")
            for place in ("/", "/api/studio"):
                with urllib.request.urlopen(address + place, timeout=60) as answer:
                    answer.read()
        finally:
            serving.terminate()


def timed(run: Callable[[Path], None], folder: Path) -> tuple[float, float]:
    """Return the seconds of processor time and of wall-clock time that the processes of a step took."""
    used, before = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run(folder)
    wall, now = time.perf_counter() - before, resource.getrusage(resource.RUSAGE_CHILDREN)
    return now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime, wall


def steps() -> dict[str, Callable[[Path], None]]:
    """Return the commands of the page, in order, by a name for each."""
    digits = ("evaluate", "train_digits:build", "--weights", "digits.safetensors", "--data", "digits")
    look = ("--attacks", "glimpse", "--images", "100")
    return {
        "student: memdef studio": studio,
        "student: memdef evaluate": command(*MEMDEF, "evaluate", "zoo:fashion-mnist/sound", *look, "--offline"),
        "engineer: python train_digits.py": command(sys.executable, "train_digits.py"),
        "engineer: memdef evaluate": command(*MEMDEF, *digits, "--epsilon", "8/255", *look),
        "researcher: python rounding.py": command(sys.executable, "rounding.py"),
    }


def prepare(folder: Path) -> None:
    """Put the files into a folder that the page tells its readers to copy."""
    shutil.copy(ROOT / "examples" / "own_images" / "train_digits.py", folder)
    page = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"<!-- own defense -->\n```python\n(.*?)```", page, re.DOTALL)
    (folder / "rounding.py").write_text(source, encoding="utf-8")


def measured(repeats: int) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of each command by kind, once for each repeat, in a new folder each time."""
    seconds: dict[str, dict[str, list[float]]] = {name: {"processor": [], "wall": []} for name in steps()}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            prepare(folder)
            for step, run in steps().items():
                for kind, found in zip(seconds[step].values(), timed(run, folder), strict=True):
                    kind.append(round(found, 1))
    return seconds


def machine() -> dict[str, Any]:
    """Return what the numbers were measured on."""
    import torch

    models = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": models[0].strip() if models else platform.processor(),
        "threads": 1,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "first-result.json")
    chosen = parser.parse_args()
    seconds = measured(chosen.repeats)
    medians = {step: round(statistics.median(found["processor"]), 1) for step, found in seconds.items()}
    record = {**machine(), "median_seconds_of_processor": medians, "seconds": seconds}
    chosen.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for step, found in medians.items():
        print(f"{found:6.1f} s  {step}")


if __name__ == "__main__":
    main()
