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
from evaluation.audit.fooling_anew import ANEW_HELD, ANEW_LABELS, ANEW_LEVELS, ANEW_STATE
from evaluation.audit.fooling_answers import FURTHER_LABELS, FURTHER_LEVELS
from evaluation.audit.fooling_elsewhere import HOLDING_MORE, LEARNING_ELSEWHERE, LEVELS_MORE
from evaluation.audit.fooling_further import FURTHER_HELD, FURTHER_STATE
from evaluation.audit.honest import shapes
from evaluation.audit.test_fooling import ALL, COUNT, EPSILON, evaluated, network, truth
from report import RESULTS, revision

KINDS = {
    "learns": (*LEARNING, *LEARNING_ELSEWHERE, *FURTHER_STATE, *ANEW_STATE),
    "holds": (*HOLDING, *HOLDING_MORE, *FURTHER_HELD, *ANEW_HELD),
    "tells levels": (*LEVELS, *LEVELS_MORE, *FURTHER_LEVELS, *ANEW_LEVELS),
    "labels": (*FURTHER_LABELS, *ANEW_LABELS),
}


def main() -> None:
    """Evaluate all of them and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--only", nargs="+", metavar="DEFENSE", choices=list(ALL), help="these alone")
    parser.add_argument("--missing", action="store_true", help="go on with a file that has some of the rows")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    place = asked.out / "audit_fooling.json"
    kept = json.loads(place.read_text())["rows"] if asked.missing and place.exists() else []
    rows = {str(row["defense"]): row for row in kept}
    kinds = {name: kind for kind, names in KINDS.items() for name in names}
    for name in ALL:
        if kinds[name] in asked.kinds and name not in rows and name in (asked.only or ALL):
            rows[name] = {"kind": kinds[name], "defense": name, **measured(name)}
            print(*rows[name].values(), sep="; ", flush=True)
            _written(place, [rows[one] for one in ALL if one in rows])


def measured(name: str) -> dict[str, object]:
    """Return the truth, what is reported, and the failed checks, of which those that name the cause."""
    made, names = ALL[name]
    record = evaluated(made(network(), *shapes(10, COUNT, seed=5)))
    failed = [line.check for line in record.audit if line.verdict == "fail"]
    return {
        "truth": truth(),
        "reported": record.worst_case[0].accuracy,
        "named": sorted(names & set(failed)),
        "failed": failed,
    }


def _written(place: Path, rows: list[dict[str, object]]) -> None:
    document = {
        "benchmark": "audit_fooling",
        "git": revision(),
        "device": processor(),
        "torch": torch.__version__,
        "epsilon": EPSILON,
        "images": COUNT,
        "rows": rows,
    }
    place.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
