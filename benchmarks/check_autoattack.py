"""The worst case of a trained defense by the suite ``fast``, held against the authors' AutoAttack (pyautoattack).

Both get the same first test images, the same radius in L-inf, and the defense as whoever knows all of it sees it.
The authors' ensemble judges its own images; what it says it broke is judged anew by the defense.

    python benchmarks/check_autoattack.py zoo:cifar10/sound --epsilon 8/255 --images 500
"""

from __future__ import annotations

import tempfile
import time
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor, nn

import memory_defense
from measure import Counted
from memory_defense.contracts import Images, Labels
from memory_defense.data.images import load_dataset
from memory_defense.evaluation.results import read_per_image
from memory_defense.threat import Linf
from memory_defense.wrappers import frozen
from peers import autoattack
from report import Row, options, save, table

COLUMNS = {
    "by": "by",
    "clean": "clean %",
    "robust": "worst case %",
    "only": "fooled by it alone",
    "forward": "forward",
    "backward": "backward",
    "cpu_s": "CPU s",
}


def by_fast(defense: nn.Module, images: Images, labels: Labels, epsilon: float) -> tuple[Tensor, Row]:
    """Return (N,) which images are right and stay so under our suite, and the line of the table."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "record.json"
        record = memory_defense.evaluate(defense, images, labels, epsilon=epsilon, attacks="fast", out=place)
        (broken,) = read_per_image(place.with_name("record.images.safetensors")).broken
    (cascade,) = record.cascades
    stands = right(defense, images, labels) & (broken.breaker < 0)
    return stands, {
        "by": "fast, ours",
        "robust": 100 * record.worst_case[0].accuracy,
        "forward": sum(one.forward_passes for one in cascade.stages),
        "backward": sum(one.backward_passes for one in cascade.stages),
        "cpu_s": time.process_time() - began,
    }


def by_the_authors(defense: nn.Module, images: Images, labels: Labels, epsilon: float) -> tuple[Tensor, Row]:
    """Return the same of the authors' standard ensemble."""
    began, counted = time.process_time(), Counted(defense)
    found = autoattack("pyautoattack", epsilon)(counted, images, labels, 0)
    inside = Linf(epsilon).contains(found, images)
    stands = right(defense, images, labels) & ~(inside & ~right(defense, found, labels))
    return stands, {
        "by": "AutoAttack, the authors'",
        "robust": 100 * float(stands.float().mean()),
        "forward": counted.counting.passes.forward,
        "backward": counted.counting.passes.backward,
        "cpu_s": time.process_time() - began,
    }


def right(defense: nn.Module, images: Images, labels: Labels) -> Tensor:
    """Return (N,) which images the defense answers rightly."""
    with torch.no_grad():
        return torch.cat([defense(part).argmax(1) for part in images.split(250)]) == labels


def main() -> None:
    """Attack, compare, write."""
    parser = options(__doc__, images=500)
    parser.add_argument("target", help="a run, or zoo:NAME")
    parser.add_argument("--dataset", choices=["fashion-mnist", "cifar10"], default="cifar10")
    parser.add_argument("--epsilon", type=lambda text: float(Fraction(text)), required=True)
    parser.add_argument("--name", required=True, help="of the two files: autoattack_NAME")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    test = load_dataset(asked.dataset).test.first(asked.images)
    defense, images = memory_defense.load(asked.target), test.floats()
    with frozen(defense):
        clean = 100 * float(right(defense, images, test.labels).float().mean())
        ours, mine = by_fast(defense, images, test.labels, asked.epsilon)
        theirs, line = by_the_authors(defense, images, test.labels, asked.epsilon)
    rows: list[Row] = [
        {**mine, "clean": clean, "only": int((theirs & ~ours).sum())},
        {**line, "clean": clean, "only": int((ours & ~theirs).sum())},
    ]
    where = f"{asked.target} on {asked.dataset}, L-inf {asked.epsilon:g}, {len(images)} images"
    save(f"autoattack_{asked.name}", asked, {where: rows}, [table(where, COLUMNS, rows)])


if __name__ == "__main__":
    main()
