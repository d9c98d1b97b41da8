"""Recipes on Fashion-MNIST."""

from __future__ import annotations

from dataclasses import replace

from memory_defense.attacks import PAPER_PGD, CarliniWagner, Fgsm, Pgd
from memory_defense.data.augmentation import Augmentation
from memory_defense.defenses.memory.objective import MemoryObjective
from memory_defense.recipes.parts import (
    CLASSIFIER_B_WEIGHT,
    CURVE_RADII,
    PAPER_FIT,
    QUICK_OPTIMIZER,
    STRONG_OPTIMIZER,
    full_plan,
    quick_plan,
)
from memory_defense.recipes.recipe import (
    EvaluationPlan,
    HeldOutAttack,
    ModelSpec,
    OfflineSet,
    Recipe,
    Stage,
)
from memory_defense.threat import L2, Linf
from memory_defense.training.adversarial import Benign, Online, SingleStep, WarmStart
from memory_defense.training.fit import FitConfig

DATASET = "fashion-mnist"
PAPER_RADII = (9 / 255, 25 / 255)
SOUND_RADII = (9 / 255, 0.1)
L2_RADIUS = 1.5

_FLIPS = Augmentation(horizontal_flip=True)
_HELD_OUT = HeldOutAttack(attack=Pgd(steps=10, loss="margin"), ball=Linf(0.1))
_QUICK_FIT = FitConfig(epochs=4, optimizer=QUICK_OPTIMIZER, averaging=0.998, augmentation=_FLIPS, validate_every=2)
_QUICK_UNDEFENDED = Stage(name="benign", objective=Benign(), fit=replace(_QUICK_FIT, epochs=2))
_QUICK_AUTOENCODER = Stage(
    name="joint",
    part="autoencoder",
    objective=MemoryObjective(cross_entropy=CLASSIFIER_B_WEIGHT),
    score="objective",
    fit=FitConfig(epochs=2, optimizer=replace(QUICK_OPTIMIZER, learning_rate=4e-3), augmentation=_FLIPS),
)
_PAPER_AUTOENCODER = Stage(
    name="joint", part="autoencoder", objective=MemoryObjective(), score="objective", fit=PAPER_FIT
)
_PAPER_OFFLINE = OfflineSet(attack=PAPER_PGD, ball=Linf(0.03))

DEMO = Recipe(
    name="fashion-mnist/demo",
    summary="Sound Memory Defense that two cores train in minutes: an adversarially trained selector",
    model=ModelSpec(dataset=DATASET, preset="sound", selector="lenet-small"),
    undefended=_QUICK_UNDEFENDED,
    undefended_network="lenet-small",
    stages=(
        Stage(
            name="warm-start",
            objective=WarmStart(epsilon=0.1, step=0.75),
            score="robust",
            fit=replace(_QUICK_FIT, epochs=23, augmentation=Augmentation(), validate_every=5),
        ),
        _QUICK_AUTOENCODER,
    ),
    held_out=_HELD_OUT,
    evaluation=quick_plan(SOUND_RADII, L2_RADIUS),
)

DEMO_PAPER = Recipe(
    name="fashion-mnist/demo-paper",
    summary="The paper's system with a benign selector, small enough for two processor cores",
    model=ModelSpec(dataset=DATASET, preset="paper", selector="lenet-small"),
    undefended=_QUICK_UNDEFENDED,
    undefended_network="lenet-small",
    stages=(Stage(name="benign", objective=Benign(), fit=_QUICK_FIT), _QUICK_AUTOENCODER),
    held_out=_HELD_OUT,
    evaluation=quick_plan(PAPER_RADII, L2_RADIUS),
)

PAPER = Recipe(
    name="fashion-mnist/paper",
    summary="Section 4 as written: ResNet-50 selector, clean images, then PGD images made once (epsilon 0.03)",
    model=ModelSpec(dataset=DATASET, preset="paper", selector="resnet50"),
    undefended=Stage(name="benign", objective=Benign(), fit=PAPER_FIT),
    undefended_network="resnet50",
    stages=(
        Stage(name="benign", objective=Benign(), fit=PAPER_FIT),
        Stage(name="offline", objective=Benign(), fit=PAPER_FIT, offline=_PAPER_OFFLINE),
        _PAPER_AUTOENCODER,
    ),
    held_out=_HELD_OUT,
    evaluation=full_plan(PAPER_RADII, L2_RADIUS),
)

REFERENCE = replace(
    PAPER,
    name="fashion-mnist/reference",
    summary="The released code's constants: 500 memory items, shrink threshold 1e-12, MNIST's normalisation",
    model=ModelSpec(dataset=DATASET, preset="reference", selector="resnet50"),
)

PAPER_SMALL = replace(
    PAPER,
    name="fashion-mnist/paper-small",
    summary="The paper's recipe, offline adversarial set included, with a selector for two processor cores",
    model=ModelSpec(dataset=DATASET, preset="paper", selector="lenet-small"),
    undefended=_QUICK_UNDEFENDED,
    undefended_network="lenet-small",
    stages=(
        Stage(name="benign", objective=Benign(), fit=_QUICK_FIT),
        Stage(name="offline", objective=Benign(), fit=_QUICK_FIT, offline=_PAPER_OFFLINE),
        _QUICK_AUTOENCODER,
    ),
    evaluation=quick_plan(PAPER_RADII, L2_RADIUS),
)

SOUND = Recipe(
    name="fashion-mnist/sound",
    summary="Sound Memory Defense for a GPU: ResNet-18 selector, PGD-10 training at epsilon 0.1",
    model=ModelSpec(dataset=DATASET, preset="sound", selector="resnet18"),
    undefended=Stage(name="benign", objective=Benign(), fit=replace(PAPER_FIT, epochs=20)),
    undefended_network="resnet18",
    stages=(
        Stage(
            name="pgd",
            objective=Online(epsilon=0.1, attack=Pgd(steps=10, momentum=0, stop_when_fooled=False)),
            score="robust",
            fit=FitConfig(epochs=60, optimizer=STRONG_OPTIMIZER, averaging=0.999, augmentation=_FLIPS),
        ),
        _PAPER_AUTOENCODER,
    ),
    held_out=_HELD_OUT,
    evaluation=full_plan(SOUND_RADII, L2_RADIUS),
)

SOUND_SINGLE_STEP = replace(
    DEMO,
    name="fashion-mnist/sound-single-step",
    summary="The demo's system with the selector trained on noise and a single step (N-FGSM)",
    stages=(
        Stage(
            name="single-step",
            objective=SingleStep(epsilon=0.1),
            score="robust",
            fit=replace(_QUICK_FIT, epochs=23, validate_every=5),
        ),
        _QUICK_AUTOENCODER,
    ),
)

SOUND_PGD = replace(
    DEMO,
    name="fashion-mnist/sound-pgd",
    summary="The demo's system with the selector trained on PGD-3",
    stages=(
        Stage(
            name="pgd",
            objective=Online(epsilon=0.1, attack=Pgd(steps=3, momentum=0, stop_when_fooled=False, micro_batch=128)),
            score="robust",
            fit=replace(_QUICK_FIT, epochs=14, validate_every=3),
        ),
        _QUICK_AUTOENCODER,
    ),
)

_TINY_FIT = FitConfig(epochs=1, batch_size=50, optimizer=QUICK_OPTIMIZER, checkpoint_every=2)

TINY = Recipe(
    name="fashion-mnist/tiny",
    summary="Every stage of the demo in seconds, to try the machinery; its numbers mean nothing",
    model=ModelSpec(dataset=DATASET, preset="sound", selector="linear", memory_size=20),
    undefended=Stage(name="benign", objective=Benign(), fit=_TINY_FIT),
    undefended_network="linear",
    stages=(
        Stage(name="warm-start", objective=WarmStart(epsilon=0.1), score="robust", fit=_TINY_FIT),
        Stage(name="joint", part="autoencoder", objective=MemoryObjective(), score="objective", fit=_TINY_FIT),
    ),
    held_out=replace(_HELD_OUT, images=50),
    evaluation=EvaluationPlan(
        images=20,
        linf=(Linf(0.1),),
        attacks={"fgsm": Fgsm(), "pgd": Pgd(steps=5)},
        l2=(L2(L2_RADIUS),),
        minimum_norm={"cw": CarliniWagner(steps=5, search_steps=1)},
        curve=Pgd(steps=2),
        curve_balls=tuple(Linf(radius) for radius in CURVE_RADII[-2:]),
    ),
)

FASHION_MNIST = (
    DEMO,
    DEMO_PAPER,
    PAPER,
    REFERENCE,
    PAPER_SMALL,
    SOUND,
    SOUND_SINGLE_STEP,
    SOUND_PGD,
    TINY,
)
