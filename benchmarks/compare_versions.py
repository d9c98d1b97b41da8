"""Our suites against each other: what `fast` misses of `standard`, and what it saves.

Four networks: standard, two adversarially trained, and one that masks its gradients, where only an attack without
gradients tells the truth; and trained defenses that come with the package, attacked with every knowledge. Both
suites run in the same cascade, on survivors only, so what is compared is the choice of attacks. The measure of cost
that no machine changes is passes: a backward pass counts as two forward passes.

    python benchmarks/compare_versions.py
"""

from __future__ import annotations

import time

import torch

from memory_defense.attacks.suites import parts_of
from memory_defense.contracts import Defense
from memory_defense.data.images import ImageSet
from memory_defense.defenses.undefended import Undefended
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.robustness import Evaluation, evaluate
from memory_defense.systems.load import load
from memory_defense.threat import Linf
from memory_defense.workflows.evaluate import cascade_cases
from memory_defense.zoo import PREFIX, entries
from nets import EPSILON, NETS, load_net
from report import Row, options, save, splits, table

BALL = Linf(EPSILON)
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


def run(suite: str, defense: Defense, test: ImageSet, seed: int) -> tuple[Evaluation, float]:
    """Return the evaluation by one suite, and its processor seconds."""
    cases = cascade_cases(defense, parts_of(suite), [BALL])
    started = time.process_time()
    evaluation = evaluate(defense, test.floats(), test.labels, cases, options=Options(seed=seed, ids=test.ids))
    return evaluation, time.process_time() - started


def equivalents(evaluation: Evaluation) -> float:
    """Return passes for each image, a backward pass counted as two."""
    stages = evaluation.cascades[0].stages
    passes = sum(stage.forward_passes + 2 * stage.backward_passes for stage in stages)
    return passes / len(evaluation.images)


def line(suite: str, evaluation: Evaluation, seconds: float, first: tuple[Evaluation, float]) -> Row:
    """Return one row, compared with the first suite's evaluation and seconds."""
    robust, reference = evaluation.broken[0].robust, first[0].broken[0].robust
    stages = [stage for stage in evaluation.cascades[0].stages if stage.tried]
    return {
        "suite": suite,
        "robust": float(robust.float().mean()),
        "missed": int((robust & ~reference).sum()),
        "extra": int((~robust & reference).sum()),
        "equivalents": equivalents(evaluation),
        "saving": equivalents(first[0]) / equivalents(evaluation),
        "cpu_s": seconds,
        "faster": first[1] / seconds,
        "stages": ", ".join(f"{stage.attack} {stage.tried}/{stage.first}" for stage in stages),
    }


def main() -> None:
    """Measure all suites on all networks and write the tables."""
    parser = options(__doc__, images=1000, repetitions=1)
    parser.add_argument("--nets", nargs="*", default=list(NETS), choices=list(NETS))
    parser.add_argument("--zoo", nargs="*", default=[PREFIX + name for name in entries()], help="zoo:NAME")
    parser.add_argument("--zoo-images", type=int, default=64)
    parser.add_argument("--suites", nargs="+", default=["standard", "fast"], help="the first is the reference")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    data = splits()
    results: dict[str, list[Row]] = {}
    tables: list[str] = []
    for name in (*asked.nets, *asked.zoo):
        if name in NETS:
            defense, test = Undefended(load_net(name, data)), data.test.first(asked.images)
        else:
            defense, test = load(name), data.test.first(asked.zoo_images)
        done = {suite: run(suite, defense, test, asked.seed) for suite in asked.suites}
        first = done[asked.suites[0]]
        results[name] = [line(suite, *one, first) for suite, one in done.items()]
        clean = first[0].clean.accuracy
        title = f"Suites on {name}, {len(test)} images, clean accuracy {clean:.3f}"
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
