"""From a specification to modules: the place where names of datasets, networks and systems meet."""

from __future__ import annotations

import copy

from torch import nn

from memory_defense.data.spec import dataset_spec, image_spec, images_of
from memory_defense.model_spec import ImageSpec, ModelSpec
from memory_defense.names import check_name
from memory_defense.networks.classifiers import CLASSIFIERS
from memory_defense.randomness import seeded
from memory_defense.systems.own_model import build_user_model
from memory_defense.systems.registry import system_of


def build_classifier(network: str, images: ImageSpec | str, seed: int, purpose: str) -> nn.Module:
    """Return a freshly initialised classifier.

    Parameters
    ----------
    network
        A name in `networks.classifiers.CLASSIFIERS`, or ``package.module:attribute`` of the user's own, whose
        module is then imported (see `own_model`).
    images
        Description of the images, or the name of a dataset.
    seed, purpose
        Seed of the initialisation, and the name of what it is for.

    Raises
    ------
    ValueError
        For an unknown name, or a classifier that does not fit the images.
    """
    spec = image_spec(dataset_spec(images)) if isinstance(images, str) else images
    classes = len(spec.classes)
    if ":" in network:
        theirs = build_user_model(network, classes=classes, channels=spec.channels, size=spec.size, seed=seed)
        return copy.deepcopy(theirs)  # a name of a module itself is the same module every time
    check_name(network, CLASSIFIERS, "network")
    with seeded(seed, "initialisation", purpose):
        return CLASSIFIERS[network](
            channels=spec.channels, size=spec.size, classes=classes, mean=spec.mean, std=spec.std
        )


def build_defense(model: ModelSpec, seed: int = 0) -> nn.Module:
    """Return a freshly initialised system: images (B, C, H, W) in [0, 1] to logits (B, K).

    Raises
    ------
    ValueError
        For an unknown name, or a system that needs a classifier and names none, or the reverse.
    """
    system, images = system_of(model), images_of(model)
    if system.classifier is None and model.selector:
        raise ValueError(
            f"{model.defense} has no classifier to choose, but {model.selector!r} was named; leave it out"
        )
    if system.classifier is not None and not model.selector:
        known = ", ".join(CLASSIFIERS)
        raise ValueError(f"{model.defense} stands on a classifier; name one as its selector: {known}")
    selector = build_classifier(model.selector, images, seed, "selector") if model.selector else None
    with seeded(seed, "initialisation", "autoencoder"):
        return system.build(images, model, selector)


def classifier_of(model: ModelSpec, defense: nn.Module) -> nn.Module | None:
    """Return the part of a built system that classifies on its own, or None."""
    name = system_of(model).classifier
    return None if name is None else defense.get_submodule(name)
