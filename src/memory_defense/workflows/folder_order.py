"""Whether a classifier of the user's own counts the class folders as they are labelled."""

from __future__ import annotations

import torch

from memory_defense.contracts import Classifier
from memory_defense.data.images import ImageSet
from memory_defense.evaluation.metrics import accuracy
from memory_defense.randomness import seeded
from memory_defense.wrappers import frozen

_ASKED = 256
"""Images that a model is asked about."""
_BATCH = 32


def counts_as_text(
    model: Classifier, images: ImageSet, classes: tuple[str, ...], as_text: tuple[str, ...] | None
) -> str | None:
    """Return why the folders are to be taken sorted as text, None if they stay in the order of their numbers.

    Nets that were trained on numbered folders by torchvision's `ImageFolder` or Keras count them as text sorts them
    (0, 1, 10, 2); others count them by their numbers. A model that is right significantly more often one way (95 %
    Wilson intervals of up to 256 images) counts so.

    Parameters
    ----------
    model
        On the device of the images.
    images
        Labelled by positions in `classes`.
    classes
        Folders in the order of their numbers.
    as_text
        The same, sorted as text; None if there is no doubt, and then nothing is asked.
    """
    if as_text is None:
        return None
    asked = images.first(min(_ASKED, len(images)))
    floats = asked.floats()
    with torch.no_grad(), frozen(model), seeded(0, "class order"):
        found = torch.cat([model(part).argmax(1) for part in torch.split(floats, _BATCH)]).cpu()
    numbers = asked.labels.cpu()
    text = torch.tensor([as_text.index(name) for name in classes])[numbers]
    by_number, by_text = accuracy(found == numbers), accuracy(found == text)
    if by_text.ci95[0] <= by_number.ci95[1]:
        return None
    return (
        f"class folders are taken sorted as text, for so the model is right on {by_text.accuracy:.1%} of "
        f"{len(asked)} images, and on {by_number.accuracy:.1%} in the order of their numbers"
    )
