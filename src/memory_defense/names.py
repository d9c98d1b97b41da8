"""Names and ranges that users write, checked without importing torch.

Each tuple repeats the names of a registry that needs torch; `tests/test_names.py` holds them equal. Attacks and
suites are not here: `memory_defense.attacks` and `attacks.suites` can be read without torch.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

NORMS = ("linf", "l2")
"""Norms of the balls in `threat.BALLS`."""

SCALES = ("cpu", "desk", "paper", "rental", "tiny")
"""Scales of the reproduction, as in `recipes.scales.SCALES`."""

DEMO_SCALES = ("cpu", "tiny")
"""Scales of the demonstration, as in `workflows.demo.SCALES`."""

_SHOWN = 80
"""The longest value that a message shows, in characters."""

FORMATS = ("safetensors", "onnx", "hub-folder")
"""Formats that ``memdef export`` writes."""

REPORTS = ("html", "markdown", "latex")
"""Formats in which ``memdef report`` shows records to people."""

PRINTED = ("model-card", "eval-results", "cyclonedx", "jsonl")
"""Formats in which it prints one record for other programs."""

COMPARISONS = ("terminal", "markdown", "html")
"""Formats that ``memdef compare`` writes."""

QUEUE = (
    "fashion-mnist-paper",
    "fashion-mnist-online",
    "cifar10-strong",
    "cifar10-strong-attacks",
    "fashion-mnist-strong",
    "cifar10-resnet50",
    "cifar10-resnet50-online",
    "fashion-mnist-purifiers",
    "cifar10-purifiers",
    "cifar10-defense-vae",
    "pixelcnn",
)
"""Jobs in `paper.queue.QUEUE`."""

_SHARED = ("resnet-benign", "pixeldefend", "comdefend", "resnet-offline", "memory-defense")

TABLES: dict[str, tuple[str, ...]] = {
    "table1": (*_SHARED, "memory-defense-reference", "magnet", "resnet-online", "memory-defense-sound"),
    "table2": (*_SHARED, "resnet-online", "memory-defense-sound"),
    "table3": ("defense-vae-rec", "defense-vae-e2e", "memory-defense"),
    "table5": ("target-classifier", "autoencoder", "resnet-offline", "memory-defense", "memae", "resnet-online"),
}
"""The rows of each table of the paper, in its order."""

FIGURES = ("figure3", "figure4", "timing", "anatomy")
"""Reproductions without rows, as in `cli.reproduce.figures`."""

MEMORY_DEFENSE = "memory-defense"
_SYSTEMS = {
    "resnet-benign": "undefended",
    "resnet-offline": "undefended",
    "resnet-online": "undefended",
    "pixeldefend": "pixeldefend",
    "comdefend": "comdefend",
    "magnet": "magnet",
    "defense-vae-rec": "defense-vae",
    "defense-vae-e2e": "defense-vae",
    "target-classifier": "target-classifier",
    "autoencoder": "autoencoder",
    "memae": "memae",
    "memory-defense": MEMORY_DEFENSE,
    "memory-defense-reference": MEMORY_DEFENSE,
    "memory-defense-sound": MEMORY_DEFENSE,
}
"""The rows that every scale has on every dataset, and the system of each."""

_PAPERS = ("fgsm", "bim", "pgd")
_QUICK = (*_PAPERS, "pgd-margin", "cw", "ddn")
_LONG = (*_PAPERS, "pgd-margin", "cw", "cw-paper")
_OWN_ATTACKS = {
    "fashion-mnist/demo": _QUICK,
    "fashion-mnist/demo-paper": _QUICK,
    "fashion-mnist/paper": _LONG,
    "fashion-mnist/reference": _LONG,
    "fashion-mnist/paper-small": _QUICK,
    "fashion-mnist/sound": _LONG,
    "fashion-mnist/sound-single-step": _QUICK,
    "fashion-mnist/sound-pgd": _QUICK,
    "fashion-mnist/tiny": ("fgsm", "pgd", "cw"),
    "cifar10/paper": _LONG,
    "cifar10/sound": _LONG,
    "fashion-mnist/strong": ("pgd",),
    "cifar10/strong": ("pgd",),
    "fashion-mnist/strong-tiny": ("pgd",),
    "cifar10/strong-tiny": ("pgd",),
}
"""The Memory Defenses that are no row of a table."""

_UNDEFENDED = {
    "fashion-mnist/smoothed": ("pgd",),
    "fashion-mnist/smoothed-far": ("pgd",),
    "fashion-mnist/certified-linf": ("pgd", "pgd-margin"),
    "fashion-mnist/certified-linf-strong": ("pgd", "pgd-margin"),
    "fashion-mnist/demo-proven": ("pgd", "pgd-margin"),
    "fashion-mnist/certified-linf-tiny": ("pgd", "pgd-margin"),
    "cifar10/certified-linf": ("pgd", "pgd-margin"),
}
"""The recipes of classifiers that are trained to be certified: under noise, and by interval bounds."""

_PROVING = {
    "fashion-mnist/proving-memory": _QUICK,
    "cifar10/proving-memory": _QUICK,
    "fashion-mnist/proving-tiny": ("pgd", "ddn"),
}
"""The recipes of the memory that proves."""

_MIXED = {
    "fashion-mnist/mixture": (*_PAPERS, "pgd-margin"),
    "fashion-mnist/mixture-tiny": ("pgd",),
}
"""The recipes of the mixture of a robust and an accurate classifier."""

_SELECTIVE = {
    "fashion-mnist/rectified": "rectified",
    "fashion-mnist/rectified-tiny": "rectified",
    "fashion-mnist/consistent": "consistent",
    "fashion-mnist/consistent-tiny": "consistent",
}
"""The recipes of classifiers with a flag that is attacked together with their answers."""

_DENOISED = {
    f"{dataset}/denoised{scale}{memory}{box}": f"denoised{memory}"
    for dataset, scale in (("fashion-mnist", ""), ("cifar10", ""), ("fashion-mnist", "-tiny"))
    for memory in ("", "-memory")
    for box in ("", "-black-box")
}
"""The recipes of denoisers before a frozen classifier, and the system of each."""

_ROWS = {
    f"{dataset}/{scale}/{row}": system
    for dataset in ("fashion-mnist", "cifar10")
    for scale in SCALES
    for row, system in _SYSTEMS.items()
}

RECIPES: dict[str, str] = {
    **dict.fromkeys(_OWN_ATTACKS, MEMORY_DEFENSE),
    **dict.fromkeys(_UNDEFENDED, "undefended"),
    **dict.fromkeys(_PROVING, "proving-memory"),
    **dict.fromkeys(_MIXED, "mixture"),
    **_SELECTIVE,
    **_DENOISED,
    **_ROWS,
}
"""The system that each recipe trains, as in `recipes.registry.RECIPES`."""

PLANNED: dict[str, tuple[str, ...]] = {
    **_OWN_ATTACKS,
    **_UNDEFENDED,
    **_PROVING,
    **_MIXED,
    **dict.fromkeys(_SELECTIVE, ("pgd", "pgd-margin")),
    **dict.fromkeys(_DENOISED, ("pgd",)),
    **dict.fromkeys(_ROWS, (*_PAPERS, "cw", "cw-confident")),
}
"""The attacks of each recipe's plan; ``--attacks`` chooses from them, from all others and from the suites."""

PLANNED_HARDENED = ("pgd-margin",)
"""The same for what ``memdef harden`` made."""

CLASSIFIER = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
"""The form of a user's own classifier: ``package.module:attribute``."""


def nearest(name: str, known: Iterable[str], what: str) -> ValueError:
    """Return the error for an unknown name, with the nearest known one suggested."""
    options = sorted(set(known))
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.4)
    guess = f"; did you mean {close[0]!r}?" if close else "."
    return ValueError(f"unknown {what} {name!r}{guess} Known: {', '.join(options)}")


def check_name(name: str, known: Iterable[str], what: str) -> None:
    """Raise the error of `nearest` for a name that is not known."""
    options = tuple(known)
    if name not in options:
        raise nearest(name, options, what)


def check_norm(norm: str) -> None:
    """Raise ValueError for a norm that no ball is made of."""
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}; known: {', '.join(NORMS)}")


def check_radius(norm: str, epsilon: float) -> None:
    """Raise ValueError for a radius that no ball of this norm has: L-inf in [0, 1], L2 at least 0, never NaN."""
    if norm == "linf" and not 0 <= epsilon <= 1:
        remedy = "give one such as 8/255"
        if 1 < epsilon <= 255:
            remedy = f"a radius in grey levels is divided by 255 ({epsilon:g}/255)"
        raise ValueError(f"epsilon is {epsilon}, but an L-inf radius must be in [0, 1], as images are; {remedy}")
    if norm == "l2" and not epsilon >= 0:
        raise ValueError(f"epsilon is {epsilon}, but an L2 radius must be at least 0; give one such as 0.5")


def check_classifier(place: str) -> None:
    """Raise ValueError unless this is written ``package.module:attribute``; nothing is imported."""
    if not CLASSIFIER.fullmatch(place):
        module, _, attribute = place.partition(":")
        guess = f"{module.removesuffix('.py').replace('/', '.')}:{attribute or 'build'}"
        hint = f", such as {guess}" if CLASSIFIER.fullmatch(guess) else ""
        raise ValueError(f"{place!r} names no classifier; write package.module:attribute{hint}")


def check_adaptable(recipe: str, system: str) -> None:
    """Raise ValueError for a recipe of a system that is not trained on other images than its own."""
    if system != MEMORY_DEFENSE:
        raise ValueError(
            f"{recipe} is a recipe of {system}, and only recipes of {MEMORY_DEFENSE} are trained "
            "on other images; choose one, such as fashion-mnist/demo"
        )


def check_false_alarms(share: float) -> None:
    """Raise ValueError unless this is a share of clean images that may be flagged, in (0, 1)."""
    if not 0 < share < 1:
        raise ValueError(
            f"false_alarms is {share}, but the share of clean images that may be flagged lies between 0 and "
            "1; write 1 % as 0.01"
        )


def check_rejection_cost(cost: float) -> None:
    """Raise ValueError unless this is what a flag may cost beside a wrong answer, which costs 1: in [0, 1]."""
    if not 0 <= cost <= 1:
        raise ValueError(
            f"the cost of a flag is {cost}, but it lies between 0 and 1, which is that of a wrong answer; give "
            "0.1, say"
        )


def check_seconds(seconds: float) -> None:
    """Raise ValueError for a time that the studio does not give a computation: above 0, at most 3600 s."""
    if not 0 < seconds <= 3600:
        raise ValueError(f"seconds is {seconds:g}, but a computation may take up to 3600 s, and some time")


def check_path(path: object, name: str, like: str) -> Path:
    """Return a path; raise ValueError for anything but a text or a path."""
    if not isinstance(path, (str, Path)):
        raise ValueError(f"{name} is {shown(path)}, expected a path, such as {like!r}")
    if not str(path):
        raise ValueError(f"{name} is an empty text, expected a path, such as {like!r}")
    return Path(path)


def shown(value: object) -> str:
    """Return a value as a message shows it: its repr on one line, cut where it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a foreign object's own __repr__ may fail
        text = ""
    return text if 0 < len(text) <= _SHOWN else f"a {type(value).__name__} {text[:_SHOWN]}...".strip()
