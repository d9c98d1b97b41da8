"""A set four times larger than the memory that a process may take is evaluated as any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

LIMITED = """
import json, resource, sys
import numpy as np
import torch
from torch import nn
import memory_defense
from memory_defense.data import decoded
from memory_defense.data.images import image_set
from memory_defense.evaluation.pixels import Pixels, parts

COUNT, SIDE, ROOM = 63_000, 48, 104 << 20
torch.set_num_threads(1)
torch.manual_seed(0)
net = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(27, 4)).eval()
options = memory_defense.Options(batch_size=32, chunk=64, device="cpu")
few = torch.rand(64, 3, SIDE, SIDE)
memory_defense.evaluate(net, few, net(few).argmax(1), epsilon=0.01, attacks="fgsm", options=options)  # loads all
list(map(net, parts(few.repeat(2, 1, 1, 1), 100)))  # a processor's kernels may keep room for batches of this size

noise = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8)

def drawn(start):
    for number in range(start, COUNT):
        yield decoded.Picture(np.roll(noise, number))

def held():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines["VmData"].split()[0]) << 10

limit = held() + ROOM
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    torch.zeros(2 * ROOM, dtype=torch.uint8)
    raise SystemExit("the limit does not hold")
except RuntimeError:
    pass
kept = decoded.keep(decoded.Wanted("large", ["large"]), COUNT, drawn).images
images = image_set(kept, torch.zeros(COUNT, dtype=torch.int64))
with torch.no_grad():
    labels = torch.cat([net(part).argmax(1) for part in parts(Pixels.of(images), 100)])
record = memory_defense.evaluate(net, Pixels.of(images), labels, epsilon=0.0001, attacks="fgsm", options=options)
print(json.dumps([kept.numel() / ROOM, record.images, float(record.clean.accuracy)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory as Linux does")
def test_a_set_four_times_larger_than_the_memory_allowed_is_evaluated(tmp_path):
    environment = {**os.environ, "MEMDEF_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    environment["MALLOC_MMAP_THRESHOLD_"] = "1048576"  # what is freed is given back at once
    done = subprocess.run(
        [sys.executable, "-c", LIMITED],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    times, images, clean = json.loads(done.stdout.splitlines()[-1])
    assert times >= 3.9
    assert (images, clean) == (63_000, 1.0)
