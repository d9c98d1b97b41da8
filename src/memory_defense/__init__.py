"""Memory Defense: a memory-masking autoencoder defense, its baselines, the attacks, and an honest evaluation.

Three functions and four values are all that most callers need:

    evaluate    attack any classifier and return a `Record`
    certify     prove how many images keep their right answer within a radius, and return a `Record`
    load        a trained or exported defense, as an `nn.Module`
    Options     seed, batch size, device, repetitions, resuming: what `evaluate` lets a caller choose
    LoggedProgress  what runs, how far it is and how long it takes, in Python's log: a display for `Options`
    Smoothing   how a classifier is smoothed with noise to be certified
    Record      what an evaluation found; `Record.read` and `Record.write` are its file

The attacks are in `memory_defense.attacks`, the balls in `memory_defense.threat`, the contracts that a defense, an
attack or a display of progress fulfils in `memory_defense.contracts`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from memory_defense.version import __version__

if TYPE_CHECKING:
    from memory_defense.certificates.smoothing import Smoothing as Smoothing
    from memory_defense.evaluation.options import Options as Options
    from memory_defense.evaluation.record import Record as Record
    from memory_defense.progress import LoggedProgress as LoggedProgress
    from memory_defense.systems.load import load as load
    from memory_defense.workflows.certify import certify as certify
    from memory_defense.workflows.evaluate import evaluate as evaluate

_PLACES = {
    "LoggedProgress": "memory_defense.progress",
    "Options": "memory_defense.evaluation.options",
    "Record": "memory_defense.evaluation.record",
    "Smoothing": "memory_defense.certificates.smoothing",
    "certify": "memory_defense.workflows.certify",
    "evaluate": "memory_defense.workflows.evaluate",
    "load": "memory_defense.systems.load",
}

__all__ = ["LoggedProgress", "Options", "Record", "Smoothing", "__version__", "certify", "evaluate", "load"]


def __getattr__(name: str) -> Any:
    """Import what is asked for on first use, so that ``memdef --help`` does not pay for torch."""
    if name not in _PLACES:
        hint = "; its place is taken by Options" if name in ("Settings", "Conduct") else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
