"""The smallest L2 change that fools: Carlini-Wagner of ours and the peers, and DDN and FMN beside them.

Only images that the network gets right. A failure's distance is infinite. Every returned image is judged again
here, as foolbox hands back a black image where it found nothing. The peers get learning rate 0.1 and first
constant 1, which suit images with saturated pixels; at their defaults of 0.005 to 0.01 such pixels hardly move.
torchattacks has one constant for all images and no search: it gets as many steps, and the constant 10 as well,
which serves it better. ART takes some 20 times longer per step than the others and gets fewer of them.

    python benchmarks/compare_cw.py
"""

from __future__ import annotations

import math

import torch

from measure import Job, Outcome, measure
from memory_defense.attacks import CarliniWagner, Ddn, Fmn
from memory_defense.threat import L2
from peers import carlini_wagner, foolbox_minimum, ours
from report import Row, options, save, splits, subject, table

ANYWHERE = L2(math.inf)
RATE, CONST = 0.1, 1.0
COLUMNS = {
    "job": "job",
    "by": "by",
    "settings": "settings",
    "cpu_s": "CPU s",
    "times_ours": "times ours",
    "success": "success",
    "median_l2": "median L2",
    "forward": "forward",
    "backward": "backward",
}
REFERENCE = "CW ours 5x40"


def our_jobs(steps: int, search_steps: int) -> list[Job]:
    """Return ours: the same algorithm as the peers, then settings that take fewer passes."""
    same = CarliniWagner(
        variant="tanh", steps=steps, search_steps=search_steps, learning_rate=RATE, initial_const=CONST
    )
    quick = CarliniWagner(steps=20, search_steps=3, learning_rate=RATE)
    attacks = {
        "CW ours, tanh": (same, f"{search_steps}x{steps}, as the peers"),
        "CW ours 3x20": (quick, "projected, rate 0.1"),
        REFERENCE: (CarliniWagner(steps=40, search_steps=5, learning_rate=RATE), "projected, rate 0.1"),
        "CW ours, default": (CarliniWagner(), "projected, 5x100, rate 0.05"),
        "DDN ours": (Ddn(), "100 steps"),
        "FMN ours": (Fmn(), "100 steps"),
    }
    return [Job(name, "ours", settings, ours(attack, ANYWHERE)) for name, (attack, settings) in attacks.items()]


def peer_jobs(steps: int, search_steps: int, slow: tuple[int, int]) -> list[Job]:
    """Return the peers'; `slow` is what ART gets, search steps and steps."""
    equal = {"steps": steps, "search_steps": search_steps, "rate": RATE}
    found = [
        Job(
            f"CW {peer}",
            peer,
            f"{search_steps}x{steps}, rate {RATE}, c0 {CONST}",
            carlini_wagner(peer, const=CONST, **equal),
        )
        for peer in ("foolbox", "cleverhans")
    ]
    found += [
        Job(
            f"CW torchattacks, c {const:g}",
            "torchattacks",
            f"1x{steps * search_steps}, rate {RATE}",
            carlini_wagner("torchattacks", const=const, **equal),
        )
        for const in (CONST, 10.0)
    ]
    rounds, each = slow
    few = carlini_wagner("ART", steps=each, search_steps=rounds, rate=RATE, const=CONST)
    found.append(Job("CW ART", "ART", f"{rounds}x{each}, rate {RATE}, c0 {CONST}", few))
    found.append(Job("DDN foolbox", "foolbox", "100 steps", foolbox_minimum("DDNAttack", steps=100)))
    return found


def line(outcome: Outcome, fastest: float) -> Row:
    """Return one row; the median over the repetitions of the median over the images."""
    row = outcome.row(fastest)
    medians = [float(distance.median()) for distance in outcome.distance]
    middle = sorted(medians)[len(medians) // 2]
    row["success"] = 1 - float(str(row.pop("robust")))
    row["success_all"] = [float(fooled.double().mean()) for fooled in outcome.fooled]
    row["median_l2"] = middle if math.isfinite(middle) else "none"
    return row


def main() -> None:
    """Measure and write the table."""
    parser = options(__doc__, images=64)
    parser.add_argument("--net", default="robust")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--search-steps", type=int, default=5)
    parser.add_argument("--art", type=int, nargs=2, default=(3, 20), metavar=("SEARCH_STEPS", "STEPS"))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    chosen = subject(asked.net, splits(), asked.images, only_right=True)
    todo = peer_jobs(asked.steps, asked.search_steps, tuple(asked.art)) + our_jobs(asked.steps, asked.search_steps)
    outcomes = measure(
        todo,
        chosen.network,
        chosen.images,
        chosen.labels,
        ANYWHERE,
        repetitions=asked.repetitions,
        seed=asked.seed,
        warm_up=0,
    )
    fastest = sorted(outcomes[REFERENCE].cpu)[asked.repetitions // 2]
    rows = [line(outcome, fastest) for outcome in outcomes.values()]
    title = f"The smallest L2 change on {asked.net}, {asked.images} images it gets right"
    save("carlini_wagner", asked, {asked.net: rows}, [table(title, COLUMNS, rows)])


if __name__ == "__main__":
    main()
