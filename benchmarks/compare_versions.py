"""AutoAttack's versions of ours against each other: what a cheaper one misses, and what it saves.

Four networks: standard, two adversarially trained, and one that masks its gradients, where only a part without
gradients tells the truth. The measure of cost that no machine changes is passes: a backward pass counts as two
forward passes.

    python benchmarks/compare_versions.py
"""

from __future__ import annotations

import torch
from measure import Job, Outcome, measure
from nets import EPSILON, NETS
from peers import ours
from report import Row, options, save, splits, subject, table

from memory_defense.attacks import AutoAttack
from memory_defense.threat import Linf

BALL = Linf(EPSILON)
COLUMNS = {
    "job": "version",
    "robust": "robust accuracy",
    "missed": "missed images",
    "extra": "extra images",
    "equivalents": "forward-equivalents per image",
    "saving": "saving",
    "cpu_s": "CPU s",
}


def equivalents(outcome: Outcome) -> float:
    """Return passes for each image, a backward pass counted as two."""
    return outcome.forward[0] + 2 * outcome.backward[0]


def line(outcome: Outcome, standard: Outcome) -> Row:
    """Return one row; images and passes are those of the first repetition."""
    row = outcome.row()
    return {
        **row,
        "missed": int((standard.fooled[0] & ~outcome.fooled[0]).sum()),
        "extra": int((outcome.fooled[0] & ~standard.fooled[0]).sum()),
        "equivalents": equivalents(outcome),
        "saving": equivalents(standard) / max(equivalents(outcome), 1e-9),
    }


def main() -> None:
    """Measure all versions on all networks and write the tables."""
    parser = options(__doc__, images=128, repetitions=1)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--versions", nargs="+", default=["standard", "fast"], help="the first is the reference")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    data = splits()
    jobs = [Job(version, "ours", version, ours(AutoAttack(version=version), BALL)) for version in asked.versions]
    results: dict[str, list[Row]] = {}
    tables: list[str] = []
    for name in asked.nets:
        chosen = subject(name, data, asked.images)
        outcomes = measure(
            jobs,
            chosen.network,
            chosen.images,
            chosen.labels,
            BALL,
            repetitions=asked.repetitions,
            seed=asked.seed,
            warm_up=0,
        )
        reference = outcomes[asked.versions[0]]
        results[name] = [line(outcome, reference) for outcome in outcomes.values()]
        title = f"Versions of AutoAttack on {name}, {asked.images} images, clean accuracy {chosen.clean:.3f}"
        tables.append(table(title, COLUMNS, results[name]))
    save("versions", asked, results, tables)


if __name__ == "__main__":
    main()
