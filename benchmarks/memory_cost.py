"""What the memory costs: the autoencoder with memory against the same without, in evaluation, no gradients.

The paper (section 4) quotes .0017 s without and .0062 s with memory for 10 images, 3.6 times as much, on an
RTX 2080 Ti. Here M is the preset's own and 500, D = 1024, on the CPU; hard shrink is effective with ``sound``
and not with ``paper``. ``dense`` is the masked product over all M items, as in training; ``grouped`` is
`SlotMemory.read_slot`, as in evaluation. Runs are interleaved; the last columns are the median of the ratios
within one round, and the ratio of the fastest runs, which other processes disturb least.

    python benchmarks/memory_cost.py --threads 2
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from memory_defense.defenses.memory.defense import MemoryDefense
from memory_defense.defenses.memory.presets import build_memory_defense
from memory_defense.defenses.memory.slots import class_mask
from memory_defense.machine import processor
from memory_defense.randomness import generator, seeded
from report import revision

CLASSES = 10
SHAPES = {"fashion-mnist": (1, 28), "cifar10": (3, 32)}
RESULT = Path(__file__).parent / "results" / "memory_cost.json"

Job = Callable[[], object]


def build(dataset: str, preset: str, items: int) -> MemoryDefense:
    """Return an untrained defense: cost does not depend on the weights."""
    channels, size = SHAPES[dataset]
    with seeded(0, "memory cost"):
        return build_memory_defense(
            preset=preset,
            channels=channels,
            size=size,
            classes=CLASSES,
            mean=(0.5,) * channels,
            std=(0.25,) * channels,
            selector=nn.Identity(),
            memory_size=items or None,
        ).eval()


def jobs(model: MemoryDefense, batch: int) -> dict[str, Job]:
    """Return what is timed."""
    channels, size = model.plan.channels, model.plan.size
    draws = generator(0, "memory cost", batch)
    images = torch.rand(batch, channels, size, size, generator=draws)
    slots = torch.randint(CLASSES, (batch,), generator=draws)
    encoder, memory, decoder = model.encoder, model.memory, model.decoder

    def dense() -> object:
        return decoder(memory.read(memory.address(encoder(images), class_mask(slots, CLASSES)).target))

    return {
        "without memory": lambda: decoder(encoder(images)),
        "dense": dense,
        "grouped": lambda: decoder(memory.read_slot(encoder(images), slots)),
    }


@torch.inference_mode()
def measure(todo: dict[str, Job], rounds: int) -> dict[str, list[float]]:
    """Return seconds of every round of every job, interleaved."""
    seconds: dict[str, list[float]] = {name: [] for name in todo}
    for number in range(rounds + rounds // 10 + 1):
        for name, job in todo.items():
            started = time.perf_counter()
            job()
            if number > rounds // 10:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Measure, print a table and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--items", type=int, nargs="+", default=[0, 500], help="M; 0 is the preset's own")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--datasets", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    rows: list[dict[str, object]] = []
    print(
        f"{'dataset':14s}{'preset':8s}{'M':>5s}{'B':>4s}  {'job':16s}"
        f"{'median ms':>10s}{'best ms':>9s}{'median':>8s}{'best':>7s}"
    )
    cases = itertools.product(options.datasets, ("sound", "paper"), options.items, options.batches)
    for dataset, preset, wanted, batch in cases:
        model = build(dataset, preset, wanted)
        items = len(model.memory.items)
        seconds = measure(jobs(model, batch), options.rounds)
        plain = seconds["without memory"]
        for name, taken in seconds.items():
            row = {
                "dataset": dataset,
                "preset": preset,
                "items": items,
                "batch": batch,
                "job": name,
                "median_ms": 1e3 * statistics.median(taken),
                "best_ms": 1e3 * min(taken),
                "median_ratio": statistics.median(a / b for a, b in zip(taken, plain, strict=True)),
                "best_ratio": min(taken) / min(plain),
            }
            rows.append(row)
            print(
                f"{dataset:14s}{preset:8s}{items:5d}{batch:4d}  {name:16s}{row['median_ms']:10.3f}"
                f"{row['best_ms']:9.3f}{row['median_ratio']:8.2f}{row['best_ratio']:7.2f}"
            )
    result = {
        "benchmark": "memory_cost",
        "threads": options.threads,
        "rounds": options.rounds,
        "torch": torch.__version__,
        "device": processor(),
        "git": revision(),
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
