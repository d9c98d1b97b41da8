"""A record as Hugging Face's ``.eval_results/*.yaml``: one entry for each number, in percent.

The Hub's page on evaluation results (https://huggingface.co/docs/hub/eval-results) has the format: ``dataset.id``
and ``dataset.task_id``, ``value``, and optionally ``date``, ``source`` and ``notes``. Numbers appear on a model's
page; on a leaderboard only where the dataset's owner has registered a task of that id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from memory_defense.evaluation.record import Accuracy, Record
from memory_defense.reporting.rows import ordered_worst_cases, table_attacks
from memory_defense.reporting.wording import ball_text, interval

HUB_DATASETS = {
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "imagenet": "ILSVRC/imagenet-1k",
}
"""Ids on the Hub of the datasets that a record may name."""

_ID = re.compile(r"[\w.-]+/[\w.-]+")
_NOT_PLAIN = re.compile(r"[^a-z0-9]+")


def eval_results(record: Record, hub_dataset: str | None = None) -> str:
    """Return the text of a file for a model's ``.eval_results`` folder, such as ``robustness.yaml``.

    Parameters
    ----------
    record
        Its clean accuracy, worst cases and proofs become entries.
    hub_dataset
        Id of the dataset on the Hub; None knows those of `HUB_DATASETS`.

    Raises
    ------
    ValueError
        For a dataset whose id on the Hub is not known, or what cannot be one.
    """
    found = hub_dataset or HUB_DATASETS.get(record.dataset)
    if found is None:
        raise ValueError(
            f"the dataset {record.dataset!r} has no known place on the Hub; give --hub-dataset OWNER/NAME"
        )
    if not _ID.fullmatch(found):
        raise ValueError(f"--hub-dataset is {found!r}, but a dataset on the Hub is called OWNER/NAME")
    return "".join(
        f"- dataset:\n    id: {json.dumps(found)}\n    task_id: {json.dumps(task)}\n"
        f"  value: {json.dumps(round(100 * share.accuracy, 4))}\n  notes: {json.dumps(notes, ensure_ascii=False)}\n"
        for task, share, notes in _entries(record)
    )


def _entries(record: Record) -> Iterator[tuple[str, Accuracy, str]]:
    said = f"{record.images:,} images; memory-defense {record.provenance.version}"
    yield "clean-accuracy", record.clean, f"{_words(record.clean)}; {said}"
    stages = [stage for cascade in record.cascades for stage in cascade.stages]
    attacks = len({one.attack for one in (*table_attacks(record), *stages)})
    for worst in ordered_worst_cases(record):
        if (measured := worst.measured) is not None:
            ball = ball_text(worst.norm, worst.epsilon)
            what = f"worst case over {attacks} attacks within {ball}, image by image"
            yield _task("robust-accuracy", ball), measured, f"{_words(measured)}; {what}; {said}"
    for proof in record.certified:
        if proof.epsilon > 0:
            ball = ball_text(proof.norm, proof.epsilon)
            yield _task("certified-accuracy", ball), proof, f"{_words(proof)}; {proof.method}, {ball}; {said}"


def _words(share: Accuracy) -> str:
    return f"%, 95 % interval {interval(share)}"


def _task(kind: str, ball: str) -> str:
    return f"{kind}-{_NOT_PLAIN.sub('-', ball.lower()).strip('-')}"
