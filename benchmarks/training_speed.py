"""The speed of training on this processor: whole steps of each network, and what each speed-up gives alone.

Writes ``results/training_speed-PROCESSOR.json`` and a table beside it, one pair for each kind of processor.

    python benchmarks/training_speed.py --threads 2
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from memory_defense import randomness
from memory_defense.contracts import Batch, Objective
from memory_defense.data.spec import DATASETS
from memory_defense.machine import processor
from memory_defense.networks.classifiers import CLASSIFIERS
from memory_defense.randomness import ImageDraws, seeded
from memory_defense.training.adversarial import Benign, SingleStep
from memory_defense.training.fit import Average
from memory_defense.training.optimizer import OptimizerConfig
from memory_defense.training.precision import autocast, lay_out, resolve
from memory_defense.training.speed import CountFlop, matrix_rate
from report import RESULTS, revision

CPU = torch.device("cpu")
NETWORKS = (
    ("small-cnn", "fashion-mnist"),
    ("residual-cnn-128", "fashion-mnist"),
    ("residual-cnn", "cifar10"),
    ("resnet18", "cifar10"),
    ("resnet50", "cifar10"),
)
OBJECTIVES: dict[str, Objective] = {"benign": Benign(), "single-step": SingleStep(epsilon=8 / 255, warm_up=0.0)}


def built(name: str, dataset: str) -> nn.Module:
    """Return a fresh network for a dataset's images."""
    spec = DATASETS[dataset]
    with seeded(0, "benchmark"):
        network = CLASSIFIERS[name](
            channels=spec.channels, size=spec.size, classes=10, mean=spec.mean, std=spec.std
        )
    return lay_out(network, CPU).train()


def batch(dataset: str, count: int) -> Batch:
    """Return made-up images, with labels."""
    spec = DATASETS[dataset]
    ids = torch.arange(count)
    draws = ImageDraws.of(0, "benchmark", ids)
    images = draws.uniform(spec.channels, spec.size, spec.size)
    return Batch(images.contiguous(memory_format=torch.channels_last), ids % 10, ids, draws.child("objective"), 1.0)


def best(work: Callable[[], object], seconds: float) -> float:
    """Return the shortest of the runs that fit into so many seconds, after one to warm up."""
    work()
    shortest, deadline = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        started = time.perf_counter()
        work()
        shortest = min(shortest, time.perf_counter() - started)
    return shortest


def steps(name: str, dataset: str, precision: str, seconds: float, size: int) -> list[dict[str, Any]]:
    """Return the rates of whole training steps of one network, by objective."""
    rows: list[dict[str, Any]] = []
    for label, objective in OBJECTIVES.items():
        network, given = built(name, dataset), batch(dataset, size)
        config = OptimizerConfig(name="sgd", learning_rate=1e-3, weight_decay=5e-4)
        optimizer, average = config.build(list(network.parameters())), Average(network, 0.999)

        def step(
            network: nn.Module = network,
            given: Batch = given,
            optimizer: torch.optim.Optimizer = optimizer,
            average: Average = average,
            objective: Objective = objective,
        ) -> None:
            with autocast(precision, CPU):
                losses = objective(network, given)
            optimizer.zero_grad(set_to_none=True)
            losses.total.backward()
            optimizer.step()
            average.update(10_000)

        with CountFlop() as counted:
            step()
        took = best(step, seconds)
        rows.append(
            {
                "network": name,
                "dataset": dataset,
                "objective": label,
                "precision": precision,
                "batch": size,
                "images_per_second": size / took,
                "tflop_per_second": counted.total / took / 1e12,
                "of_matrix_rate": counted.total / took / matrix_rate(CPU, precision),
            }
        )
    return rows


def parts(seconds: float) -> list[dict[str, Any]]:
    """Return the milliseconds of what was made faster, as it was and as it is, each alone."""
    network = built("resnet18", "cifar10")
    for one in network.parameters():
        one.grad = torch.full_like(one, 1e-3)
    weights, mean = list(network.parameters()), copy.deepcopy(network).requires_grad_(False)
    average = Average(network, 0.999)
    plain, fused = (torch.optim.AdamW(weights, 1e-4, fused=one) for one in (False, True))
    draws = ImageDraws.of(0, "benchmark", 128)

    @torch.no_grad()
    def one_by_one() -> None:
        for old, new in zip(mean.parameters(), weights, strict=True):
            old.lerp_(new, 0.001)

    def one_of_each_hash() -> torch.Tensor:
        bits = draws.keys[:, None] + torch.arange(1, 3 * 32 * 32 + 1) * randomness._GOLDEN
        return ((randomness._mix(bits) >> 40) & ((1 << 24) - 1)).float() * 2.0**-24

    work = {
        "AdamW of a ResNet-18": (plain.step, fused.step),
        "average of a ResNet-18's weights": (one_by_one, lambda: average.update(10_000)),
        "uniform noise for 128 CIFAR images": (one_of_each_hash, lambda: draws.uniform(3, 32, 32)),
    }
    return [
        {"what": what, "before_ms": 1e3 * best(before, seconds), "after_ms": 1e3 * best(after, seconds)}
        for what, (before, after) in work.items()
    ]


def table(found: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    lines = [
        f"{found['device']}, {found['threads']} threads, revision {found['revision']}",
        "",
        "| network | dataset | objective | precision | images/s | TFLOP/s | of the matrix rate |",
        "|---|---|---|---|---:|---:|---:|",
    ]
    lines += [
        f"| {one['network']} | {one['dataset']} | {one['objective']} | {one['precision']} | "
        f"{one['images_per_second']:,.0f} | {one['tflop_per_second']:.3f} | {one['of_matrix_rate']:.0%} |"
        for one in found["steps"]
    ]
    lines += ["", "| what | before, ms | now, ms |", "|---|---:|---:|"]
    lines += [f"| {one['what']} | {one['before_ms']:.2f} | {one['after_ms']:.2f} |" for one in found["parts"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each measurement")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    quick = resolve("auto", CPU)
    rows: list[dict[str, Any]] = []
    for name, dataset in NETWORKS:
        for precision in dict.fromkeys(("float32", quick)):
            rows += steps(name, dataset, precision, chosen.seconds, chosen.batch)
    rates = {one: matrix_rate(CPU, one) / 1e12 for one in dict.fromkeys(("float32", quick))}
    found = {
        "device": processor(),
        "threads": chosen.threads,
        "torch": torch.__version__,
        "revision": revision(),
        "matrix_tflop_per_second": rates,
        "steps": rows,
        "parts": parts(chosen.seconds),
    }
    name = "training_speed-" + re.sub(r"[^a-z0-9]+", "-", found["device"].lower()).strip("-")
    (chosen.out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    (chosen.out / f"{name}.md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
