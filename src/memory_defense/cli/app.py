"""The table of commands, from which their names, their order and ``memdef --help`` follow."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Annotated

import typer

from memory_defense.plugins import VARIABLE, load_plugins
from memory_defense.version import __version__

COMMANDS = {
    "demo": "demo:demo",
    "train": "train:train",
    "evaluate": "evaluate:evaluate",
    "certify": "certify:certify",
    "predict": "predict:predict",
    "harden": "harden:harden",
    "report": "report:report",
    "compare": "compare:compare",
    "export": "export:export",
    "convert": "convert:convert",
    "reproduce": "reproduce:reproduce",
    "data": "data:data",
    "recipes": "data:recipes",
    "systems": "systems:systems",
    "attacks": "attacks:attacks",
    "zoo": "zoo:zoo",
    "studio": "studio:studio",
    "queue": "queue:app",
}
"""Every command by name: its file in this folder, and the function (or group of commands) there."""

GROUPS = {"queue": "Train and evaluate on a rented GPU, a few minutes at a time."}
"""Help of the groups of commands."""

app = typer.Typer(
    name="memdef",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for _name, _place in COMMANDS.items():
    _file, _, _attribute = _place.partition(":")
    _found = getattr(import_module(f"memory_defense.cli.{_file}"), _attribute)
    if isinstance(_found, typer.Typer):
        app.add_typer(_found, name=_name, help=GROUPS[_name])
    else:
        app.command(_name)(_found)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            help="A module that adds defenses, attacks or recipes; give it before the command; may be repeated."
        ),
    ] = None,
) -> None:
    """Attack image classifiers, measure how many answers stay right, and train defenses."""
    del version
    load_plugins(plugin or ())
    if plugin:  # for the processes that a command may start
        os.environ[VARIABLE] = ",".join(filter(None, [os.environ.get(VARIABLE), *plugin]))
