"""``memdef systems``."""

from __future__ import annotations

import typer

from memory_defense.plugins import loaded
from memory_defense.systems.registry import SYSTEMS


def systems() -> None:
    """List the defenses and classifiers that recipes train, including those of plug-ins."""
    width = max(map(len, SYSTEMS)) + 2
    for name, system in SYSTEMS.items():
        typer.echo(f"{name:<{width}}{system.title}")
    for module, source in loaded().items():
        typer.echo(f"\nplug-in: {module}, from {source}")
