"""The effect of an attack in one to three plain sentences."""

from __future__ import annotations

from collections.abc import Sequence

from memory_defense.reporting.wording import ball_text
from memory_defense.studio.messages import Look, Played


def what_happened(clean: Look, adversarial: Look, label: int, classes: Sequence[str], *, moved: bool) -> str:
    """Return what an attack did to one image.

    Parameters
    ----------
    clean, adversarial
        What the defense made of the image before and after.
    label
        The class that was to be left.
    classes
        Names by label.
    moved
        Whether the attack changed any pixel.
    """
    right, said = classes[label], classes[adversarial.answer]
    if clean.answer != label:
        told = f"The defense already takes the clean image for {_a(classes[clean.answer])}; no attack was needed."
    elif adversarial.answer == label:
        told = f"The answer stands: {right}." if moved else f"No pixel was changed; the answer is {right}."
        if _steered(clean, adversarial):
            told = (
                f"The selector was steered to slot {_name(adversarial.slot, classes)}, yet the classifier behind "
                f"it still answers {right}."
            )
    elif clean.slot is None or adversarial.slot is None:
        told = f"The answer changed from {right} to {said}."
    elif not _steered(clean, adversarial):
        told = (
            f"The selector kept slot {_name(clean.slot, classes)}, but the classifier behind it took the "
            f"reconstruction for {_a(said)}."
        )
    else:
        then = (
            "the classifier behind it repeated that."
            if adversarial.slot == adversarial.answer
            else f"the classifier behind it answered {said}, which is wrong, too."
        )
        told = (
            f"The selector was steered from slot {_name(clean.slot, classes)} to slot "
            f"{_name(adversarial.slot, classes)}, and {then}"
        )
    return told + _flag(adversarial, label) + _proven(clean, adversarial)


def which_stands(plays: Sequence[Played], transfer: Sequence[int], classes: Sequence[str]) -> str:
    """Return how two defenses compare on one image; `transfer` is what each answers to the other's image."""
    standing = [play.run for play in plays if not play.fooled]
    fallen = [play.run for play in plays if play.fooled]
    if not fallen:
        told = "Both still give the right answer to the image made against them."
    elif not standing:
        told = "Each was fooled by the image made against it."
    else:
        told = f"{standing[0]} stands, {fallen[0]} was fooled."
    handed = [
        f"{play.run} answers {classes[answer]} to the image made against {other.run}"
        for play, other, answer in zip(plays, reversed(plays), transfer, strict=True)
    ]
    return f"{told} And the other way round: {' and '.join(handed)}."


def _steered(clean: Look, adversarial: Look) -> bool:
    return clean.slot != adversarial.slot


def _name(slot: int | None, classes: Sequence[str]) -> str:
    assert slot is not None
    return classes[slot]


def _flag(adversarial: Look, label: int) -> str:
    if adversarial.flagged is None:
        return ""
    if adversarial.flagged:
        return " The image was flagged as suspicious."
    return " It was not flagged." if adversarial.answer != label else ""


def _proven(clean: Look, adversarial: Look) -> str:
    if clean.proof is None or adversarial.proof is None:
        return ""
    if clean.proof.accepted is None:
        where = f"within {ball_text(clean.proof.norm, clean.proof.radius)} of the clean image"
        return f" Proven: no image {where} gets another answer." if clean.proof.radius else " Nothing is proven."
    if not clean.proof.accepted:
        return " The gate for this epsilon flags the clean image already."
    if adversarial.proof.accepted:
        return " The gate for this epsilon accepts both, which proves that their answers are the same."
    return " The gate for this epsilon accepts the clean image and flags this one."


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
