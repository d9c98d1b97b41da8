"""From a specification to modules: the place where names of datasets, networks and systems meet."""

from __future__ import annotations

import copy
from pathlib import Path

from torch import nn

from memory_defense.data.spec import dataset_spec, image_spec, images_of
from memory_defense.model_spec import ImageSpec, ModelSpec, OwnClassifier
from memory_defense.names import check_name
from memory_defense.networks.classifiers import CLASSIFIERS
from memory_defense.randomness import seeded
from memory_defense.systems.own_model import build_user_model
from memory_defense.systems.preprocessed import Preprocessed
from memory_defense.systems.preprocessing import Preprocessing
from memory_defense.systems.registry import system_of


def build_own(
    network: str,
    images: ImageSpec,
    own: OwnClassifier | None = None,
    *,
    weights: Path | None = None,
    seed: int = 0,
) -> nn.Module:
    """Return a classifier of the user's own as a run keeps it: images in [0, 1] to logits, in eval mode.

    Parameters
    ----------
    network
        ``package.module:attribute``, whose module is imported.
    images
        Description of the images; the classifier answers for just their classes.
    own
        What it is given, and its preprocessing, which becomes the first layer.
    weights
        A ``.safetensors`` file of the network's state dict, without the preprocessing.
    seed
        Seed of what the user's code draws.

    Raises
    ------
    ValueError
        Whatever `own_model.build_user_model` raises.
    """
    made, (height, width) = own or OwnClassifier(), images.sides
    model = build_user_model(
        network,
        classes=len(images.classes),
        channels=images.channels,
        size=height if height == width else (height, width),
        weights=weights,
        arguments=dict(made.arguments),
        seed=seed,
    )
    model = copy.deepcopy(model)  # a name of a module itself is the same module every time
    if not made.preprocess:
        return model
    return Preprocessed(model, Preprocessing.parse(made.preprocess), images.channels).eval()


def build_classifier(
    network: str, images: ImageSpec | str, seed: int, purpose: str, own: OwnClassifier | None = None
) -> nn.Module:
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
    own
        How a classifier of the user's own is built.

    Raises
    ------
    ValueError
        For an unknown name, or a classifier that does not fit the images.
    """
    spec = image_spec(dataset_spec(images)) if isinstance(images, str) else images
    if ":" in network:
        return build_own(network, spec, own, seed=seed)
    check_name(network, CLASSIFIERS, "network")
    with seeded(seed, "initialisation", purpose):
        return CLASSIFIERS[network](
            channels=spec.channels, size=spec.size, classes=len(spec.classes), mean=spec.mean, std=spec.std
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
    named = model.selector
    selector = build_classifier(named, images, seed, "selector", model.own) if named else None
    with seeded(seed, "initialisation", "autoencoder"):
        return system.build(images, model, selector)


def classifier_of(model: ModelSpec, defense: nn.Module) -> nn.Module | None:
    """Return the part of a built system that classifies on its own, or None."""
    name = system_of(model).classifier
    return None if name is None else defense.get_submodule(name)
