"""What an evaluation keeps of images of 224 pixels: bytes of a broken image, of state writes, and of memory.

    python benchmarks/bookkeeping.py [--images 2000] [--before SOURCE] [--out benchmarks/results/bookkeeping.json]

Made-up pictures, as grey levels in a mapped file, are evaluated against a small network that is quickly asked, so
that what is seen is the evaluator's own. `--before` names the `src` folder of an earlier version, which is measured
alike. The record names the processor; numbers for 50,000 images are derived from those of so many as were measured.
Images of the L2 ball and of an earlier version are a quarter as many, as theirs take longer.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZE, CLASSES, WANTED = 224, 1000, 50_000
EPSILONS = (1 / 255, 4 / 255)


def pictures(path: Path, count: int) -> Any:
    """Return (N, 3, 224, 224) uint8 in a mapped file: sums of noise of several scales."""
    import torch
    from torch.nn import functional

    draws = torch.Generator().manual_seed(0)
    whole = torch.from_file(str(path), shared=True, size=count * 3 * SIZE * SIZE, dtype=torch.uint8)
    whole = whole.view(count, 3, SIZE, SIZE)
    for start in range(0, count, 50):
        some = torch.zeros(min(50, count - start), 3, SIZE, SIZE)
        for side, share in ((4, 0.5), (14, 0.25), (56, 0.2), (SIZE, 0.05)):
            noise = torch.rand(len(some), 3, side, side, generator=draws)
            some += share * functional.interpolate(noise, size=SIZE, mode="bilinear")
        whole[start : start + len(some)] = (some * 255).round().byte()
    return whole


def network() -> Any:
    """Return a convolution of 8 x 8 patches, and two layers more."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 32, 8, 8), nn.ReLU(), nn.Conv2d(32, 32, 4, 4), nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 49, CLASSES)).eval()


class Written:
    """Counts what is written to files whose name has "progress" in it."""

    def __init__(self) -> None:
        self.bytes = self.states = 0
        self._write, self._replace = os.write, os.replace

    def install(self) -> None:
        """Watch every write of this process."""

        def write(handle: int, content: Any) -> int:
            count = self._write(handle, content)
            if "progress" in str(Path(f"/proc/self/fd/{handle}").readlink()):
                self.bytes += count
                self.states += len(content) == 16  # the head of an entry of a log
            return count

        def replace(source: Any, target: Any, **options: Any) -> None:
            self.states += "progress" in os.fspath(target)
            self._replace(source, target, **options)

        os.write, os.replace = write, replace


def peak() -> int:
    """Return the most bytes that were resident so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(count: int, norm: str, folder: Path) -> dict[str, Any]:
    """Return what one evaluation kept, in this process."""
    import torch

    import memory_defense
    from memory_defense import Options

    torch.set_num_threads(1)
    levels = torch.from_file(str(folder / "pictures"), shared=True, size=count * 3 * SIZE**2, dtype=torch.uint8)
    levels, model, written = levels.view(count, 3, SIZE, SIZE), network(), Written()
    with torch.no_grad():
        labels = torch.cat([model(part.float().div(255)).argmax(1) for part in levels.split(100)])
    try:
        from memory_defense.evaluation.pixels import Pixels

        images: Any = Pixels.of(levels)
    except ImportError:
        images = levels.float().div(255)
    before, started = peak(), time.perf_counter()
    written.install()
    epsilon = EPSILONS if norm == "linf" else (0.25, 1.0)
    out = folder / f"{norm}.json"
    record = memory_defense.evaluate(
        model,
        images,
        labels,
        epsilon=epsilon,
        norm=norm,
        attacks="bim" if norm == "linf" else "pgd",
        out=out,
        options=Options(seed=0, batch_size=64),
    )
    return {
        "images": count,
        "norm": norm,
        "epsilons": list(epsilon),
        "broken": [round((1 - one.accuracy) * count) for one in record.worst_case if one.accuracy is not None],
        "state_bytes": written.bytes,
        "state_writes": written.states,
        "file_bytes": out.with_name(f"{norm}.images.safetensors").stat().st_size,
        "resident_before_bytes": before,
        "resident_peak_bytes": peak(),
        "seconds": round(time.perf_counter() - started, 1),
    }


def coding(count: int = 40) -> dict[str, float]:
    """Return bytes and milliseconds of one core of a broken image by the kind of change, and of its clean image."""
    import torch

    from memory_defense.evaluation.coded import coded, coded_clean

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        clean = pictures(Path(folder) / "pictures", count).float().div(255)
    noise, epsilon = torch.rand(clean.shape, generator=torch.Generator().manual_seed(1)), EPSILONS[1]
    kinds = {
        "random signs": (clean + epsilon * (2 * (noise > 0.5).float() - 1)).clamp(0, 1),
        "uniform inside": (clean + epsilon * (2 * noise - 1)).clamp(0, 1),
    }
    found: dict[str, float] = {}
    for name, images in kinds.items():
        started = time.process_time()
        found[f"{name}, bytes"] = sum(map(len, coded(images, clean, epsilon))) / count
        found[f"{name}, ms"] = 1000 * (time.process_time() - started) / count
    started = time.process_time()
    found["clean, bytes"] = sum(len(coded_clean(one)) for one in clean) / count
    found["clean, ms"] = 1000 * (time.process_time() - started) / count
    return {name: round(value, 1) for name, value in found.items()}


def child(count: int, norm: str, folder: Path, source: Path | None) -> dict[str, Any]:
    """Return what `measure` does, in a process of its own."""
    given = {} if source is None else {"PYTHONPATH": str(source)}
    run = subprocess.run(
        [sys.executable, __file__, "--images", str(count), "--only", norm, "--folder", str(folder)],
        env=os.environ | given, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(run.stdout.splitlines()[-1])


def derived(one: dict[str, Any]) -> dict[str, int]:
    """Return what 50,000 images would take, by the bytes of each and what does not grow with their number."""
    times = WANTED / one["images"]
    return {
        "state_bytes": round(one["state_bytes"] * times),
        "file_bytes": round(one["file_bytes"] * times),
        "clean_bytes": WANTED * 3 * SIZE * SIZE,
    }


def main() -> None:
    """Measure, and write the record."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--images", type=int, default=2000)
    asked.add_argument("--before", type=Path)
    asked.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "bookkeeping.json")
    asked.add_argument("--only", help=argparse.SUPPRESS)
    asked.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = asked.parse_args()
    if chosen.only:
        sys.stdout.write(json.dumps(measure(chosen.images, chosen.only, chosen.folder)) + "\n")
        return
    from memory_defense.machine import processor

    found: dict[str, Any] = {"processor": processor(), "size": SIZE, "coding": coding()}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        pictures(folder / "pictures", chosen.images)
        for name, source in {"now": None, "before": chosen.before}.items():
            if name == "before" and source is None:
                continue
            for norm in ("linf", "l2") if name == "now" else ("linf",):
                count = chosen.images if (name, norm) == ("now", "linf") else chosen.images // 4
                found[f"{name} {norm}"] = one = child(count, norm, folder, source)
                if name == "now":
                    found[f"derived {norm}"] = derived(one)
    chosen.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
