"""The wording of numbers and names, the same for every renderer."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from memory_defense.evaluation.record import Accuracy, AttackResult, CascadeStage, Verdict

PAPER_PROTOCOL = "fixed-slots"
"""The knowledge with which the paper evaluates: memory slots frozen at the clean prediction."""

PAPER_EPSILON = 25 / 255
PAPER_STEPS = 40

PROTOCOL_LABEL = "the paper's attack, spares the selector"
MISSING = "–"
NOT_TRIED = "not tried"
NOTHING_RAN = f"{NOT_TRIED}: no attack ran on a correctly classified image, so nothing is known."

_WITHIN = 1e-6


@dataclass(frozen=True)
class Knowledge:
    """Name, label and meaning of what one adversary differentiates."""

    name: str
    label: str
    meaning: str


KNOWLEDGE: dict[str, Knowledge] = {
    entry.name: entry
    for entry in (
        Knowledge(
            PAPER_PROTOCOL,
            "fixed slots",
            "The attack follows the gradient of encoder, memory, decoder and classifier-B, with the memory slot "
            "fixed at that of the clean image. It never attacks the selector. This is the paper's own attack.",
        ),
        Knowledge(
            "selector",
            "selector",
            "The attack follows the gradient of the selector (classifier-A) alone, so that it chooses a wrong "
            "memory slot.",
        ),
        Knowledge(
            "end-to-end",
            "end-to-end",
            "The attack sees the defense's own answers and follows the gradient of the whole defense. For the "
            "gradient only, the choice of the slot is replaced by a soft choice.",
        ),
        Knowledge(
            "target-classifier",
            "target classifier",
            "The attack follows the gradient of classifier-B on the original image, without selector and memory.",
        ),
        Knowledge(
            "undefended",
            "undefended",
            "The attack knows nothing of the defense: its images are made for a plain network that was trained "
            "separately, and are then given to the defense (a transfer attack).",
        ),
        Knowledge(
            "robust",
            "robust member",
            "The attack is made for the robust classifier of a mixture alone; its images are given to the mixture.",
        ),
        Knowledge(
            "accurate",
            "accurate member",
            "The attack is made for the accurate classifier of a mixture alone, which is not defended; its images "
            "are given to the mixture.",
        ),
    )
}
"""The known adversaries in the order of every table; a name that is not here is shown as it is."""

ADAPTIVE: dict[str, Knowledge] = {
    entry.name: entry
    for entry in (
        Knowledge(
            "steering",
            "steering",
            "The attack sees the defense's own answers and follows the gradient of the selector alone, towards "
            "another slot, until the answer is wrong.",
        ),
        Knowledge(
            "joint",
            "joint",
            "The attack sees the defense's own answers and follows the gradient of selector and classifier-B "
            "together.",
        ),
        Knowledge(
            "members",
            "all members",
            "The attack sees the defense's own answers and follows the gradient of all its classifiers together "
            "(of their log-probabilities).",
        ),
        Knowledge(
            "weakest",
            "weakest member",
            "The attack sees the defense's own answers and follows the gradient of the one classifier in it that "
            "is nearest to another answer.",
        ),
        Knowledge(
            "unclamped",
            "unclamped",
            "The attack sees the mixture's own answers and follows its gradient without the clamp and the power, "
            "which flatten it.",
        ),
        Knowledge(
            "silent",
            "flag kept silent",
            "The attack sees the defense's own answers and its flag, and continues until the answer is wrong and "
            "the image is not flagged.",
        ),
        Knowledge(
            "crossing",
            "across the flag",
            "As “flag kept silent”, but the attack ignores the flag until the answer is wrong.",
        ),
        Knowledge(
            "confident",
            "confident and silent",
            "As “flag kept silent”, by raising the confidence in one wrong class after the other.",
        ),
        Knowledge(
            "consistent",
            "consistent and silent",
            "As “confident and silent”, by the confidence at the image together with that at the point that the "
            "defense's own inner attack finds.",
        ),
        Knowledge(
            "queries",
            "queries only",
            "The attack sees only the defense's answers; there was no gradient to follow.",
        ),
        Knowledge(
            "earlier",
            "earlier images",
            "Attacked images that an earlier evaluation found, for this defense or another one, are tried again.",
        ),
    )
}
"""Adversaries that only cascades know."""

_NORMS = {"linf": "L-inf", "l2": "L2"}

_ATTACKS = {
    "fgsm": "FGSM",
    "bim": "BIM",
    "pgd": "PGD",
    "pgd-ce": "PGD cross-entropy",
    "pgd-margin": "PGD margin",
    "cw": "CW",
    "cw-paper": "CW as published",
    "carlini-wagner": "Carlini-Wagner",
    "ddn": "DDN",
    "fmn": "FMN",
    "apgd": "APGD",
    "apgd-ce": "APGD-CE",
    "apgd-dlr": "APGD-DLR",
    "apgd-t": "APGD-T",
    "fab": "FAB",
    "fab-t": "FAB-T",
    "square": "Square",
    "square-100": "Square, 100 queries",
    "pgd-restarts": "PGD margin, restarts",
    "pgd-t": "PGD-T",
    "gama": "GAMA-PGD",
    "nes": "NES",
    "hop-skip-jump": "HopSkipJump",
    "replay": "earlier images",
    "autoattack": "AutoAttack",
}

SYMBOLS: dict[Verdict, str] = {"pass": "✓", "fail": "✗", "not run": "–"}


def plain(text: str) -> str:
    """Return text on one line without control characters: they could steer a terminal or break XML."""
    line = "".join(" " if letter in "\t\r\n" else letter for letter in text)
    return "".join("\N{REPLACEMENT CHARACTER}" if _is_control(letter) else letter for letter in line)


def _is_control(letter: str) -> bool:
    category = unicodedata.category(letter)
    return category.startswith("C") or category in ("Zl", "Zp")


def percent(fraction: float) -> str:
    """Return a fraction as a percentage with one decimal, without the sign."""
    return f"{100 * fraction:.1f}"


def interval(accuracy: Accuracy) -> str:
    """Return the 95 % interval in percent, as [a, b]."""
    low, high = accuracy.ci95
    return f"[{percent(low)}, {percent(high)}]"


def knowledge_label(name: str) -> str:
    """Return the short label of an adversary's knowledge."""
    known = KNOWLEDGE | ADAPTIVE
    return known[name].label if name in known else plain(name)


def knowledge_order(name: str) -> tuple[int, str]:
    """Return the sort key that puts known names first, in the order of `KNOWLEDGE`."""
    return (list(KNOWLEDGE).index(name) if name in KNOWLEDGE else len(KNOWLEDGE), name)


def norm_label(norm: str) -> str:
    """Return the written name of a norm."""
    return _NORMS.get(norm, plain(norm))


def norm_order(norm: str) -> tuple[int, str]:
    """Return the sort key that puts known norms first."""
    return (list(_NORMS).index(norm) if norm in _NORMS else len(_NORMS), norm)


def epsilon_text(epsilon: float) -> str:
    """Return a radius as grey levels if it is a whole number of them, else as a decimal.

    25/255 is written ``25/255`` and 0.1 is written ``0.1``; so are the tenths that are both (0.2 = 51/255).
    """
    levels, tenths = epsilon * 255, epsilon * 10
    if abs(tenths - round(tenths)) <= _WITHIN or abs(levels - round(levels)) > 255 * _WITHIN:
        return f"{epsilon:.4g}"
    return f"{round(levels)}/255"


def ball_text(norm: str, epsilon: float) -> str:
    """Return a threat model in words, such as ``L-inf 25/255``."""
    return f"{norm_label(norm)} {epsilon_text(epsilon)}"


def attack_label(result: AttackResult | CascadeStage) -> str:
    """Return the attack's name with its number of steps, such as ``PGD-40``."""
    name = _ATTACKS.get(result.attack, plain(result.attack))
    steps = result.parameters.get("steps")
    return f"{name}-{steps}" if isinstance(steps, int) and steps > 1 else name


def joined(parts: Sequence[str]) -> str:
    """Return ``a``, ``a and b`` or ``a, b and c``."""
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)


def number(value: float | None) -> str:
    """Return a number with at most four significant digits, or the sign for a missing one."""
    return MISSING if value is None else f"{value:.4g}"
