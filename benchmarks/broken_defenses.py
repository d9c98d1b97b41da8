"""Published defenses whose break is published: what each claims, what the evaluator says, what is known to be true.

    python benchmarks/broken_defenses.py [--only NAME ...] [--images 100] [--out docs/results/broken-defenses.json]

Every defense is a small one of its kind on Fashion-MNIST, trained here and kept in ``benchmarks/.cache``. Of each,
on the same images in the same ball: the accuracy under the attack of its own evaluation, that of the suite `fast`
with the checks that fail, and that under attacks written by hand for this defense alone. A row is written as soon
as it is measured; the same call goes on with those that are missing, and `--only` measures the ones it names anew.
Several processes may measure different rows of one file. Seconds of the processor are counted beside those of the
clock, which other programs share.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

import memory_defense
from broken import BROKEN
from broken.parts import Broken, Kit, right
from memory_defense import Options, Record
from memory_defense.contracts import Images, Labels
from memory_defense.data.images import load_dataset
from memory_defense.evaluation.metrics import accuracy
from memory_defense.files import write_text
from memory_defense.machine import device_name
from memory_defense.randomness import seeded

DATASET, EPSILON, SEED = "fashion-mnist", 0.1, 0
TRAIN_IMAGES = 20_000
ROOT = Path(__file__).parent.parent
OUT = ROOT / "docs" / "results" / "broken-defenses.json"
SUITE = "fast"


def measured(
    name: str, one: Broken, kit: Kit, images: Images, labels: Labels, attacks: Any = SUITE
) -> dict[str, Any]:
    """Return the row of one defense; shares are of all images, clean errors included.

    `attacks` are what `memory_defense.evaluate` takes.
    """
    clock, processor = time.perf_counter(), time.process_time()
    trial = one.make(kit)
    trained = time.process_time() - processor
    with seeded(SEED, "broken", name):  # randomised defenses draw from the global generator
        clean = right(trial.model, images, labels)
        claimed = _left(clean, trial, trial.weak(images, labels, EPSILON, SEED), labels)
        by_hand = {
            what: _left(clean, trial, climb(images, labels, EPSILON, SEED), labels)
            for what, climb in trial.strong.items()
        }
        truth = torch.stack([clean, *by_hand.values()]).all(0)
        began = time.process_time()
        record = memory_defense.evaluate(
            trial.model,
            images,
            labels,
            epsilon=EPSILON,
            attacks=attacks,
            options=Options(seed=SEED, defense=one.title, dataset=DATASET),
        )
        evaluated = time.process_time() - began
    return {
        **words(one),
        "clean": _share(clean),
        "claimed": _share(claimed),
        "ours": ours(record),
        "truth": _share(truth),
        "by_hand": {what: _share(left) for what, left in by_hand.items()},
        "seconds": round(time.perf_counter() - clock, 1),
        "processor_seconds": {
            "in all": round(time.process_time() - processor, 1),
            "training, where not kept": round(trained, 1),
            "evaluation": round(evaluated, 1),
        },
    }


def words(one: Broken) -> dict[str, str]:
    """Return what is said of a defense beside its numbers."""
    return {
        "title": one.title,
        "defense": one.defense,
        "broken_by": one.broken,
        "weak": one.weak,
        "why": one.why,
    }


def ours(record: Record) -> dict[str, Any]:
    """Return what the evaluator says: the worst case, right or flagged where it flags, and what found it."""
    (worst,) = record.worst_case
    found = worst.undetected or worst.measured
    assert found is not None, "some image was answered right, and so something was tried"
    first = {
        f"{stage.attack}, {stage.knowledge}": stage.first for cascade in record.cascades for stage in cascade.stages
    }
    return {
        "accuracy": found.accuracy,
        "ci95": list(found.ci95),
        "clean": record.clean.accuracy,
        "counts": "right or flagged" if worst.undetected else "right",
        "found_by": {name: count for name, count in first.items() if count},
        "failed": [line.check for line in record.audit if line.verdict == "fail"],
    }


def _left(clean: torch.Tensor, trial: Any, attacked: Iterable[Images], labels: Labels) -> torch.Tensor:
    """Return (B,) bool: right when clean and for each of these images."""
    return torch.stack([clean, *(right(trial.model, one, labels) for one in attacked)]).all(0)


def _share(stands: torch.Tensor) -> dict[str, Any]:
    found = accuracy(int(stands.sum()), len(stands))
    return {"accuracy": found.accuracy, "ci95": list(found.ci95)}


def settings(images: int) -> dict[str, Any]:
    """Return what every row of a document must share."""
    return {
        "dataset": DATASET,
        "images": images,
        "norm": "linf",
        "epsilon": EPSILON,
        "suite": SUITE,
        "seed": SEED,
        "train_images": TRAIN_IMAGES,
        "version": memory_defense.__version__,
        "torch": torch.__version__,
        "device": device_name(torch.device("cpu")),
    }


def begun(out: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return the document that is there, or an empty one; end the program if it was made with other settings."""
    if not out.exists():
        return {**wanted, "minutes": {"clock": 0.0, "processor": 0.0}, "rows": {}}
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    other = [f"{key} {found.get(key)!r}, now {value!r}" for key, value in wanted.items() if found.get(key) != value]
    if other:
        raise SystemExit(f"{out} was made with {'; '.join(other)}: give another --out, or remove it")
    return found


def main() -> None:
    """Measure what is missing, or what is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BROKEN, metavar="NAME", help=", ".join(BROKEN))
    parser.add_argument("--images", type=int, default=100, help="the first of the test images")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "2")))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    document = begun(arguments.out, settings(arguments.images))
    splits = load_dataset(DATASET)
    kit = Kit(splits.train.first(TRAIN_IMAGES), splits.held_out, Path(__file__).parent / ".cache")
    test = splits.test.first(arguments.images)
    for name in arguments.only or [one for one in BROKEN if one not in document["rows"]]:
        row = measured(name, BROKEN[name], kit, test.floats(), test.labels)
        document = begun(arguments.out, settings(arguments.images))  # another process may have written rows
        rows = {**document["rows"], name: row}
        document["rows"] = rows = {one: {**rows[one], **words(BROKEN[one])} for one in BROKEN if one in rows}
        document["minutes"] = {
            "clock": round(sum(one["seconds"] for one in rows.values()) / 60, 1),
            "processor": round(sum(one["processor_seconds"]["in all"] for one in rows.values()) / 60, 1),
        }
        write_text(arguments.out, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        shares = ", ".join(
            f"{what} {100 * row[what]['accuracy']:.0f}" for what in ("clean", "claimed", "ours", "truth")
        )
        print(f"{name:14s} {shares}; {', '.join(row['ours']['failed']) or 'no failed check'}", flush=True)
        print(f"{'':14s} {row['ours']['found_by']}, {row['processor_seconds']}", flush=True)


if __name__ == "__main__":
    main()
