"""From a specification to modules: the place where names of datasets, networks and presets meet."""

from __future__ import annotations

from torch import nn

from memory_defense.checks import nearest
from memory_defense.data.spec import DATASETS, DatasetSpec
from memory_defense.defenses.memory.defense import MemoryDefense
from memory_defense.defenses.memory.presets import build_memory_defense
from memory_defense.networks.classifiers import CLASSIFIERS
from memory_defense.randomness import seeded
from memory_defense.recipes.recipe import ModelSpec


def dataset_spec(name: str) -> DatasetSpec:
    """Return a dataset's description; raise ValueError for an unknown name."""
    if name not in DATASETS:
        raise nearest(name, DATASETS, "dataset")
    return DATASETS[name]


def build_classifier(network: str, dataset: str, seed: int, purpose: str) -> nn.Module:
    """Return a freshly initialised classifier for a dataset's images."""
    if network not in CLASSIFIERS:
        raise nearest(network, CLASSIFIERS, "network")
    spec = dataset_spec(dataset)
    with seeded(seed, "initialisation", purpose):
        return CLASSIFIERS[network](
            channels=spec.channels, size=spec.size, classes=len(spec.classes), mean=spec.mean, std=spec.std
        )


def build_defense(model: ModelSpec, seed: int = 0) -> MemoryDefense:
    """Return a freshly initialised Memory Defense."""
    spec = dataset_spec(model.dataset)
    selector = build_classifier(model.selector, model.dataset, seed, "selector")
    with seeded(seed, "initialisation", "autoencoder"):
        return build_memory_defense(
            preset=model.preset,
            channels=spec.channels,
            size=spec.size,
            classes=len(spec.classes),
            mean=spec.mean,
            std=spec.std,
            selector=selector,
            memory_size=model.memory_size,
        )
