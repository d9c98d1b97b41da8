"""A set four times larger than the memory that a process may take is evaluated by one command, as any other."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memory_defense.evaluation.record import Record

COUNT, SIDE, ROOM = 63_000, 48, 104 << 20
LIMITED = f"""
import resource, sys
import numpy as np
import torch
from memory_defense.cli import main

def evaluate(data):
    sys.argv[1:] = [
        *("evaluate", "large_net:build", "--random-weights", "--data", data, "--epsilon", "0.0001"),
        *("--attacks", "fgsm", "--batch", "32", "--threads", "1", "--out", f"{{data[:5]}}.json"),
    ]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise

def held():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines["VmData"].split()[0]) << 10

noise = np.random.default_rng(0).integers(0, 256, (128, 3, {SIDE}, {SIDE}), dtype=np.uint8)
np.savez("small.npz", images=noise, labels=np.arange(128) % 4)
evaluate("small.npz")  # loads all that is imported late, and a processor's kernels keep room for such batches
limit = held() + {ROOM}
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    torch.zeros(2 * {ROOM}, dtype=torch.uint8)
    raise SystemExit("the limit does not hold")
except RuntimeError:
    pass
evaluate("large.npz")
"""
NET = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(27, 4)).eval()
"""


def _write(path: Path) -> None:
    """Write a compressed file of images, no two alike, and the net's own answers, without ever having them all."""
    namespace: dict[str, Any] = {}
    exec(NET, namespace)
    net, labels = namespace["build"](), list[int]()
    noise = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as out:
            shape = {"descr": "|u1", "fortran_order": False, "shape": (COUNT, *noise.shape)}
            np.lib.format.write_array_header_1_0(out, shape)
            for start in range(0, COUNT, 500):
                block = np.stack([np.roll(noise, number) for number in range(start, start + 500)])
                out.write(block.tobytes())
                with torch.no_grad():
                    labels += net(torch.from_numpy(block) / 255).argmax(1).tolist()
        with archive.open("labels.npy", "w") as out:
            np.lib.format.write_array(out, np.array(labels))


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory as Linux does")
def test_a_set_four_times_larger_than_the_memory_allowed_is_evaluated(tmp_path):
    (tmp_path / "large_net.py").write_text(NET)
    _write(tmp_path / "large.npz")
    environment = {**os.environ, "MEMDEF_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    # what is freed is given back at once
    environment |= {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_ARENA_MAX": "1", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert COUNT * 3 * SIDE * SIDE / ROOM >= 3.9
    record = Record.read(tmp_path / "large.json")
    assert record.images == COUNT
    assert record.clean.accuracy > 1 - 10 / COUNT, "as the same net answers in Python, but for ties"
    assert len(list((tmp_path / "cache" / "images").iterdir())) == 1
