"""AutoAttack's standard ensemble in L-inf: ours, the authors' code (pyautoattack) and torchattacks' parts.

torchattacks' class of that name gives APGD, APGD-T and FAB 10 steps where the ensemble has 100, so its parts are
run here with 100, one after the other on what is left, as its class does. Time is spent on the images that
survive. At radius 0.1 a single image of `standard` survives everything, and its 5,000 queries, one after the other,
are what all wait for; at 0.2 none does, and the peers still finish a run for images that are fooled already.
A line of its own has the gradients in bfloat16, which is off unless told; whether that finds less stands beside it.
With more images (``--images 1000 --repetitions 1``) the robust accuracies can be told apart.

    python benchmarks/compare_autoattack.py
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from measure import Job, Outcome, Run, measure
from memory_defense.attacks import AutoAttack
from memory_defense.contracts import Images
from memory_defense.passes import bfloat16_gradients
from memory_defense.threat import Linf
from nets import EPSILON
from peers import autoattack, ours
from report import Row, options, save, splits, subject, table

SUBJECTS = (("robust", EPSILON), ("standard", EPSILON), ("standard", 2 * EPSILON))
REFERENCE = "AutoAttack ours"
COLUMNS = {
    "job": "job",
    "settings": "settings",
    "cpu_s": "CPU s",
    "times_ours": "times ours",
    "wall_s": "wall s",
    "robust": "robust accuracy",
    "only_ours": "fooled by ours alone",
    "only_theirs": "by it alone",
    "forward": "forward",
    "backward": "backward",
}


def jobs(peers: list[str], epsilon: float) -> list[Job]:
    """Return the peers' lines, then ours."""
    settings = {"pyautoattack": "the authors' code, batches of 250", "torchattacks": "its parts, 100 steps"}
    found = [Job(f"AutoAttack {peer}", peer, settings[peer], autoattack(peer, epsilon)) for peer in peers]
    mine = ours(AutoAttack(), Linf(epsilon))
    return [
        *found,
        Job(REFERENCE, "ours", "standard", mine),
        Job(f"{REFERENCE}, bfloat16", "ours", "standard, gradients in bfloat16", partial(_in_bfloat16, mine)),
    ]


def _in_bfloat16(run: Run, *subject: Any) -> Images:
    """Run it with gradients in bfloat16; what judges stays float32."""
    with bfloat16_gradients(True):
        return run(*subject)


def lines(outcomes: dict[str, Outcome]) -> list[Row]:
    """Return the rows, each with the images that only one of the two fooled in the first repetition."""
    mine = outcomes[REFERENCE]
    fastest = sorted(mine.cpu)[len(mine.cpu) // 2]
    rows: list[Row] = []
    for outcome in outcomes.values():
        row = outcome.row(fastest)
        if outcome is not mine:
            row["only_ours"] = int((mine.fooled[0] & ~outcome.fooled[0]).sum())
            row["only_theirs"] = int((outcome.fooled[0] & ~mine.fooled[0]).sum())
        rows.append(row)
    return rows


def main() -> None:
    """Measure and write the tables."""
    parser = options(__doc__, images=64)
    parser.add_argument("--weak-images", type=int, default=256, help="of a net named standard, which costs little")
    parser.add_argument("--nets", nargs="+", default=["robust", "standard"])
    parser.add_argument("--peers", nargs="*", default=["pyautoattack", "torchattacks"])
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    data = splits()
    results: dict[str, list[Row]] = {}
    tables: list[str] = []
    for name, epsilon in SUBJECTS:
        if name not in asked.nets:
            continue
        chosen = subject(name, data, asked.weak_images if name == "standard" else asked.images)
        outcomes = measure(
            jobs(asked.peers, epsilon),
            chosen.network,
            chosen.images,
            chosen.labels,
            Linf(epsilon),
            repetitions=asked.repetitions,
            seed=asked.seed,
            warm_up=0,
        )
        where = f"{name}, L-inf {epsilon:g}"
        results[where] = lines(outcomes)
        title = f"AutoAttack on {where}, {len(chosen.images)} images, clean accuracy {chosen.clean:.3f}"
        tables.append(table(title, COLUMNS, results[where]))
    save("autoattack", asked, results, tables)


if __name__ == "__main__":
    main()
