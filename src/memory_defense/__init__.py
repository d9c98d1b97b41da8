"""Memory Defense: a memory-masking autoencoder defense, its baselines, the attacks, and an honest evaluation.

Four functions and four values are all that most callers need:

    evaluate    attack any classifier and return a `Record`
    certify     prove how many images keep their right answer within a radius, and return a `Record`
    compare     lay records of several systems beside each other, image by image where they judged the same ones
    load        a trained or exported defense, as an `nn.Module`
    Options     seed, batch size, device, repetitions, resuming: what `evaluate` lets a caller choose
    LoggedProgress  what runs, how far it is and how long it takes, in Python's log: a display for `Options`
    Smoothing   how a classifier is smoothed with noise to be certified
    Record      what an evaluation found; `Record.read` and `Record.write` are its file, `Record.to_dataframe` and
                `Record.plot` what it says

The attacks are in `memory_defense.attacks`, the balls in `memory_defense.threat`, the contracts that a defense, an
attack or a display of progress fulfils in `memory_defense.contracts`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from memory_defense.version import __version__

if TYPE_CHECKING:
    from memory_defense.certificates.smoothing import Smoothing as Smoothing
    from memory_defense.evaluation.comparison import compare as compare
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
    "compare": "memory_defense.evaluation.comparison",
    "evaluate": "memory_defense.workflows.evaluate",
    "load": "memory_defense.systems.load",
}

_VIEWS = {
    "comparison_html": "memory_defense.reporting.notebook",
    "record_frame": "memory_defense.evaluation.frames",
    "record_html": "memory_defense.reporting.notebook",
    "record_plot": "memory_defense.reporting.notebook",
}
"""What shows a record or a comparison; their own methods ask for it here, as no room imports one above it."""

__all__ = [
    "LoggedProgress",
    "Options",
    "Record",
    "Smoothing",
    "__version__",
    "certify",
    "compare",
    "evaluate",
    "load",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for on first use, so that ``memdef --help`` does not pay for torch."""
    if name not in _PLACES and name not in _VIEWS:
        hint = "; its place is taken by Options" if name in ("Settings", "Conduct") else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
    return getattr(import_module((_PLACES | _VIEWS)[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
