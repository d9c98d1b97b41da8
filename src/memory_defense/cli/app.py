"""The table of commands, from which their names, their order and ``memdef --help`` follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from memory_defense.cli.data import data, recipes
from memory_defense.cli.demo import demo
from memory_defense.cli.evaluate import evaluate
from memory_defense.cli.export import export
from memory_defense.cli.harden import harden
from memory_defense.cli.predict import predict
from memory_defense.cli.queue import app as queue
from memory_defense.cli.report import report
from memory_defense.cli.reproduce import reproduce
from memory_defense.cli.studio import studio
from memory_defense.cli.train import train
from memory_defense.version import __version__

COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "harden": harden,
    "report": report,
    "export": export,
    "reproduce": reproduce,
    "data": data,
    "recipes": recipes,
    "studio": studio,
}

app = typer.Typer(
    name="memdef",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)
app.add_typer(queue, name="queue", help="Training and evaluation for a GPU, a few minutes at a time.")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Train Memory Defense and its baselines, attack them, and see what survives."""
