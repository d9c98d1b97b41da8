"""A folder of images four times larger than the memory that a process may take is evaluated by one command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memory_defense.evaluation.record import Record

STORED, SIDE, ROOM = 8, 96, 32 << 20
COUNT = 4 * ROOM // (3 * SIDE**2) + 1
SCALE = 64
"""What is held at a time is made smaller by this, about, and so is the limit, which stands for one of 2 GiB."""
QUANTUM = 1 / (255 * 3 * STORED**2)
"""Steps of an image's mean, in pixel units of [0, 1]."""
EPSILON = 40.5 * QUANTUM
MODEL = """
import torch
from torch import nn

class Halves(nn.Module):
    '''Two classes by mean brightness, so that an image falls at its mean's distance from a half, and not before.'''

    def forward(self, images):
        lead = 100 * (images.mean((1, 2, 3)) - 0.5)
        return torch.stack([-lead, lead], 1)
"""
LIMITED = f"""
import resource, sys
import torch
from memory_defense import passes
from memory_defense.evaluation import metrics, pixels

metrics.JUDGE_BATCH, passes._CANDIDATES["cpu"] = 8, (8,)  # before others know them: 128, and up to 256
pixels.CHUNK_FLOATS, pixels._CHUNK_OF = pixels.CHUNK_FLOATS // {SCALE}, 2
pixels.BLOCK_BYTES //= {SCALE}
from memory_defense.cli import main
from memory_defense.data import own

own._CHUNK //= {SCALE}

def memdef(*words):
    sys.argv = ["memdef", *words]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end

def held():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines["VmData"].split()[0]) << 10

command = ("evaluate", "halves:Halves", "--geometry", "resize={SIDE},interpolation=nearest", "--threads", "1")
command += ("--epsilon", "{EPSILON}", "--attacks", "fgsm", "--batch", "32")
memdef(*command, "--data", "few", "--out", "few.json")  # loads all code, and what kernels keep for such batches
limit = held() + {ROOM}
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    torch.zeros(2 * {ROOM}, dtype=torch.uint8)
    raise SystemExit("the limit does not hold")
except RuntimeError:
    pass
memdef(*command, "--data", "large", "--out", "large.json")
"""


def pictures(root: Path, count: int) -> tuple[int, int]:
    """Write small pictures of noise by the half that their mean is in; return how many stand, of how many."""
    draws, standing = np.random.default_rng(0), 0
    for half in ("0", "1"):
        (root / "test" / half).mkdir(parents=True)
    for number, levels in enumerate(draws.integers(0, 256, (count, STORED, STORED, 3), dtype=np.uint8)):
        if 2 * levels.sum() == 255 * levels.size:  # in neither half
            levels[0, 0, 0] ^= 1
        lead = levels.mean(dtype=np.float64) / 255 - 0.5
        standing += abs(lead) > EPSILON
        Image.fromarray(levels).save(root / "test" / str(int(lead > 0)) / f"{number}.png", compress_level=0)
    return standing, count


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory as Linux does")
def test_a_folder_four_times_larger_than_the_memory_allowed_is_evaluated_by_one_command(tmp_path):
    pictures(tmp_path / "few", 128)
    standing, count = pictures(tmp_path / "large", COUNT)
    (tmp_path / "halves.py").write_text(MODEL)
    environment = {**os.environ, "MEMDEF_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    environment |= {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "262144"}  # what is freed is given back
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
    record = Record.read(tmp_path / "large.json")
    assert (record.images, record.clean.accuracy) == (count, 1)
    assert record.worst_case[0].accuracy == standing / count != 1
