"""How many steps of our own sizes leave no more images right than forty of the peers', on every network.

Several seeds each, as one start more or less lucky moves a count by a few images; what counts is the mean. Strength
only: `compare_gradient.py` has the times.

    python benchmarks/compare_steps.py
"""

from __future__ import annotations

import statistics

import torch

from compare_gradient import BALL, STEP, STEPS
from measure import Job, measure
from memory_defense.attacks import Pgd
from nets import EPSILON, NETS
from peers import ours, pgd
from report import Row, options, save, splits, subject, table

OWN = (10, 12, 14, 16)
COLUMNS = {
    "job": "job",
    "settings": "settings",
    "left": "images left right, by seed",
    "mean": "mean",
    "forward": "forward",
    "backward": "backward",
}


def jobs() -> list[Job]:
    """Return the peer's line, then ours."""
    return [
        Job(
            "PGD torchattacks",
            "torchattacks",
            f"{STEPS} steps of {STEP}",
            pgd("torchattacks", EPSILON, STEP, STEPS),
        ),
        Job("PGD ours", "ours", f"{STEPS} steps of {STEP}", ours(Pgd(steps=STEPS, step_size=STEP), BALL)),
        *(Job(f"PGD ours, {few}", "ours", f"{few} along a cosine", ours(Pgd(steps=few), BALL)) for few in OWN),
    ]


def main() -> None:
    """Measure all networks and write the tables."""
    parser = options(__doc__, images=512)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    data = splits()
    results: dict[str, list[Row]] = {}
    tables: list[str] = []
    for name in asked.nets:
        chosen = subject(name, data, asked.images)
        taken = (chosen.network, chosen.images, chosen.labels, BALL)
        outcomes = measure(jobs(), *taken, repetitions=asked.repetitions, seed=asked.seed)
        results[name] = []
        for one in outcomes.values():
            left = [int((~fooled).sum()) for fooled in one.fooled]
            results[name].append({**one.row(), "left": left, "mean": statistics.mean(left)})
        title = f"PGD on {name}, {asked.images} images, clean accuracy {chosen.clean:.3f}"
        tables.append(table(title, COLUMNS, results[name]))
    save("steps", asked, results, tables)


if __name__ == "__main__":
    main()
