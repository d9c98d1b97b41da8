"""What the reproductions beside the tables measured: one JSON file each, from which figures and texts are rendered.

Accuracies are fractions, epsilon and distances are in pixel units of [0, 1], errors in their square, times seconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from memory_defense.evaluation.record import Accuracy, Fraction, Provenance
from memory_defense.files import write_text

SCHEMA = 1

Count = Annotated[int, Field(gt=0)]
Size = Annotated[float, Field(ge=0)]


class Part(BaseModel):
    """Unknown keys are errors, values cannot be changed, NaN is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Measured(Part):
    """What every one of these files says first."""

    schema_: Annotated[Literal[1], Field(alias="schema")] = SCHEMA
    dataset: str
    scale: str
    provenance: Provenance

    def write(self, path: Path) -> None:
        """Write JSON, atomically; long rows of whole numbers stand on one line."""
        write_text(path, _laid_out(self.model_dump(by_alias=True, mode="json")) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read such a file; raise ValueError that names it and the first offending field."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise ValueError(f"{path} is no {cls.__name__} of schema {SCHEMA}: {where}: {first['msg']}") from error


def _laid_out(value: object, indent: int = 0) -> str:
    """Return JSON with an indent of 1, except that a list of plain numbers is one line."""
    inner, close = "\n" + " " * (indent + 1), "\n" + " " * indent
    if isinstance(value, dict) and value:
        pairs = cast("dict[str, object]", value).items()
        entries = [f"{json.dumps(key)}: {_laid_out(one, indent + 1)}" for key, one in pairs]
        return "{" + inner + ("," + inner).join(entries) + close + "}"
    if isinstance(value, list) and value:
        parts = cast("list[object]", value)
        if not all(isinstance(one, int | float) for one in parts):
            return "[" + inner + ("," + inner).join(_laid_out(one, indent + 1) for one in parts) + close + "]"
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


class Panel(Part):
    """One map of Figure 3: vectors of one kind, in two dimensions, and what they are worth where they come from."""

    key: str
    title: str
    meaning: str
    neighbours_right: Fraction
    """Leave-one-out accuracy of the true label by the nearest neighbours, in the vectors' own space."""
    neighbours_slot: Fraction | None = None
    """The same for the slot that the selector chose, where there is one."""
    clean_neighbours_right: Fraction | None = None
    """Accuracy of the true label by the nearest vectors of other images when clean; None where all are clean."""
    answers_right: Fraction
    """Accuracy of the whole system on these very images."""
    x: tuple[int, ...]
    """Places in [0, 1000], by image."""
    y: tuple[int, ...]


class PanelRow(Part):
    """The maps of one set of images."""

    title: str
    panels: tuple[Panel, ...]


class Figure3(Measured):
    """Where codes and memory reads lie (the paper's Figure 3)."""

    images: Count
    classes: tuple[str, ...]
    labels: tuple[int, ...]
    """By image; the same in every panel."""
    neighbours: Count
    perplexity: Size
    epsilon: Size
    pixels_right: Fraction
    """Leave-one-out accuracy of the nearest neighbours on the pixels of the clean images: what is there without any
    training."""
    rows: tuple[PanelRow, ...]


class AttackedError(Part):
    """Reconstruction errors of attacked images."""

    knowledge: str
    epsilon: Size
    percentile_99: Size
    median: Size
    auroc: Fraction
    """How well the error tells these from the benign images; 0.5 tells nothing."""
    right: Accuracy


class MemorySize(Part):
    """One memory size."""

    items: Count
    percentile_99: Size
    """Of the errors of benign images."""
    median: Size
    right: Accuracy
    attacked: tuple[AttackedError, ...]


class Figure4(Measured):
    """Reconstruction errors by memory size (the paper's Figure 4)."""

    images: Count
    sizes: tuple[MemorySize, ...]


class Latency(Part):
    """How long one system takes for one batch."""

    key: str
    title: str
    batch: Count
    runs: Count
    seconds: Size
    """Median for the whole batch."""
    fastest: Size
    """Of the fastest run, which other processes disturb least."""
    ratio: Size
    """Median, run by run, over the autoencoder without memory in the same round."""


class Timing(Measured):
    """What the memory and the selector cost (the paper's section 4)."""

    threads: Count
    latencies: tuple[Latency, ...]


class AnatomyStep(Part):
    """One way to score and attack the same weights on the same images."""

    key: str
    title: str
    changed: str
    """The choice that differs from the step before; empty for the first."""
    protocol: dict[str, str | int]
    """Every choice, by name."""
    score: Fraction
    """What this protocol would print as robust accuracy."""
    attacked: Accuracy
    """Share of attacked images that the defense answers right, its own slot chosen from the attacked image."""
    selector: Accuracy
    """The same for the selector alone."""
    agreement: Fraction
    """Share of attacked images whose answer is the slot that the selector chose."""
    median_change: Size
    """Median over images of the largest change of a pixel."""


class Anatomy(Measured):
    """From the paper's cell to the number that is left, one choice at a time."""

    images: Count
    epsilon: Size
    clean: Accuracy
    steps: tuple[AnatomyStep, ...]
    controls: tuple[AnatomyStep, ...]
    """Measured beside a step, whose protocol they share but for what `changed` says."""
