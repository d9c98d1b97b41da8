"""Whether a classifier of the user's own counts the class folders as they are labelled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from memory_defense.contracts import Classifier, Progress
from memory_defense.data.class_map import found_numbers, listed_numbers, read_listing
from memory_defense.data.images import ImageSet
from memory_defense.data.leftovers import listed
from memory_defense.data.own import DataSplit, relabelled
from memory_defense.evaluation.metrics import JUDGE_BATCH, accuracy, predict
from memory_defense.evaluation.sizes import taken_by
from memory_defense.passes import granules_of
from memory_defense.randomness import seeded
from memory_defense.systems.own_model import outputs_of
from memory_defense.workflows.evaluate import as_defense
from memory_defense.workflows.first_answer import in_own_precision
from memory_defense.wrappers import frozen

ASKED = 256
"""Images that a model is asked about."""


def counts_otherwise(
    model: Classifier, images: ImageSet, classes: tuple[str, ...], otherwise: tuple[str, ...] | None
) -> str | None:
    """Return why the class folders are to be taken in the other order, None if they stay in theirs.

    Nets that were trained on numbered folders by torchvision's `ImageFolder` or Keras count them as text sorts them
    (0, 1, 10, 2); others count by the numbers. A model that is right significantly more often the other way (95 %
    Wilson intervals of up to 256 images) counts so.

    Parameters
    ----------
    model
        On the device of the images.
    images
        Labelled by positions in `classes`.
    classes
        Class folders by label.
    otherwise
        The same, in the other order; None if there is no doubt, and then nothing is asked.
    """
    if otherwise is None:
        return None
    asked = images.first(min(ASKED, len(images)))
    floats = asked.floats()
    shown = in_own_precision(as_defense(model))
    taken = taken_by(shown, floats, largest=min(len(floats), JUDGE_BATCH), wanted=None, seed=0)
    try:
        with frozen(model), granules_of(taken.granule, taken.most), seeded(0, "class order"):
            found = predict(shown, floats).cpu()
    except ValueError:  # what is wrong with the model is for the evaluation to say
        return None
    labels = asked.labels.cpu()
    others = torch.tensor([otherwise.index(name) for name in classes])[labels]
    here, there = accuracy(found == labels), accuracy(found == others)
    if there.ci95[0] <= here.ci95[1]:
        return None
    return (
        f"class folders are taken in the order {listed(list(otherwise))}, for so the model is right on "
        f"{there.accuracy:.1%} of {len(asked)} images, and on {here.accuracy:.1%} in the order "
        f"{listed(list(classes))}"
    )


def on_outputs(
    model: nn.Module,
    data: DataSplit,
    device: torch.device,
    *,
    classes: Path | None = None,
    names: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> DataSplit:
    """Return the images labelled by the model's outputs, where it knows more classes than there are, or names them.

    Parameters
    ----------
    model
        On `device`.
    data
        Labelled by positions in its classes.
    classes
        A file that says which output a class is (`data.class_map.listed_numbers`); None goes by the folders' names.
    names
        The model's own names of its classes, by output.
    progress
        Is told what the labels are taken for.

    Raises
    ------
    ValueError
        For a file that does not fit the folders or the model.
    """
    outputs = outputs_of(model, data.images.first(1).to(device).floats()) or len(data.classes)
    if classes is not None:
        found = listed_numbers(data.classes, read_listing(classes), classes)
    else:
        found = found_numbers(data.classes, outputs, names)
    if found is None:
        return data
    if progress is not None:
        progress.note(found.why)
    return relabelled(data, found, outputs)
