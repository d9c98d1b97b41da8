"""A model card: what a model is, what an evaluation found, and what it must not be used for.

`model_card` is of a defense that was exported, `record_card` of any classifier that was evaluated.

The front matter is YAML whose every value is written as JSON, which YAML contains: one line for each key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memory_defense.evaluation.naming import name_of
from memory_defense.evaluation.record import Accuracy, Record
from memory_defense.reporting.failures import failure
from memory_defense.reporting.hub import HUB_DATASETS
from memory_defense.reporting.rows import Section, audit_lines, ordered_worst_cases
from memory_defense.reporting.summary import best_attack, gaps
from memory_defense.reporting.tables import cascade_tables, matrix_table
from memory_defense.reporting.text import escaped, headline_markdown, table_markdown
from memory_defense.reporting.wording import ball_text, interval, number, percent

_LOADING = """```python
import memory_defense  # pip install memory-defense

defense = memory_defense.load("{folder}")  # this folder, downloaded
logits = defense(images)  # images (B, {channels}, {size}, {size}) float32 in [0, 1] -> logits (B, {classes})
```"""


@dataclass(frozen=True, kw_only=True)
class CardSubject:
    """The model that a card describes.

    Parameters
    ----------
    name
        Its title and the folder it is loaded from.
    channels, size, classes
        C, H = W and the classes' names.
    parts
        Facts on architecture and training, by name, in the order of reading.
    licence
        An SPDX identifier in lower case.
    """

    name: str
    channels: int
    size: int
    classes: Sequence[str]
    parts: dict[str, str]
    licence: str = "mit"


def model_card(subject: CardSubject, record: Record) -> str:
    """Return the README of a model's folder; every number in it is the record's."""
    loading = _LOADING.format(
        folder=subject.name, channels=subject.channels, size=subject.size, classes=len(subject.classes)
    )
    parts = "\n".join(f"- {escaped(name)}: {escaped(value)}" for name, value in subject.parts.items())
    head = {
        "license": subject.licence,
        "library_name": "memory-defense",
        "pipeline_tag": "image-classification",
        "tags": ["adversarial-robustness", "memory-defense", "pytorch", "safetensors"],
        "datasets": [record.dataset],
    }
    blocks = [
        _front_matter(subject.name, record, head),
        f"# {escaped(subject.name)}",
        f"An image classifier with a defense against adversarial images, trained on {escaped(record.dataset)} "
        f"and attacked before it was published. {len(subject.classes)} classes: "
        f"{escaped(', '.join(subject.classes))}.",
        parts,
        *_found(Section(subject.name, record)),
        "## Intended use",
        "Research on adversarial robustness: as a target of attacks, as a baseline, and to study the memory. Do "
        "not use it for decisions about people, safety or security.",
        "## Limits",
        _limits(record),
        "## How to load it",
        loading,
        "The weights are safetensors: loading them runs no code.",
    ]
    return "\n\n".join(blocks) + "\n"


def record_card(record: Record) -> str:
    """Return a model card of whatever was evaluated, by the name that the record carries.

    It says what the evaluation found and no more: licence, training and use are its owner's to add.
    """
    name = name_of(record)
    head: dict[str, object] = {
        "pipeline_tag": "image-classification",
        "tags": ["adversarial-robustness", "memory-defense"],
    }
    if record.dataset in HUB_DATASETS:  # anything else is no name that the Hub knows
        head["datasets"] = [HUB_DATASETS[record.dataset]]
    blocks = [
        _front_matter(name, record, head),
        f"# {escaped(name)}",
        f"An image classifier that was attacked on {escaped(record.dataset)}."
        if record.worst_case
        else f"An image classifier that was evaluated on {escaped(record.dataset)}.",
        *_found(Section(name, record)),
        "## Limits",
        _limits(record),
    ]
    return "\n\n".join(blocks) + "\n"


def _found(section: Section) -> tuple[str, ...]:
    record = section.record
    tables = [*([matrix_table(record)] if record.attacks else []), *cascade_tables(record)]
    attacks = (
        ("### Every attack", *(f"{escaped(table.title)}:\n\n{table_markdown(table)}" for table in tables))
        if tables
        else ()
    )
    return (
        "## What an evaluation found",
        f"{record.images:,} test images; the whole record is `record.json` in the same folder.",
        headline_markdown([section]),
        f"Most effective attack: {escaped(best_attack(record))}",
        *attacks,
        "### Audit",
        _audit(record),
    )


def _front_matter(name: str, record: Record, head: Mapping[str, object]) -> str:
    found: list[tuple[str, Accuracy]] = [("accuracy, clean", record.clean)]
    for worst in ordered_worst_cases(record):
        if (measured := worst.measured) is not None:
            found.append((f"accuracy, worst case {ball_text(worst.norm, worst.epsilon)}", measured))
    for proof in record.certified:
        if proof.epsilon > 0:
            found.append((f"accuracy, proven within {ball_text(proof.norm, proof.epsilon)}", proof))
    metrics = [{"type": "accuracy", "name": text, "value": entry.accuracy} for text, entry in found]
    dataset = {"name": record.dataset, "type": record.dataset, "split": "test"}
    task = {"type": "image-classification", "name": "Image classification"}
    result = {"task": task, "dataset": dataset, "metrics": metrics}
    values = {
        **head,
        "metrics": ["accuracy"],
        "model-index": [{"name": name, "results": [result]}],
    }
    lines = (f"{key}: {json.dumps(value)}" for key, value in values.items())
    return "\n".join(("---", *lines, "---"))


def _audit(record: Record) -> str:
    lines = audit_lines(record)
    failed = [line for line in lines if line.verdict == "fail"]
    counts = f"{sum(line.verdict == 'pass' for line in lines)} checks passed"
    skipped = sum(line.verdict == "not run" for line in lines)
    head = f"{len(failed)} of {len(lines)} checks failed, {counts}, {skipped} were not run."
    if not lines:
        return "No check was run, so it is unknown whether these numbers can be believed."
    items = (
        f"- **{escaped(failure(line))}** ({escaped(line.check)}: {number(line.value)}.) "
        f"What to do: {escaped(line.remedy)}."
        for line in failed
    )
    return "\n".join((head, "", *items)).rstrip()


def _limits(record: Record) -> str:
    worst = [
        f"{percent(found.accuracy)} % {interval(found)} at {ball_text(one.norm, one.epsilon)}"
        for one in ordered_worst_cases(record)
        if (found := one.measured) is not None
    ]
    said = [
        f"Under attacks within the balls above, it is right on {', '.join(worst)}; under larger changes, perhaps "
        "on no image."
        if worst
        else f"{'No attack ran on it' if record.worst_case else 'It was not attacked'}, so nothing is known about "
        "its robustness.",
        "The worst case is an upper bound of the robust accuracy: a better attack can only lower it.",
        f"Numbers hold for {record.dataset} test images. Other images, corruptions and distribution shifts were "
        "not tested.",
        *gaps(record),
    ]
    return "\n".join(f"- {escaped(one)}" for one in said)
