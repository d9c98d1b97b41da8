"""Recipes on CIFAR-10."""

from __future__ import annotations

from dataclasses import replace

from memory_defense.attacks import PAPER_PGD, Pgd
from memory_defense.data.augmentation import Augmentation
from memory_defense.defenses.memory.objective import MemoryObjective
from memory_defense.recipes.parts import PAPER_FIT, STRONG_OPTIMIZER, full_plan
from memory_defense.recipes.recipe import HeldOutAttack, ModelSpec, OfflineSet, Recipe, Stage
from memory_defense.threat import Linf
from memory_defense.training.adversarial import Benign, Online
from memory_defense.training.fit import FitConfig

DATASET = "cifar10"
PAPER_RADII = (2 / 255, 8 / 255, 16 / 255)
L2_RADIUS = 0.5

_HELD_OUT = HeldOutAttack(attack=Pgd(steps=10, loss="margin"), ball=Linf(8 / 255))
_CROPS = Augmentation(crop_padding=4, horizontal_flip=True)
_REGULARISED = replace(PAPER_FIT, optimizer=replace(PAPER_FIT.optimizer, weight_decay=1e-4))
_AUTOENCODER = Stage(
    name="joint", part="autoencoder", objective=MemoryObjective(), score="objective", fit=_REGULARISED
)

PAPER = Recipe(
    name="cifar10/paper",
    summary="Section 4 as written: ResNet-50 selector, clean images, then PGD images made once (epsilon 0.03)",
    model=ModelSpec(dataset=DATASET, preset="paper", selector="resnet50"),
    undefended=Stage(name="benign", objective=Benign(), fit=_REGULARISED),
    undefended_network="resnet50",
    stages=(
        Stage(name="benign", objective=Benign(), fit=_REGULARISED),
        Stage(
            name="offline",
            objective=Benign(),
            fit=_REGULARISED,
            offline=OfflineSet(attack=PAPER_PGD, ball=Linf(0.03)),
        ),
        _AUTOENCODER,
    ),
    held_out=_HELD_OUT,
    evaluation=full_plan(PAPER_RADII, L2_RADIUS),
)

SOUND = Recipe(
    name="cifar10/sound",
    summary="Sound Memory Defense for a GPU: ResNet-18 selector, PGD-10 training at epsilon 8/255",
    model=ModelSpec(dataset=DATASET, preset="sound", selector="resnet18"),
    undefended=Stage(name="benign", objective=Benign(), fit=replace(_REGULARISED, epochs=20)),
    undefended_network="resnet18",
    stages=(
        Stage(
            name="pgd",
            objective=Online(
                epsilon=8 / 255, warm_up=0.1, attack=Pgd(steps=10, momentum=0, stop_when_fooled=False)
            ),
            score="robust",
            fit=FitConfig(epochs=60, optimizer=STRONG_OPTIMIZER, averaging=0.999, augmentation=_CROPS),
        ),
        _AUTOENCODER,
    ),
    held_out=_HELD_OUT,
    evaluation=full_plan(PAPER_RADII, L2_RADIUS),
)

CIFAR10 = (PAPER, SOUND)
