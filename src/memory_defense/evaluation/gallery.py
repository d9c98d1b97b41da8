"""Images for the report: what an attack did to a few of them, and what the defense made of that."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from memory_defense.contracts import Defense, Images, Labels, Rebuilding, SlotDefense
from memory_defense.evaluation.metrics import predict
from memory_defense.evaluation.robustness import Evaluation
from memory_defense.passes import granules_of
from memory_defense.tensorfiles import write_tensors
from memory_defense.wrappers import frozen

SHOWN_SLOTS = 16
"""Slots whose reconstructions are kept of each image, at most: a page shows no thousand of them."""


def write_gallery(
    path: Path, defense: Defense, evaluation: Evaluation, *, classes: Sequence[str], name: str, count: int = 8
) -> None:
    """Write the file that the report's gallery reads; `reporting.gallery` documents it.

    Parameters
    ----------
    path
        File to write, usually beside the record.
    defense
        Asked again about every chosen image; slots and reconstructions only where it has them.
    evaluation
        The images come from its largest L-inf ball (or L2, without one): half of them broken, half still
        standing, if there are, else whatever there is.
    classes
        Names of the classes.
    name
        Name of the defense, for the caption.
    count
        Number of images to show.
    """
    first_norm = min((one.ball.norm for one in evaluation.broken), key=["linf", "l2"].index)
    same_norm = [one for one in evaluation.broken if one.ball.norm == first_norm]
    broken = max(same_norm, key=lambda one: one.ball.epsilon)
    rows = _choose(broken.robust, evaluation.correct, evaluation.labels, count)
    images, labels = evaluation.images[rows], evaluation.labels[rows]
    adversarial = broken.images[rows]
    with frozen(defense), granules_of(evaluation.granule):
        tensors: dict[str, Tensor] = {
            "images": images,
            "adversarial": adversarial,
            "labels": labels,
            "predictions_clean": predict(defense, images),
            "predictions_adversarial": predict(defense, adversarial),
        }
        if isinstance(defense, SlotDefense):
            with torch.no_grad():
                clean, attacked = defense.trace(images), defense.trace(adversarial)
            tensors["attention_clean"], tensors["attention_adversarial"] = clean.attention, attacked.attention
            tensors["slots_clean"], tensors["slots_adversarial"] = clean.slots, attacked.slots
        if isinstance(defense, Rebuilding):
            with torch.no_grad():
                tensors |= _rebuilt(defense, adversarial, tensors)
    header = {
        "classes": json.dumps(list(classes)),
        "attack": "the first that worked, of all",
        "knowledge": "any",
        "epsilon": repr(broken.ball.epsilon),
        "norm": broken.ball.norm,
        "defense": name,
    }
    write_tensors(path, tensors, header)


def _rebuilt(defense: Rebuilding, adversarial: Images, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what slots make of the images, of all slots if they are few, and which ones otherwise.

    Of many, those are taken that the page has something to say about: of the true class, of the answers, of the
    slots that were read, and then those with the most attention. An image goes through all of them at a time.
    """
    found: list[Tensor] = []
    chosen: list[Tensor] = []
    for row in range(len(adversarial)):
        every = defense.reconstruct_all(adversarial[row : row + 1])[0]  # (K, C, H, W)
        if len(every) <= SHOWN_SLOTS:
            found.append(every)
            continue
        which = _telling(known, row, len(every)).to(every.device)
        found.append(every[which])
        chosen.append(which)
    rebuilt = {"reconstructions": torch.stack(found)}
    return rebuilt | ({"reconstructed": torch.stack(chosen)} if chosen else {})


def _telling(known: Mapping[str, Tensor], row: int, slots: int) -> Labels:
    """Return the numbers of `SHOWN_SLOTS` slots (S,) that say most about an image, in rising order."""
    named = ("labels", "predictions_clean", "predictions_adversarial", "slots_clean", "slots_adversarial")
    first = [int(known[name][row]) for name in named if name in known]
    for name in ("attention_clean", "attention_adversarial"):
        if name in known:
            shares = known[name][row].view(slots, -1).sum(1)  # (K,)
            first += cast("list[int]", shares.argsort(descending=True, stable=True)[:SHOWN_SLOTS].tolist())
    distinct = dict.fromkeys(one for one in (*first, *range(slots)) if 0 <= one < slots)
    return torch.tensor(sorted(list(distinct)[:SHOWN_SLOTS]))


def _choose(robust: Tensor, correct: Tensor, labels: Labels, count: int) -> Tensor:
    """Return row numbers: half broken and half standing where possible, as many classes as possible."""
    groups = [_positions(correct & ~robust), _positions(robust)]
    chosen: list[int] = []
    for number, group in enumerate(groups):
        room = count // 2 if number == 0 else count - len(chosen)
        seen: set[int] = {int(labels[row]) for row in chosen}
        fresh = [row for row in group if int(labels[row]) not in seen and not seen.add(int(labels[row]))]
        chosen += (fresh + [row for row in group if row not in fresh])[:room]
    spare = [row for row in (*groups[0], *range(len(labels))) if row not in chosen]
    return torch.tensor((chosen + list(dict.fromkeys(spare)))[:count], dtype=torch.int64)


def _positions(which: Tensor) -> list[int]:
    return cast("list[int]", which.nonzero().squeeze(1).tolist())
