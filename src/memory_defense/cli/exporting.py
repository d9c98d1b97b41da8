"""What ``memdef export`` and ``memdef report --format latex`` do."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from memory_defense.cli.arguments import record_of
from memory_defense.evaluation.record import Record
from memory_defense.reporting import Section
from memory_defense.reporting.card import CardSubject, model_card
from memory_defense.reporting.latex import latex
from memory_defense.systems.export import CardWriter, export
from memory_defense.systems.facts import Facts


def run_export(run: Path, format: str, place: Path, *, force: bool) -> None:
    """Write a run in a format, and say how it was checked."""
    card = _card(place.resolve().name) if format == "hub-folder" else None
    done = export(run, place, format=format, force=force, card=card)
    Console().print(
        f"exported: {done.path}\nchecked: {done.checked}\nload it: memory_defense.load({str(done.path)!r})",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def run_latex(paths: Sequence[Path]) -> None:
    """Print every table of these records as LaTeX."""
    records = [Record.read(record_of(path)) for path in paths]
    sys.stdout.write(latex([Section(record.recipe, record) for record in records]))


def _card(name: str) -> CardWriter:
    def write(facts: Facts, record: Record) -> str:
        made = f"{facts.recipe} (sha256 {facts.recipe_sha256[:12]}), seed {facts.seed}"
        model = {key: str(value) for key, value in facts.model.items() if value and key != "images"}
        parts = {
            "recipe": f"{made}, {facts.train_images:,} training images",
            **{key.replace("_", " "): value for key, value in model.items()},
            "flag": _flag(facts.flag),
            "exported by": f"memory-defense {facts.version}, torch {facts.torch}",
        }
        subject = CardSubject(
            name=name, channels=facts.channels, size=facts.size, classes=facts.classes, parts=parts
        )
        return model_card(subject, record)

    return write


def _flag(flag: Mapping[str, Any] | None) -> str:
    if flag is None:
        return "no threshold was chosen, so no image is flagged"
    return (
        f"suspicious where {flag['score']} is above {flag['threshold']:.6g}, chosen on "
        f"{flag['calibration_images']:,} held-out images for {100 * flag['false_alarms']:g} % false alarms"
    )
