"""Memory Defense: a memory-masking autoencoder defense, its rivals, the attacks, and what really survives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memory_defense.version import __version__

if TYPE_CHECKING:
    from memory_defense.systems.load import load as load
    from memory_defense.workflows.evaluate import evaluate as evaluate

__all__ = ["__version__", "evaluate", "load"]


def __getattr__(name: str) -> Any:
    """Import `evaluate` and `load` on first use, so that ``memdef --help`` does not pay for torch."""
    if name == "load":
        from memory_defense.systems.load import load

        return load
    if name == "evaluate":
        from memory_defense.workflows.evaluate import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
