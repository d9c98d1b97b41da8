"""A model card: what a model is, what an evaluation found, and what it must not be used for.

The front matter is YAML whose every value is written as JSON, which YAML contains: one line for each key.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from memory_defense.evaluation.record import Accuracy, Record
from memory_defense.reporting.failures import failure
from memory_defense.reporting.rows import Section, audit_lines, ordered_worst_cases
from memory_defense.reporting.summary import best_attack, gaps
from memory_defense.reporting.tables import matrix_table
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
    section = Section(subject.name, record)
    loading = _LOADING.format(
        folder=subject.name, channels=subject.channels, size=subject.size, classes=len(subject.classes)
    )
    parts = "\n".join(f"- {escaped(name)}: {escaped(value)}" for name, value in subject.parts.items())
    blocks = [
        _front_matter(subject, record),
        f"# {escaped(subject.name)}",
        f"An image classifier with a defense against adversarial images, trained on {escaped(record.dataset)} "
        f"and attacked before it was published. {len(subject.classes)} classes: "
        f"{escaped(', '.join(subject.classes))}.",
        parts,
        "## What an evaluation found",
        f"{record.images:,} test images; the whole record is `record.json` beside this page.",
        headline_markdown([section]),
        f"Most effective attack: {escaped(best_attack(record))}",
        "### Every attack",
        table_markdown(matrix_table(record)),
        "### Audit",
        _audit(record),
        "## Intended use",
        "Research on adversarial robustness: as a subject of attacks, as a baseline, and to look at what the "
        "memory does. Not for decisions about people, safety or security.",
        "## Limits",
        _limits(record),
        "## How to load it",
        loading,
        "The weights are safetensors: loading them runs no code.",
    ]
    return "\n\n".join(blocks) + "\n"


def _front_matter(subject: CardSubject, record: Record) -> str:
    found: list[tuple[str, Accuracy]] = [("accuracy, clean", record.clean)]
    for worst in ordered_worst_cases(record):
        if (measured := worst.measured) is not None:
            found.append((f"accuracy, worst case {ball_text(worst.norm, worst.epsilon)}", measured))
    metrics = [{"type": "accuracy", "name": name, "value": entry.accuracy} for name, entry in found]
    dataset = {"name": record.dataset, "type": record.dataset, "split": "test"}
    task = {"type": "image-classification", "name": "Image classification"}
    result = {"task": task, "dataset": dataset, "metrics": metrics}
    values = {
        "license": subject.licence,
        "library_name": "memory-defense",
        "pipeline_tag": "image-classification",
        "tags": ["adversarial-robustness", "memory-defense", "pytorch", "safetensors"],
        "datasets": [record.dataset],
        "metrics": ["accuracy"],
        "model-index": [{"name": subject.name, "results": [result]}],
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
        return "No check was run, so nothing says whether these numbers can be believed."
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
        f"Attackers inside the balls above leave it right on {', '.join(worst)}; outside them, perhaps on none."
        if worst
        else f"{'No attack ran on it' if record.worst_case else 'It was not attacked'}, so nothing is known about "
        "its robustness.",
        "The worst case is an upper bound: a better attack can only lower it.",
        f"Numbers hold for {record.dataset} test images. Other images, corruptions and shifts were not tried.",
        *gaps(record),
    ]
    return "\n".join(f"- {escaped(one)}" for one in said)
