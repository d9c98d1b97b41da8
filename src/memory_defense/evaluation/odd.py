"""Odd images, for which a model has no finite answer or no finite gradient: they are named, and end nothing.

Without an answer when clean an image is wrong; without one when attacked it is broken, as the defense no longer
answers rightly inside the ball; without a gradient that counts as 0, and attacks that need none still try it. An
evaluation in which no image at all has an answer, or a gradient that some attack followed, is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from memory_defense.contracts import needs_gradient
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.metrics import NO_ANSWER, no_answer_text
from memory_defense.evaluation.record import OddImages, OddKind
from memory_defense.evaluation.state import CaseState, State

NAMED = 10
"""Images that a line of text names; a record names all."""

SURE = 32
"""Images without a gradient after which no other is waited for."""

_KINDS: dict[OddKind, tuple[str, str, str]] = {
    "clean": ("has no finite answer", "have no finite answer", "counted as wrong"),
    "attacked": ("has no finite answer when attacked", "have no finite answer when attacked", "counted as broken"),
    "gradient": ("has no finite gradient", "have no finite gradient", "counted as 0"),
}


def refuse_without_answers(missing: int, images: int) -> None:
    """Raise ValueError if the model has no finite answer for any of the images of all processes."""
    if missing == images:
        raise ValueError(no_answer_text(missing, images))


def refuse_without_gradients(state: State, cases: Sequence[Case], *, whole: bool) -> None:
    """Raise ValueError if no attack with some knowledge had a finite gradient to follow, for any image.

    Parameters
    ----------
    state, cases
        What was done so far.
    whole
        Whether nothing is left to try; before that, as many images as `SURE`, or all, must have been tried.
    """
    groups: dict[str, list[tuple[Case, CaseState]]] = {}
    for case, one in zip(cases, state.cases, strict=True):
        if needs_gradient(case.attack) and bool(one.done.any()):
            groups.setdefault(case.knowledge, []).append((case, one))
    least = min(SURE, int(state.correct.sum()))
    for knowledge, group in groups.items():
        without = {number for _, one in group for number in one.no_gradient}
        if without and not any(one.followed for _, one in group) and (whole or len(without) >= least):
            names = ", ".join(dict.fromkeys(case.name for case, _ in group))
            raise ValueError(
                f"the gradient of the model's loss is NaN or infinite for all {len(without)} images that {names} "
                f"tried ({knowledge}), so that nothing was attacked; look for sqrt(0), log(0), 0/0 or overflow in "
                "its forward pass, or attack without gradients (square, hop-skip-jump)"
            )


def odd_images(state: State) -> tuple[OddImages, ...]:
    """Return the odd images of an evaluation by kind; kinds without any are left out."""
    kinds: dict[OddKind, set[int]] = {
        "clean": set(cast("list[int]", state.ids[state.predictions == NO_ANSWER].tolist())),
        "attacked": {number for one in state.cases for number in one.no_answer},
        "gradient": {number for one in state.cases for number in one.no_gradient},
    }
    return tuple(OddImages(kind=kind, ids=tuple(sorted(found))) for kind, found in kinds.items() if found)


def notes_of(state: State, cases: Sequence[Case]) -> tuple[str, ...]:
    """Return a line for every kind of odd images, and for every size of pass that a shortage of memory led to."""
    short: dict[int, list[str]] = {}
    for case, one in zip(cases, state.cases, strict=True):
        if one.smallest is not None:
            short.setdefault(one.smallest, []).append(case.name)
    passes = [
        f"out of memory: {size} images in a pass at most, under {', '.join(dict.fromkeys(names))}"
        for size, names in sorted(short.items(), reverse=True)
    ]
    return (*(sentence(one.kind, one.ids) for one in odd_images(state)), *passes)


def noted(one: CaseState) -> str:
    """Return what there is to say of one case: why it stopped, its odd images, and its passes out of memory."""
    parts = [one.note]
    parts += [sentence("attacked", one.no_answer)] * bool(one.no_answer)
    parts += [sentence("gradient", one.no_gradient)] * bool(one.no_gradient)
    parts += [f"out of memory: {one.smallest} images in a pass at most"] * (one.smallest is not None)
    return "; ".join(filter(None, parts))


def sentence(kind: OddKind, ids: Iterable[int]) -> str:
    """Return what one kind of odd images is, and which they are: ``1 image has no finite gradient: id 5``."""
    numbers = list(map(str, ids))
    one, many, counted = _KINDS[kind]
    count = len(numbers)
    what = f"1 image {one}: id " if count == 1 else f"{count} images {many}: ids "
    more = f" and {count - NAMED} more" if count > NAMED else ""
    return f"{what}{', '.join(numbers[:NAMED])}{more} ({counted})"
