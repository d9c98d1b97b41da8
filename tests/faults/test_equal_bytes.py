"""Equal results are equal bytes: what Python draws anew for each process decides nothing that is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from faults.helpers_faults import made_up, write_files
from memory_defense.tensorfiles import laid_out

TESTS = Path(__file__).parents[1]
SCRIPT = """
import os, sys
from pathlib import Path
from faults.helpers_faults import made_up, memdef
from memory_defense.data.spec import DATASETS

DATASETS["fashion-mnist"] = made_up()[0]
os.chdir(sys.argv[1])
for line in Path(sys.argv[2]).read_text().splitlines():
    said = memdef(*line.split())
    assert said.status == 0, said
"""
COMMANDS = """train fashion-mnist/tiny --out run --train-images 60 --data-dir {data} --threads 1
evaluate run --images 8 --attacks fgsm,pgd --out run/record.json --data-dir {data} --threads 1
export run --out mine.safetensors
export run --format hub-folder --out hub
report run --out page.html
"""


def timeless(path: Path) -> Any:
    """Return a record without the times that it took, and without the checksum, which covers them."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(one) for key, one in value.items() if key not in ("seconds", "git", "checksum")}
        return [strip(one) for one in value] if isinstance(value, list) else value

    return strip(json.loads(path.read_text()))


def test_two_processes_write_the_same_files(tmp_path: Path) -> None:
    data = write_files(tmp_path / "data", made_up()[1])
    (tmp_path / "commands").write_text(COMMANDS.format(data=data))
    found: list[dict[str, Path]] = []
    for seed in ("1", "2"):
        place = tmp_path / seed / "here"
        place.mkdir(parents=True)
        path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, place, tmp_path / "commands"],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.append({str(one.relative_to(place)): one for one in sorted(place.rglob("*")) if one.is_file()})
    assert found[0].keys() == found[1].keys()
    assert {"run/weights.safetensors", "run/record.images.safetensors", "mine.safetensors"} <= found[0].keys()
    for name, one in found[0].items():
        other = found[1][name]
        if name.endswith("record.json"):
            assert timeless(one) == timeless(other), name
        elif name != "page.html":  # which prints the record with its times
            assert one.read_bytes() == other.read_bytes(), name


def test_the_order_of_what_is_handed_in_decides_nothing() -> None:
    tensors = {"b": torch.ones(3), "a": torch.arange(4), "c": torch.zeros(2, dtype=torch.bool)}
    said = {"z": "1", "y": "2", "x": "3"}
    first, checksum = laid_out(tensors, said)
    for _ in range(5):  # the library below orders metadata anew at each call
        again, same = laid_out(dict(reversed(tensors.items())), dict(reversed(said.items())))
        assert (b"".join(again), same) == (b"".join(first), checksum)


@pytest.mark.parametrize("change", ["value", "name", "kind", "metadata"])
def test_whatever_is_another_has_another_checksum(change: str) -> None:
    tensors, said = {"a": torch.arange(4)}, {"x": "1"}
    other = {
        "value": ({"a": torch.tensor([0, 1, 2, 4])}, said),
        "name": ({"b": torch.arange(4)}, said),
        "kind": ({"a": torch.arange(4).double().view(torch.int64)}, said),
        "metadata": (tensors, {"x": "2"}),
    }[change]
    assert laid_out(*other)[1] != laid_out(tensors, said)[1]
