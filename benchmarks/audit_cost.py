"""What an evaluation with `fast` and its audit cost in passes, everything that the model is asked counted.

A backward pass counts as two forward passes. Run at two revisions, it says what the checks between them cost:

    python benchmarks/audit_cost.py --label before
    python benchmarks/audit_cost.py --label after

Each run adds its rows to ``results/audit_cost.json``, beside those of other labels.
"""

from __future__ import annotations

import json
import time

import torch
from torch import Tensor, nn

import memory_defense
from memory_defense.evaluation.options import Options
from memory_defense.machine import processor
from nets import EPSILON, NETS, load_net
from report import Row, options, revision, splits


class Counter:
    """Counts the images that go through a network, from outside: nothing in the network changes."""

    def __init__(self, network: nn.Module) -> None:
        self.forward = self.backward = 0
        self.network = network
        self.handle = nn.modules.module.register_module_forward_hook(self._count)

    def _count(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if module is not self.network:
            return
        count = len(inputs[0])
        self.forward += count
        if output.requires_grad:
            output.register_hook(lambda _: self._add(count))

    def _add(self, count: int) -> None:
        self.backward += count


def measured(name: str, network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Row:
    """Return one row: the robust accuracy, and passes for each image by the attacks and by everything."""
    counter, started = Counter(network), time.process_time()
    try:
        record = memory_defense.evaluate(
            network, images, labels, epsilon=EPSILON, attacks="fast", options=Options(seed=seed)
        )
    finally:
        counter.handle.remove()
    stages = record.cascades[0].stages
    attacks = sum(stage.forward_passes + 2 * stage.backward_passes for stage in stages)
    return {
        "net": name,
        "robust": record.worst_case[0].accuracy,
        "attacks": attacks / len(images),
        "everything": (counter.forward + 2 * counter.backward) / len(images),
        "cpu_s": time.process_time() - started,
        "failed": [line.check for line in record.audit if line.verdict == "fail"],
    }


def main() -> None:
    """Measure the four networks and add the rows to the file."""
    parser = options(__doc__, images=1000, repetitions=1)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--label", required=True, help="what the rows are called, such as before and after")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    data = splits()
    test = data.test.first(asked.images)
    rows: list[Row] = []
    for name in asked.nets:
        row = measured(name, load_net(name, data), test.floats(), test.labels, asked.seed)
        print(row, flush=True)
        rows.append(row)
    place = asked.out / "audit_cost.json"
    document = json.loads(place.read_text()) if place.exists() else {"benchmark": "audit_cost", "runs": {}}
    kept = [row for row in document["runs"].get(asked.label, {}).get("rows", []) if row["net"] not in asked.nets]
    document["runs"][asked.label] = {
        "git": revision(),
        "device": processor(),
        "torch": torch.__version__,
        "images": len(test),
        "seed": asked.seed,
        "rows": [*kept, *rows],
    }
    place.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
