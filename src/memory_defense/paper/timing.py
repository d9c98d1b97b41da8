"""The paper's timing paragraph: what the memory costs, and what the paragraph leaves out, the selector.

Every round runs every system once, one after the other, so that whatever slows the machine slows them alike; the
ratio is the median of the rounds' own ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from memory_defense.contracts import Images, Labels
from memory_defense.evaluation.provenance import provenance
from memory_defense.paper.printed.timing import Latency, Timing
from memory_defense.paper.trained_rows import TrainedRows
from memory_defense.systems.build import build_classifier
from memory_defense.training.speed import wait_for

BATCHES = (1, 10, 100)
TINY_BATCHES = (1, 10)
RUNS = {"tiny": 3}
MOST_RUNS = 100
WARM_UP = 0.1
"""Share of the runs before any counts."""
SECONDS = 60.0
"""After so long no further round of one batch size begins, once there are `FEWEST_RUNS`."""
FEWEST_RUNS = 20
WITHOUT = "without-memory"
LARGEST_PUBLISHED = 10
"""Images in the largest batch that the paper's ResNet-50 is timed with: a hundred take seconds on a processor."""

Job = Callable[[], object]


def reproduce_timing(rows: TrainedRows) -> Timing:
    """Return the median latencies of the autoencoder without and with memory, and of the whole defense."""
    device = rows.splits.test.images.device
    recipe = rows.recipes["memory-defense"]
    plain, defense = rows.defense("autoencoder"), rows.defense("memory-defense")
    published = build_classifier("resnet50", rows.dataset, rows.seed, "timing").to(device).eval()
    titles = {
        WITHOUT: "Autoencoder without memory",
        "with-memory": "Autoencoder with memory, slot given",
        "defense": f"Memory Defense, selector {recipe.model.selector}",
        "selector": f"Selector {recipe.model.selector} alone",
        "published-selector": "Selector ResNet-50 alone, as in the paper",
    }
    latencies: list[Latency] = []
    for batch in TINY_BATCHES if rows.scale == "tiny" else BATCHES:
        rows.note(f"timing batches of {batch}")
        sample = rows.test(batch)
        todo = jobs(plain, defense, published, sample.images, sample.labels)
        rounds = measure(todo, RUNS.get(rows.scale, MOST_RUNS), device)
        for key, seconds in rounds.items():
            latencies.append(
                Latency(
                    key=key,
                    title=titles[key],
                    batch=len(sample.labels),
                    runs=len(seconds),
                    seconds=statistics.median(seconds),
                    fastest=min(seconds),
                    ratio=statistics.median(a / b for a, b in zip(seconds, rounds[WITHOUT], strict=True)),
                )
            )
    return Timing(
        dataset=rows.dataset,
        scale=rows.scale,
        provenance=provenance(rows.seed, device, recipe.sha256),
        threads=torch.get_num_threads(),
        latencies=tuple(latencies),
    )


def jobs(plain: Any, defense: Any, published: Any, images: Images, labels: Labels) -> dict[str, Job]:
    """Return what is timed, by key."""
    todo: dict[str, Job] = {
        WITHOUT: lambda: plain.decoder(plain.encoder(plain.normalize(images))),
        "with-memory": lambda: defense.decoder(
            defense.memory.read_slot(defense.encoder(defense.normalize(images)), labels)
        ),
        "defense": lambda: defense(images),
        "selector": lambda: defense.selector(images),
    }
    if len(images) <= LARGEST_PUBLISHED:
        todo["published-selector"] = lambda: published(images)
    return todo


@torch.inference_mode()
def measure(todo: Mapping[str, Job], runs: int, device: torch.device) -> dict[str, list[float]]:
    """Return the seconds of every counted run of every job, round by round."""
    seconds: dict[str, list[float]] = {key: [] for key in todo}
    warm_up, started = max(1, int(WARM_UP * runs)), time.perf_counter()
    for number in range(-warm_up, runs):
        if number >= FEWEST_RUNS and time.perf_counter() - started > SECONDS:
            break
        for key, job in todo.items():
            wait_for(device)
            begun = time.perf_counter()
            job()
            wait_for(device)
            if number >= 0:
                seconds[key].append(time.perf_counter() - begun)
    return seconds
