"""Write what the studio opens with: a flag for the shipped weights, and one attack on one image that works.

Usage: .venv/bin/python docs/make_studio_example.py, after the zoo changed. It needs Fashion-MNIST; a threshold
takes half a minute of one core. ``tests/studio/test_prepared.py`` computes the example again.
"""

from __future__ import annotations

import base64
from dataclasses import asdict
from pathlib import Path

import typer

from memory_defense import zoo
from memory_defense.data.images import Splits, load_dataset
from memory_defense.evaluation.flag import DEFAULT_FALSE_ALARMS
from memory_defense.studio.library import Library
from memory_defense.studio.messages import AttackChoice, ImageChoice
from memory_defense.studio.play import Subject, options_of, play
from memory_defense.studio.prepared import FOLDER, Example, FlagChoice, Prepared, sha256_of
from memory_defense.studio.runs import Runs
from memory_defense.studio.tickets import Ticket
from memory_defense.systems.load import load_defense
from memory_defense.workflows.assess import calibrated

PLACE = Path(__file__).parents[1] / "src" / "memory_defense" / "studio" / FOLDER
EXAMPLES = {"fashion-mnist/paper": None, "fashion-mnist/sound": 10}
"""Test image that the studio opens with; None for a run that it does not open with."""
ATTACK = AttackChoice(attack="pgd", options=options_of("pgd"), knowledge="end-to-end", epsilon=0.1)
"""What the page starts with (``static/state.js``)."""
SECONDS = 600.0


def prepare(name: str, splits: Splits, test: int | None) -> Prepared:
    """Return what the studio shows of a shipped run before anything is asked."""
    directory = zoo.ROOT / name
    defense = load_defense(directory)
    flag = calibrated(defense, splits.held_out, DEFAULT_FALSE_ALARMS)
    made = Prepared(weights_sha256=sha256_of(directory / "weights.safetensors"), flag=FlagChoice(**asdict(flag)))
    if test is None:
        return made
    library = Library(Runs(shipped=zoo.ROOT), tests={"fashion-mnist": splits.test})
    run = library.runs.find(f"{zoo.PREFIX}{name}")
    subject = Subject(run.name, defense, library.shape(run).classes)
    posed = library.pose(ImageChoice(test=test), None, run)
    ticket = Ticket(SECONDS)
    ticket.begin()
    played, _ = play(subject, posed, ATTACK, ticket)
    if not played.fooled or played.clean.answer != played.label:
        raise ValueError(f"test image {test} is no example of an attack that works on {name}; choose another")
    pixels = base64.b64encode(splits.test.images[test].numpy().tobytes()).decode("ascii")
    example = Example(
        test=test, identity=posed.identity, label=played.label, pixels=pixels, attack=ATTACK, played=played
    )
    return made.model_copy(update={"example": example})


def main() -> None:
    """Write one file for each shipped run."""
    splits = load_dataset("fashion-mnist", offline=True)
    PLACE.mkdir(exist_ok=True)
    for name, test in EXAMPLES.items():
        made = prepare(name, splits, test)
        path = PLACE / f"{name.replace('/', '-')}.json"
        path.write_text(made.model_dump_json(indent=1) + "\n", encoding="utf-8")
        typer.echo(f"{path}: {made.flag}")


if __name__ == "__main__":
    main()
