"""Every misleading defense of the audit's tests: the truth, what is reported, and the failed checks that say why.

The truth is what the network behind a defense leaves standing, by the same attacks.

    python benchmarks/audit_fooling.py
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from memory_defense.machine import processor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from evaluation.audit.fooling import HOLDING, LEARNING, LEVELS
from evaluation.audit.fooling_elsewhere import HOLDING_MORE, LEARNING_ELSEWHERE, LEVELS_MORE
from evaluation.audit.honest import shapes
from evaluation.audit.test_fooling import ALL, COUNT, EPSILON, evaluated, network, truth
from report import RESULTS, revision

KINDS = {
    "learns": (*LEARNING, *LEARNING_ELSEWHERE),
    "holds": (*HOLDING, *HOLDING_MORE),
    "tells levels": (*LEVELS, *LEVELS_MORE),
}


def main() -> None:
    """Evaluate all of them and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    rows: list[dict[str, object]] = []
    kinds = {name: kind for kind, names in KINDS.items() for name in names}
    for name, (made, names) in ALL.items():
        if kinds[name] not in asked.kinds:
            continue
        record = evaluated(made(network(), *shapes(10, COUNT, seed=5)))
        failed = [line.check for line in record.audit if line.verdict == "fail"]
        reported = record.worst_case[0].accuracy
        named = sorted(names & set(failed))
        rows.append(
            {
                "kind": kinds[name],
                "defense": name,
                "truth": truth(),
                "reported": reported,
                "named": named,
                "failed": failed,
            }
        )
        print(f"{name:40s} {truth():.3f} {reported:.3f} {'; '.join(named)}", flush=True)
    document = {
        "benchmark": "audit_fooling",
        "git": revision(),
        "device": processor(),
        "torch": torch.__version__,
        "epsilon": EPSILON,
        "images": COUNT,
        "rows": rows,
    }
    (asked.out / "audit_fooling.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
