"""Other people's packages: modules that add defenses, attacks and recipes when they are imported.

A plug-in is a module that enters what it brings into the registries, as this package's own do:

    SYSTEMS["mine"] = System("Mine", "my_package.mine:Mine", (), "classifier")      # systems.registry
    ATTACKS["mine"] = "my_package.attack:Mine"                                      # attacks
    register(RECIPE)                                                                # recipes.registry

An installed package names the module as an entry point of the group `GROUP`, and it is found; any other is named
with ``memdef --plugin module`` or in the environment variable `VARIABLE`. Importing a module runs the code in it.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

GROUP = "memory_defense.plugins"
"""Group of entry points."""

VARIABLE = "MEMDEF_PLUGINS"
"""Modules separated by commas, for this process and those it starts."""

_loaded: dict[str, str] = {}


def loaded() -> dict[str, str]:
    """Return the modules of all plug-ins so far, and what named each."""
    return dict(_loaded)


def load_plugins(named: Iterable[str] = ()) -> None:
    """Import every plug-in once: those of installed packages, of the environment, and these.

    Parameters
    ----------
    named
        Modules, looked up in the current directory first.

    Raises
    ------
    ValueError
        For a plug-in that is not there or whose import fails, with its name and the error as the cause.
    """
    for point in sorted(entry_points(group=GROUP)):
        _load(point.value.partition(":")[0], _origin(point))
    for name in os.environ.get(VARIABLE, "").split(","):
        if name.strip():
            _load(name.strip(), VARIABLE)
    for name in named:
        _load(name, "--plugin")


def _origin(point: EntryPoint) -> str:
    return f"the package {point.dist.name}" if point.dist is not None else f"an entry point of {GROUP}"


def _load(module: str, source: str) -> None:
    if module in _loaded:
        return
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a module may raise
        raise ValueError(
            f"the plug-in {module} ({source}) cannot be imported: {type(error).__name__}: {error}; fix it, "
            "uninstall it, or leave it out"
        ) from error
    finally:
        sys.path.remove(here)
    _loaded[module] = source
