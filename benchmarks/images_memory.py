"""What a set of large images costs: resident memory and start time, for two versions of the package.

Pictures are generated into a folder (JPEG, 224 x 224 unless said otherwise), read by `load_images` and attacked by
FGSM. The classifier is a linear map of pooled pixels, so that it is the images that take the memory, and the labels
are its own answers, so that every image is attacked. A child process does the work; its parent looks at what it
holds every 50 ms: in all (RSS), and of that its own (anonymous) memory, without pages of mapped files, which the
system takes back when it needs them.

    python benchmarks/images_memory.py --pictures /tmp/pictures --before /path/of/another/checkout/src
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from memory_defense.machine import processor

RESULT = Path(__file__).parent / "results" / "images_memory.json"
LOOKS = 0.05
"""Seconds between two looks at the child."""
CLASSES = 5

CHILD = """
import json, sys, time
began = time.monotonic()
import torch
from torch import nn
import memory_defense
from memory_defense.data.own import load_images
torch.set_num_threads(1)
imported, spent = time.monotonic(), time.process_time()
count = int(sys.argv[2])
data = load_images(sys.argv[1], images=count or None)
loaded, spent = time.monotonic(), time.process_time() - spent
torch.manual_seed(0)
model = nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(147, 5)).eval()
with torch.no_grad():
    rows = torch.arange(len(data.images)).split(100)
    labels = torch.cat([model(data.images.floats(part)).argmax(1) for part in rows])
worst = None
if float(sys.argv[3]):
    try:
        from memory_defense.evaluation.pixels import Pixels
        kept = Pixels.of(data.images)
    except ImportError:  # a version that wanted all of them as floats
        kept = data.images.floats()
    options = memory_defense.Options(batch_size=64)
    record = memory_defense.evaluate(
        model, kept, labels, epsilon=float(sys.argv[3]) / 255, attacks="fgsm", out=sys.argv[4], options=options
    )
    worst = record.worst_case[0].accuracy
print(json.dumps({"images": len(data.images), "sha256": data.sha256, "worst_case": worst and float(worst),
    "load_seconds": round(loaded - imported, 2), "load_cpu_seconds": round(spent, 2),
    "seconds": round(time.monotonic() - began, 1)}))
"""


def pictures(folder: Path, count: int, side: int) -> Path:
    """Write pictures of smoothed noise, unless they are there."""
    draws = np.random.default_rng(0)
    for number in range(count):
        place = folder / "test" / str(number % CLASSES) / f"{number:06}.jpg"
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            noise = Image.fromarray(draws.integers(0, 256, (14, 14, 3), dtype=np.uint8))
            noise.resize((side, side), Image.Resampling.BILINEAR).save(place, quality=90)
    return folder


def measured(
    what: str, folder: Path, images: int, epsilon: float, source: Path | None, cache: Path
) -> dict[str, Any]:
    """Run the child to its end, and return what it said and the most that it held."""
    environment = {**os.environ, "MEMDEF_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    if source is not None:
        environment["PYTHONPATH"] = str(source)
    with tempfile.TemporaryDirectory() as place:
        out = str(Path(place) / "record.json")
        arguments = [sys.executable, "-c", CHILD, str(folder), str(images), str(epsilon), out]
        child = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True)
        most = {"VmRSS": 0, "RssAnon": 0}
        while child.poll() is None:
            for name, size in _held(child.pid).items():
                most[name] = max(most[name], size)
            time.sleep(LOOKS)
        assert child.stdout is not None
        if child.returncode:
            raise SystemExit(f"{what} ended with {child.returncode}: what a run held that did not finish is no row")
        said = json.loads(child.stdout.read().splitlines()[-1])
    gib = {name: round(size / 2**20, 2) for name, size in most.items()}
    return {**said, "rss_gib": gib["VmRSS"], "anonymous_gib": gib["RssAnon"]}


def _held(process: int) -> Mapping[str, int]:
    """Return what a process holds in KiB; nothing once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    found = dict(line.split(":", 1) for line in lines)
    return {name: int(found[name].split()[0]) for name in ("VmRSS", "RssAnon") if name in found}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder to generate them in, or to find them")
    parser.add_argument("--before", type=Path, help="src of another version, measured as well")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--only", nargs="*", help="beginnings of the names of what is measured; all if left out")
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    folder, rows = pictures(asked.pictures, asked.images, asked.side), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as cache:
        for version, source in {"before": asked.before, "after": None}.items():
            if version == "before" and source is None:
                continue
            for what, images, epsilon in (
                ("8 images, loaded", 8, 0),
                ("loaded for the first time", asked.images, 0),
                ("loaded again", asked.images, 0),
                ("evaluated, few broken", asked.images, 0.01),
                ("evaluated, most broken", asked.images, 8),
            ):
                if asked.only and not what.startswith(tuple(asked.only)):
                    continue
                row = {
                    "version": version,
                    "what": what,
                    **measured(what, folder, images, epsilon, source, Path(cache)),
                }
                rows.append(row)
                print(json.dumps(row), flush=True)
    facts = {"processor": processor(), "side": asked.side, "rows": rows}
    asked.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
