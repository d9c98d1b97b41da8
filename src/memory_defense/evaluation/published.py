"""Published numbers that a record can be held against: RobustBench's threat models, and Fashion-MNIST.

Each is one line of ``published.json`` with the page that it was taken from and a date; ``docs/make_published.py``
takes RobustBench's anew. They are facts of other people's evaluations: on the images, and by the attacks, that
their line names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from memory_defense.evaluation.balls import table_worst_cases
from memory_defense.evaluation.record import Fraction, Record, WorstCase

_SAME = 1e-3
"""Largest difference, as a share, of two radii that are one radius written with fewer digits: 0.0314 and 8/255."""


class Published(BaseModel):
    """One published evaluation of one model in one ball."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    dataset: str
    norm: str
    epsilon: Annotated[float, Field(gt=0)]
    name: str
    """What the source calls the model."""
    architecture: str
    clean: Fraction | None
    robust: Fraction
    """Robust accuracy, or the certified share where `by` says so; RobustBench's lowest where it lists several."""
    by: str
    """How it was found: ``AutoAttack``, ``AutoAttack and others``, or ``certified``."""
    images: Annotated[int, Field(gt=0)]
    """Number of test images."""
    extra_data: bool
    """Whether more real training images were used than the dataset's own, as the source says; synthetic ones do not
    count."""
    venue: str
    link: str
    """The paper."""
    source: str
    """The page that the numbers were taken from."""
    date: str
    """Day of that page's revision, or ``read`` and the day it was read."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Annotated[int, Field(alias="schema", ge=1, le=1)]
    entries: tuple[Published, ...]


@cache
def published() -> tuple[Published, ...]:
    """Return every published number that comes with the package."""
    text = files("memory_defense.evaluation").joinpath("published.json").read_text("utf-8")
    return _File.model_validate_json(text).entries


def published_for(records: Sequence[Record]) -> tuple[Published, ...]:
    """Return what was published of the datasets and balls of these records' worst cases, the most robust first."""
    asked = {(_plain(record.dataset), worst) for record in records for worst in _balls(record)}
    fitting = [one for one in published() if any(_fits(one, dataset, *ball) for dataset, ball in asked)]
    return tuple(sorted(fitting, key=lambda one: (one.dataset, one.norm != "linf", one.epsilon, -one.robust)))


def _balls(record: Record) -> set[tuple[str, float]]:
    worst: Sequence[WorstCase] = table_worst_cases(record)
    return {(one.norm, one.epsilon) for one in (*worst, *record.certified) if one.epsilon > 0}


def _fits(one: Published, dataset: str, norm: str, epsilon: float) -> bool:
    return _plain(one.dataset) == dataset and one.norm == norm and abs(one.epsilon - epsilon) <= _SAME * one.epsilon


def _plain(name: str) -> str:
    """Return a dataset's name as all spellings have it: CIFAR-10 and cifar10 are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
