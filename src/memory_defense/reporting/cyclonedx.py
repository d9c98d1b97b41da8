"""A record as a CycloneDX 1.6 bill of materials: one machine-learning model with its performance metrics.

Every number is a ``performanceMetric`` with its 95 % interval (https://cyclonedx.org/docs/1.6/json, `modelCard`).
The same record gives the same bytes: the serial number is made of its content, and no date is written.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

from memory_defense.evaluation.naming import name_of
from memory_defense.evaluation.record import Accuracy, Record
from memory_defense.reporting.rows import ordered_worst_cases, table_attacks
from memory_defense.reporting.summary import gaps
from memory_defense.reporting.wording import attack_label, ball_text, knowledge_label, plain

_SPACE = uuid.uuid5(uuid.NAMESPACE_URL, "memory-defense record")
_PREFIX = "memory-defense:"


def bill_of_materials(record: Record) -> str:
    """Return the document as JSON; fractions are written as they are in the record."""
    serial = uuid.uuid5(_SPACE, record.model_dump_json(by_alias=True))
    made = record.provenance
    content = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "tools": {
                "components": [{"type": "application", "name": "memory-defense", "version": made.version}],
            },
        },
        "components": [_component(record)],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _component(record: Record) -> dict[str, Any]:
    made = record.provenance
    facts = {
        "recipe": record.recipe,
        "images": str(record.images),
        "submissions": str(record.submissions),
        "seed": str(made.seed),
        "revision": made.git,
        "torch": made.torch,
        "weights": made.recipe_sha256,
        **{f"audit:{verdict}": str(count) for verdict, count in _verdicts(record)},
    }
    failing = [line for line in record.audit if line.verdict == "fail"]
    failed = [f"Audit, failed: {plain(line.check)}. {plain(line.meaning)}" for line in failing]
    limits = [*(plain(note) for note in record.notes), *failed, *gaps(record)]
    dataset = {"type": "dataset", "name": record.dataset}
    return {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": plain(name_of(record)),
        "modelCard": {
            "modelParameters": {"task": "image-classification", "datasets": [dataset]},
            "quantitativeAnalysis": {"performanceMetrics": [_metric(*one) for one in _numbers(record)]},
            **({"considerations": {"technicalLimitations": limits}} if limits else {}),
        },
        "properties": [{"name": f"{_PREFIX}{name}", "value": value} for name, value in facts.items() if value],
    }


def _verdicts(record: Record) -> Iterator[tuple[str, int]]:
    for verdict, word in (("fail", "failed"), ("pass", "passed"), ("not run", "not run")):
        yield word, sum(line.verdict == verdict for line in record.audit)


def _metric(kind: str, where: str, share: Accuracy) -> dict[str, Any]:
    low, high = share.ci95
    return {
        "type": kind,
        "value": repr(share.accuracy),
        "slice": where,
        "confidenceInterval": {"lowerBound": repr(low), "upperBound": repr(high)},
    }


def _numbers(record: Record) -> Iterator[tuple[str, str, Accuracy]]:
    """Yield the kind of each number, the images or the adversary that it is about, and the number."""
    yield "accuracy", f"clean images of {plain(record.dataset)}", record.clean
    for worst in ordered_worst_cases(record):
        ball = ball_text(worst.norm, worst.epsilon)
        if (measured := worst.measured) is not None:
            yield "robust accuracy", f"worst case over every attack within {ball}", measured
        if worst.undetected is not None:
            yield (
                "robust accuracy, right or flagged",
                f"worst case over every attack within {ball}",
                worst.undetected,
            )
    for one in table_attacks(record):
        if one.tried != 0:
            adversary = f"{attack_label(one)}, knowledge {knowledge_label(one.knowledge)}"
            yield "accuracy under attack", f"{adversary}, {ball_text(one.norm, one.epsilon)}", one
    for proof in record.certified:
        if proof.epsilon > 0:
            yield "certified accuracy", f"{plain(proof.method)}, {ball_text(proof.norm, proof.epsilon)}", proof
