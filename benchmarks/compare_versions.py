"""Our suites against each other: what `fast` misses of `standard`, and what it saves.

Four networks: standard, two adversarially trained, and one that masks its gradients, where only an attack without
gradients tells the truth; and trained defenses that come with the package, attacked with every knowledge. Both
suites run in the same cascade, on survivors only, so what is compared is the choice of attacks. The measure of cost
that no machine changes is passes: a backward pass counts as two forward passes.

    python benchmarks/compare_versions.py [--skip 1000] [--kept FOLDER]

The first suite, which the others are compared with, takes most of the time. `--kept` names a folder in which its
outcomes are kept and looked for, by the name of network, suite and images; it is for trying other suites against
the same one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from memory_defense.attacks.suites import parts_of
from memory_defense.contracts import Defense, PerImage
from memory_defense.data.images import ImageSet, load_dataset
from memory_defense.defenses.undefended import Undefended
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.robustness import evaluate
from memory_defense.systems.load import load
from memory_defense.threat import Linf
from memory_defense.workflows.evaluate import cascade_cases
from memory_defense.zoo import PREFIX, entries
from nets import ALL, DATASET, DESK, EPSILON, NETS, load_net
from report import Row, options, save, splits, table

COLUMNS = {
    "suite": "suite",
    "robust": "robust accuracy",
    "missed": "missed images",
    "extra": "extra images",
    "equivalents": "forward-equivalents per image",
    "saving": "saving",
    "cpu_s": "CPU s",
    "faster": "faster",
    "stages": "tried / broke first",
}


@dataclass(frozen=True)
class Found:
    """What one suite found."""

    clean: float
    robust: PerImage
    """(N,) bool."""
    equivalents: float
    """Passes for each image, a backward pass counted as two."""
    cpu_s: float
    stages: str


def run(suite: str, defense: Defense, test: ImageSet, ball: Linf, seed: int) -> Found:
    """Return what one suite finds in a ball."""
    cases = cascade_cases(defense, parts_of(suite), [ball])
    started = time.process_time()
    evaluation = evaluate(defense, test.floats(), test.labels, cases, options=Options(seed=seed, ids=test.ids))
    seconds, stages = time.process_time() - started, [one for one in evaluation.cascades[0].stages if one.tried]
    return Found(
        clean=evaluation.clean.accuracy,
        robust=evaluation.broken[0].robust,
        equivalents=sum(one.forward_passes + 2 * one.backward_passes for one in stages) / len(test),
        cpu_s=seconds,
        stages=", ".join(f"{one.attack} {one.tried}/{one.first}" for one in stages),
    )


def kept(place: Path, again: Callable[[], Found]) -> Found:
    """Return what is kept in a file, or what is found again and kept there."""
    if place.exists():
        return Found(**torch.load(place))
    found = again()
    place.parent.mkdir(parents=True, exist_ok=True)
    torch.save(vars(found), place)
    return found


def line(suite: str, found: Found, first: Found) -> Row:
    """Return one row, compared with what the first suite found."""
    return {
        "suite": suite,
        "robust": float(found.robust.float().mean()),
        "missed": int((found.robust & ~first.robust).sum()),
        "extra": int((~found.robust & first.robust).sum()),
        "equivalents": found.equivalents,
        "saving": first.equivalents / found.equivalents,
        "cpu_s": found.cpu_s,
        "faster": first.cpu_s / found.cpu_s,
        "stages": found.stages,
    }


def main() -> None:
    """Measure all suites on all networks and write the tables."""
    parser = options(__doc__, images=1000, repetitions=1)
    parser.add_argument("--skip", type=int, default=0, help="test images before the first one")
    parser.add_argument("--kept", type=Path, help="folder of what the first suite finds")
    parser.add_argument("--nets", nargs="*", default=list(NETS), choices=list(NETS))
    parser.add_argument("--zoo", nargs="*", default=[PREFIX + name for name in entries()], help="zoo:NAME")
    parser.add_argument("--zoo-images", type=int, default=64)
    parser.add_argument("--desk", nargs="*", default=[], choices=list(DESK))
    parser.add_argument("--desk-images", type=int, default=100)
    parser.add_argument("--suites", nargs="+", default=["standard", "fast"], help="the first is the reference")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    data = {DATASET: splits()}
    results: dict[str, list[Row]] = {}
    tables: list[str] = []
    for name in (*asked.nets, *asked.zoo, *asked.desk):
        dataset, ball = (ALL[name].dataset, Linf(ALL[name].epsilon)) if name in ALL else (DATASET, Linf(EPSILON))
        chosen = data.setdefault(dataset, splits() if dataset == DATASET else load_dataset(dataset))
        if name in ALL:
            defense = Undefended(load_net(name, chosen))
            count = asked.images if name in NETS else asked.desk_images
        else:
            defense, count = load(name), asked.zoo_images
        test = chosen.test.take(torch.arange(asked.skip, asked.skip + count))
        again = {suite: partial(run, suite, defense, test, ball, asked.seed) for suite in asked.suites}
        reference = asked.suites[0]
        place = f"{reference}-{name.replace(':', '-').replace('/', '-')}-{asked.skip}-{count}-{asked.seed}.pt"
        first = kept(asked.kept / place, again[reference]) if asked.kept else again[reference]()
        done = {suite: first if suite == reference else found() for suite, found in again.items()}
        results[name] = [line(suite, one, first) for suite, one in done.items()]
        title = f"Suites on {name}, {len(test)} images, clean accuracy {first.clean:.3f}"
        tables.append(table(title, COLUMNS, results[name]))
    networks = {name: rows for name, rows in results.items() if name in NETS}
    results["all networks together"] = totals(networks, asked.suites) if networks else []
    tables.append(
        table(
            "All networks together",
            {key: COLUMNS[key] for key in ("suite", "equivalents", "saving", "cpu_s", "faster")},
            results["all networks together"],
        )
    )
    save("versions", asked, results, tables)


def totals(results: dict[str, list[Row]], suites: list[str]) -> list[Row]:
    """Return each suite's cost over all networks."""
    rows: list[Row] = []
    for number, suite in enumerate(suites):
        cost = {
            key: sum(float(lines[number][key]) for lines in results.values()) for key in ("equivalents", "cpu_s")
        }
        base = rows[0] if rows else cost
        rows.append(
            {
                "suite": suite,
                **cost,
                "saving": base["equivalents"] / cost["equivalents"],
                "faster": base["cpu_s"] / cost["cpu_s"],
            }
        )
    return rows


if __name__ == "__main__":
    main()
