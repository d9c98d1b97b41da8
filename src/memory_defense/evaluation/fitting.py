"""What suits a model: how many classes it has, and cases that can run on so many, before anything is attacked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from memory_defense.checks import check_class_count
from memory_defense.contracts import Classifier, works_in
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.invariance import undisturbed
from memory_defense.evaluation.pixels import Pictures
from memory_defense.losses import suited
from memory_defense.passes import regular
from memory_defense.wrappers import restored


@torch.no_grad()
def classes_of(model: Classifier, images: Pictures, *, seed: int) -> int | None:
    """Return the number of classes that the model answers with; None where it gives no logits (B, K), or raises.

    What is wrong then is for the evaluation to say. Buffers and random numbers are as before afterwards.

    Parameters
    ----------
    model
        In eval mode; it is asked about the first image.
    images
        (N, C, H, W), N at least 1; they stay as they are.
    seed
        Seed of what a randomised model draws.

    Raises
    ------
    ValueError
        For one logit for each image, in which no class can be read.
    """
    try:
        with restored(model), undisturbed(seed):
            answer = regular(model)(images[:1])
    except Exception:  # whatever a model may raise
        return None
    if answer.dim() != 2:
        return None
    check_class_count(answer.shape[1])
    return answer.shape[1]


def fitted(cases: Sequence[Case], classes: int | None) -> tuple[Case, ...]:
    """Return the cases for a model with so many classes; what was changed is said in `Case.note`.

    Parameters
    ----------
    cases
        In the order that they are run in.
    classes
        K, at least 2; None where it is not known, and nothing is changed then.

    Raises
    ------
    ValueError
        For an attack that does not work in its case's norm, or that needs more classes and cannot be changed.
    """
    for case in cases:
        if not works_in(case.attack, case.ball.norm):
            raise ValueError(
                f"{case.name} does not work in {case.ball.norm} balls; give it one of another norm, or leave it out"
            )
    if classes is None:
        return tuple(cases)
    found: list[Case] = []
    for case in cases:
        attack, note = suited(case.name, case.attack, classes)
        found.append(replace(case, attack=attack, note=note) if note else case)
    return tuple(found)


def changes(cases: Sequence[Case]) -> list[str]:
    """Return one line for every attack that was changed: its name, and what stands in its loss's place."""
    return list(dict.fromkeys(f"{case.name}: {case.note}" for case in cases if case.note))
