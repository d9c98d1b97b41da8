"""What is ready before the first question: an example and a flag for weights that come with the package.

Each was computed from the very weights that its SHA-256 names (``docs/make_studio_example.py``), is used for no
others, and the page computes the example again as soon as it has shown it.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path

from memory_defense.evaluation.flag import Flag
from memory_defense.studio.messages import AttackChoice, Message, Played
from memory_defense.studio.runs import Run

FOLDER = "prepared"


class FlagChoice(Message):
    """See `evaluation.flag.Flag`."""

    score: str
    threshold: float
    false_alarms: float
    calibration_images: int

    def flag(self) -> Flag:
        """Return it as the evaluator has it."""
        return Flag(**self.model_dump())


class Example(Message):
    """One attack on one image that worked."""

    test: int
    """Position of the image in the dataset's test split."""
    identity: int
    """Seeds the attack's draws, as the test image's does."""
    label: int
    pixels: str
    """Base64 of C x H x W grey levels: the image itself, for machines without the dataset."""
    attack: AttackChoice
    played: Played


class Prepared(Message):
    """What was computed from one file of weights."""

    weights_sha256: str
    flag: FlagChoice
    example: Example | None = None


@cache
def all_prepared() -> tuple[Prepared, ...]:
    """Return everything that comes with the package."""
    folder = files("memory_defense.studio").joinpath(FOLDER)
    texts = [one.read_text(encoding="utf-8") for one in folder.iterdir() if one.name.endswith(".json")]
    return tuple(Prepared.model_validate_json(text) for text in texts)


def prepared_for(run: Run) -> Prepared | None:
    """Return what was prepared for the weights that a run has now, None for all others.

    Raises ValueError for a damaged manifest, OSError where the weights cannot be read.
    """
    weights = run.directory.weights
    said = run.directory.read().get("sha256", {}).get(weights.name)
    found = next((one for one in all_prepared() if one.weights_sha256 == said), None)
    return found if found is not None and weights.is_file() and sha256_of(weights) == said else None


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
