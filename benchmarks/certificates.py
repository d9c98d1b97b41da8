"""What a certificate costs: seconds an image for each method and radius, and what more noisy copies buy.

Takes trained runs of Fashion-MNIST and writes ``results/certificates-PROCESSOR.json`` and a table beside it.

    python benchmarks/certificates.py --smoothed runs/smoothed --memory runs/memory --intervals runs/proven
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import memory_defense
from memory_defense.data.images import load_dataset
from memory_defense.defenses.interval_proof import proving
from memory_defense.evaluation.record import Record
from memory_defense.machine import processor
from report import RESULTS, revision

L2_RADII, LINF_RADII = (0.25, 0.5, 1.0), (0.05, 0.1)
COPIES = ((1_000, 1), (10_000, 1), (100_000, 1), (100_000, 6))
"""Noisy copies, and how often they are counted."""
ONE_PASS_IMAGES = 200
"""Images for methods of one pass or a few, which take too little to be timed on a few."""


def rows_of(record: Record, what: str, images: int) -> Iterable[dict[str, Any]]:
    """Yield what each entry of a certification cost and proved."""
    for one in record.certified:
        assert one.gate is not None
        yield {
            "what": what,
            "method": one.method,
            "norm": one.norm,
            "radius": one.epsilon,
            "copies": one.n,
            "seconds": one.seconds / images,
            "certified": one.accuracy,
            "right_or_flagged": one.gate.right_or_flagged.accuracy,
            "images": images,
        }


def smoothed(run: str, sigma: float, images: torch.Tensor, labels: torch.Tensor) -> list[dict[str, Any]]:
    """Return the rows of randomized smoothing, each number of copies and each radius by itself.

    By itself, since a certification stops early where the smallest radius asked for is out of reach.
    """
    model, rows = memory_defense.load(run), list[dict[str, Any]]()
    for copies, looks in COPIES:
        smoothing = memory_defense.Smoothing(sigma=sigma, samples=copies, looks=looks)
        for radius in L2_RADII:
            if radius / 2 > smoothing.largest_radius:
                continue
            record = memory_defense.certify(model, images, labels, radii=[radius], smoothing=smoothing)
            counted = f", {looks} looks" if looks > 1 else ""
            rows += rows_of(record, f"smoothing, sigma {sigma:g}{counted}", len(images))
    return rows


def by_itself(
    model: nn.Module, what: str, radii: tuple[float, ...], given: tuple[torch.Tensor, torch.Tensor]
) -> list[dict[str, Any]]:
    """Return the rows of a model that proves its answers."""
    rows: list[dict[str, Any]] = []
    for radius in radii:
        record = memory_defense.certify(model, *given, radii=[radius])
        rows += rows_of(record, what, len(given[0]))
    return rows


def table(found: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    lines = [
        f"{found['device']}, {found['threads']} threads, revision {found['revision']}",
        "",
        "| method | radius | copies | seconds an image | certified | right or flagged with the gate | images |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for one in found["rows"]:
        copies = f"{one['copies']:,}" if one["copies"] else ""
        radius = f"{one['norm'].upper()} {one['radius']:g}".replace("LINF", "L-inf")
        lines.append(
            f"| {one['what']} | {radius} | {copies} | {one['seconds']:.2g} | {one['certified']:.1%} | "
            f"{one['right_or_flagged']:.1%} | {one['images']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoothed", help="a run of fashion-mnist/smoothed, or zoo:NAME")
    parser.add_argument("--sigma", type=float, default=0.25, help="the noise that it was trained with")
    parser.add_argument("--memory", help="a run of fashion-mnist/proving-memory")
    parser.add_argument("--intervals", help="a run of fashion-mnist/certified-linf")
    parser.add_argument("--images", type=int, default=20, help="for smoothing; the other methods take 200")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    test = load_dataset("fashion-mnist", offline=True).test
    many = test.first(ONE_PASS_IMAGES)
    rows: list[dict[str, Any]] = []
    if chosen.memory:
        rows += by_itself(
            memory_defense.load(chosen.memory), "proving memory", L2_RADII, (many.floats(), many.labels)
        )
    if chosen.intervals:
        classifier = memory_defense.load(chosen.intervals)
        for method in ("ibp", "crown-ibp"):
            bounded = proving(classifier, radii=LINF_RADII, method=method)
            rows += by_itself(bounded, f"interval bounds, {method}", LINF_RADII, (many.floats(), many.labels))
    if chosen.smoothed:
        few = test.first(chosen.images)
        rows += smoothed(chosen.smoothed, chosen.sigma, few.floats(), few.labels)
    found = {"device": processor(), "threads": chosen.threads, "revision": revision(), "rows": rows}
    name = "certificates-" + re.sub(r"[^a-z0-9]+", "-", found["device"].lower()).strip("-")
    (chosen.out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    (chosen.out / f"{name}.md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
