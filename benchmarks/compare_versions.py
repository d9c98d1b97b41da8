"""Our suites against each other: what `fast` misses of `standard`, and what it saves.

Four networks: standard, two adversarially trained, and one that masks its gradients, where only an attack without
gradients tells the truth. Both suites run in the same cascade, on survivors only, so what is compared is the choice
of attacks. The measure of cost that no machine changes is passes: a backward pass counts as two forward passes.

    python benchmarks/compare_versions.py
"""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from memory_defense.attacks.suites import parts_of
from memory_defense.defenses.undefended import Undefended
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.robustness import Evaluation, evaluate
from memory_defense.threat import Linf
from memory_defense.workflows.evaluate import cascade_cases
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


def run(
    suite: str, network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, seed: int
) -> tuple[Evaluation, float]:
    """Return the evaluation by one suite, and its processor seconds."""
    defense = Undefended(network)
    cases = cascade_cases(defense, parts_of(suite), [BALL])
    started = time.process_time()
    evaluation = evaluate(defense, images, labels, cases, options=Options(seed=seed, ids=ids))
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
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--suites", nargs="+", default=["standard", "fast"], help="the first is the reference")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    data = splits()
    results: dict[str, list[Row]] = {}
    tables: list[str] = []
    test = data.test.first(asked.images)
    for name in asked.nets:
        network = load_net(name, data)
        done = {
            suite: run(suite, network, test.floats(), test.labels, test.ids, asked.seed) for suite in asked.suites
        }
        first = done[asked.suites[0]]
        results[name] = [line(suite, *one, first) for suite, one in done.items()]
        clean = first[0].clean.accuracy
        title = f"Suites on {name}, {len(test)} images, clean accuracy {clean:.3f}"
        tables.append(table(title, COLUMNS, results[name]))
    results["all networks together"] = totals(results, asked.suites)
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
