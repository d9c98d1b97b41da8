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
        told = f"The model answers {classes[clean.answer]} for the clean image: it is wrong without any attack."
    elif adversarial.answer == label:
        told = f"The attack failed: the answer is still {right}."
        if not moved:
            told = f"No pixel was changed; the answer is {right}."
        if _steered(clean, adversarial):
            told = (
                f"The attack failed: it made the selector open the {_name(adversarial.slot, classes)} slot, but "
                f"the answer is still {right}."
            )
    elif clean.slot is None or adversarial.slot is None:
        told = f"The attack worked: the answer changed from {right} to {said}."
    elif not _steered(clean, adversarial):
        told = (
            f"The attack worked: the selector still opened the {_name(clean.slot, classes)} slot, but the second "
            f"classifier now answers {said} for the redrawn image."
        )
    else:
        so = "so" if adversarial.slot == adversarial.answer else "and"
        told = (
            f"The attack worked: it made the selector open the {_name(adversarial.slot, classes)} slot instead of "
            f"the {_name(clean.slot, classes)} slot, {so} the answer is now {said}."
        )
    return told + _flag(adversarial, label) + _proven(clean, adversarial)


def which_stands(plays: Sequence[Played], transfer: Sequence[int], classes: Sequence[str]) -> str:
    """Return how two defenses compare on one image; `transfer` is what each answers to the other's image."""
    standing = [play.run for play in plays if not play.fooled]
    fallen = [play.run for play in plays if play.fooled]
    if not fallen:
        told = "Neither was fooled by the image made against it."
    elif not standing:
        told = "Each was fooled by the image made against it."
    else:
        told = f"{fallen[0]} was fooled by the image made against it, {standing[0]} was not."
    handed = [
        f"For the image made against {other.run}, {play.run} answers {classes[answer]}."
        for play, other, answer in zip(plays, reversed(plays), transfer, strict=True)
    ]
    return " ".join([told, *handed])


def _steered(clean: Look, adversarial: Look) -> bool:
    return clean.slot != adversarial.slot


def _name(slot: int | None, classes: Sequence[str]) -> str:
    assert slot is not None
    return classes[slot]


def _flag(adversarial: Look, label: int) -> str:
    if adversarial.flagged is None:
        return ""
    if adversarial.flagged:
        return " The attacked image was flagged as suspicious."
    return " It was not flagged, so there is no warning." if adversarial.answer != label else ""


def _proven(clean: Look, adversarial: Look) -> str:
    if clean.proof is None or adversarial.proof is None:
        return ""
    if clean.proof.accepted is None:
        where = f"within {ball_text(clean.proof.norm, clean.proof.radius)} of the clean image"
        return f" Proven: no image {where} gets another answer." if clean.proof.radius else " Nothing is proven."
    if not clean.proof.accepted:
        return " The gate for this epsilon flags even the clean image."
    if adversarial.proof.accepted:
        return " The gate for this epsilon accepts both, which proves that their answers are the same."
    return " The gate for this epsilon accepts the clean image and flags the attacked one."
