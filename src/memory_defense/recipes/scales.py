"""The sizes at which the tables are reproduced: minutes or hours of cores, minutes of a GPU, the paper's own."""

from __future__ import annotations

from dataclasses import replace

from memory_defense.attacks import PAPER_CW, CarliniWagner, Fgsm, Pgd
from memory_defense.contracts import Attack
from memory_defense.data.augmentation import Augmentation
from memory_defense.names import check_name
from memory_defense.recipes.parts import PAPER_ATTACKS, PAPER_FIT, QUICK_OPTIMIZER, STRONG_OPTIMIZER
from memory_defense.recipes.recipe import EvaluationPlan, HeldOutAttack, Recipe, Stage
from memory_defense.recipes.rows import Scale, brief_pairs, published_pairs, rows_of
from memory_defense.threat import L2, Linf
from memory_defense.training.adversarial import Online, WarmStart
from memory_defense.training.fit import FitConfig
from memory_defense.training.optimizer import OptimizerConfig

_FLIPS = Augmentation(horizontal_flip=True)
_CROPS = Augmentation(crop_padding=4, horizontal_flip=True)
_FASHION_RADII = (Linf(9 / 255), Linf(25 / 255))
_CIFAR_RADII = (Linf(2 / 255), Linf(8 / 255), Linf(16 / 255))
_BRIEF_CW: dict[str, Attack] = {
    "cw": CarliniWagner(steps=40, search_steps=2),
    "cw-confident": CarliniWagner(steps=40, search_steps=2, confidence=50, best_effort=True),
}
_PAPER_CW: dict[str, Attack] = {"cw": PAPER_CW, "cw-confident": replace(PAPER_CW, confidence=50, best_effort=True)}

_STEADY = OptimizerConfig(name="adam", learning_rate=1e-3)
_QUICK = FitConfig(epochs=10, optimizer=QUICK_OPTIMIZER, averaging=0.998, augmentation=_FLIPS, validate_every=2)
_QUICK_SLOWER = replace(_QUICK, optimizer=replace(QUICK_OPTIMIZER, learning_rate=2e-3), augmentation=Augmentation())


def _warm_start(epsilon: float, epochs: int) -> Stage:
    return Stage(
        name="warm-start",
        objective=WarmStart(epsilon=epsilon, step=0.75),
        score="robust",
        fit=replace(_QUICK, epochs=epochs, augmentation=Augmentation(), validate_every=5),
    )


def _pgd_training(epsilon: float, steps: int) -> Stage:
    return Stage(
        name="pgd",
        objective=Online(epsilon=epsilon, warm_up=0.1, attack=Pgd(steps=steps, momentum=0, stop_when_fooled=False)),
        score="robust",
        fit=FitConfig(epochs=60, optimizer=STRONG_OPTIMIZER, averaging=0.999, augmentation=_CROPS),
    )


def _plan(balls: tuple[Linf, ...], cw: dict[str, Attack], l2: float, images: int, suite: str) -> EvaluationPlan:
    return EvaluationPlan(images=images, linf=balls, attacks=PAPER_ATTACKS, l2=(L2(l2),), unbounded=cw, suite=suite)


def table_3_plan(plan: EvaluationPlan) -> EvaluationPlan:
    """Return the plan of Table 3 at the scale of another: FGSM at 0.3, and CW."""
    return replace(plan, linf=(Linf(0.3),), l2=(), attacks={"fgsm": Fgsm()}, unbounded={"cw": plan.unbounded["cw"]})


_FASHION_CPU_PLAN = _plan(_FASHION_RADII, _BRIEF_CW, 1.5, 500, "brief")
_CIFAR_CPU_PLAN = _plan(_CIFAR_RADII, _BRIEF_CW, 0.5, 500, "brief")

FASHION_CPU = Scale(
    name="cpu",
    dataset="fashion-mnist",
    network="small-cnn",
    classifier=replace(_QUICK_SLOWER, epochs=16, augmentation=_FLIPS),
    offline=replace(_QUICK_SLOWER, epochs=4, augmentation=_FLIPS),
    autoencoder=replace(_QUICK, epochs=4, optimizer=_STEADY),
    purifier=replace(_QUICK_SLOWER, epochs=2),
    pixelcnn=replace(_QUICK_SLOWER, epochs=1, batch_size=32),
    preset="small",
    robust=(_warm_start(0.1, 15),),
    pairs_images=10_000,
    pairs_attacks=brief_pairs(),
    pixelcnn_images=10_000,
    stand_in=replace(_QUICK_SLOWER, epochs=1, batch_size=64),
    stand_in_images=500,
    held_out=HeldOutAttack(attack=Pgd(steps=10, loss="margin"), ball=Linf(0.1)),
    evaluation=_FASHION_CPU_PLAN,
    slow=replace(_FASHION_CPU_PLAN, images=100, suite="glimpse"),
)

FASHION_PAPER = Scale(
    name="paper",
    dataset="fashion-mnist",
    network="resnet50",
    classifier=PAPER_FIT,
    offline=PAPER_FIT,
    autoencoder=PAPER_FIT,
    purifier=replace(PAPER_FIT, epochs=50, augmentation=Augmentation()),
    pixelcnn=replace(PAPER_FIT, epochs=60, augmentation=Augmentation(), averaging=0.9995),
    preset="paper",
    robust=(_pgd_training(25 / 255, 10),),
    pairs_attacks=published_pairs(),
    stand_in=replace(PAPER_FIT, epochs=5, augmentation=Augmentation()),
    stand_in_images=5000,
    held_out=HeldOutAttack(attack=Pgd(steps=10, loss="margin"), ball=Linf(0.1)),
    evaluation=_plan(_FASHION_RADII, _PAPER_CW, 1.5, 10_000, "standard"),
    slow=_plan(_FASHION_RADII, _PAPER_CW, 1.5, 1000, "fast"),
)

CIFAR_CPU = replace(
    FASHION_CPU,
    dataset="cifar10",
    classifier=replace(_QUICK_SLOWER, epochs=10, augmentation=_FLIPS),
    offline=replace(_QUICK_SLOWER, epochs=4, augmentation=_FLIPS),
    robust=(_warm_start(8 / 255, 10),),
    pairs_images=10_000,
    pixelcnn_images=5000,
    held_out=HeldOutAttack(attack=Pgd(steps=10, loss="margin"), ball=Linf(8 / 255)),
    evaluation=_CIFAR_CPU_PLAN,
    slow=replace(_CIFAR_CPU_PLAN, images=50, suite="glimpse"),
)

_REGULARISED = replace(PAPER_FIT, optimizer=replace(PAPER_FIT.optimizer, weight_decay=1e-4))

CIFAR_PAPER = replace(
    FASHION_PAPER,
    dataset="cifar10",
    classifier=_REGULARISED,
    offline=_REGULARISED,
    autoencoder=_REGULARISED,
    robust=(_pgd_training(8 / 255, 10),),
    held_out=HeldOutAttack(attack=Pgd(steps=10, loss="margin"), ball=Linf(8 / 255)),
    evaluation=_plan(_CIFAR_RADII, _PAPER_CW, 0.5, 10_000, "standard"),
    slow=_plan(_CIFAR_RADII, _PAPER_CW, 0.5, 500, "fast"),
)

_DESK_OPTIMIZER = OptimizerConfig(name="sgd", learning_rate=0.2, weight_decay=5e-4, schedule="one-cycle")
_DESK_FIT = FitConfig(
    epochs=20, batch_size=256, optimizer=_DESK_OPTIMIZER, averaging=0.998, augmentation=_CROPS, validate_every=2
)
_WHITENED_FIT = replace(
    _DESK_FIT,
    epochs=12,
    optimizer=replace(_DESK_OPTIMIZER, learning_rate=0.4, momentum=0.85, weight_decay=1.25e-3, vector_rate=64.0),
    averaging=0.99,
    augmentation=Augmentation(crop_padding=2, crop_border="mirrored", horizontal_flip=True),
)
"""Larger steps than other networks bear, as `WhitenedCnn` allows them."""
_FASHION_CROPS = Augmentation(crop_padding=2, horizontal_flip=True)
_FASHION_DESK_PLAN = _plan(_FASHION_RADII, _BRIEF_CW, 1.5, 1000, "fast")
_CIFAR_DESK_PLAN = _plan(_CIFAR_RADII, _BRIEF_CW, 0.5, 1000, "fast")

FASHION_DESK = replace(
    FASHION_CPU,
    name="desk",
    network="residual-cnn-128",
    classifier=replace(_DESK_FIT, augmentation=_FASHION_CROPS),
    label_smoothing=0.1,
    offline=replace(_DESK_FIT, epochs=6, augmentation=_FASHION_CROPS),
    autoencoder=replace(_QUICK, epochs=20, optimizer=_STEADY),
    purifier=replace(_QUICK, epochs=5, optimizer=_STEADY, augmentation=Augmentation()),
    comdefend=replace(_QUICK_SLOWER, epochs=3, batch_size=64),
    magnet=replace(_QUICK, epochs=100, optimizer=_STEADY, batch_size=256, augmentation=Augmentation()),
    pixelcnn=replace(_QUICK_SLOWER, epochs=4, batch_size=32),
    preset="paper",
    robust=(
        Stage(
            name="pgd",
            objective=Online(epsilon=0.1, warm_up=0.1, attack=Pgd(steps=4, momentum=0, stop_when_fooled=False)),
            score="robust",
            fit=replace(_DESK_FIT, epochs=20, averaging=0.999, augmentation=_FASHION_CROPS),
        ),
    ),
    pairs_images=20_000,
    pairs_attacks=published_pairs(),
    pixelcnn_images=20_000,
    stand_in=replace(_QUICK_SLOWER, epochs=5),
    stand_in_images=5000,
    evaluation=_FASHION_DESK_PLAN,
    slow=replace(_FASHION_DESK_PLAN, images=300, suite="glimpse"),
)

CIFAR_DESK = replace(
    FASHION_DESK,
    dataset="cifar10",
    network="whitened-cnn",
    robust_network="residual-cnn",
    classifier=_WHITENED_FIT,
    target_classifier=_DESK_FIT,
    label_smoothing=0.2,
    offline=replace(_DESK_FIT, epochs=6),
    robust=(
        Stage(
            name="pgd3",
            objective=Online(epsilon=8 / 255, warm_up=0.1, attack=Pgd(steps=3, momentum=0, stop_when_fooled=False)),
            score="robust",
            fit=replace(_DESK_FIT, epochs=25, averaging=0.999),
        ),
    ),
    held_out=HeldOutAttack(attack=Pgd(steps=10, loss="margin"), ball=Linf(8 / 255)),
    pixelcnn=replace(_QUICK_SLOWER, epochs=10, batch_size=32),
    pixelcnn_preset="small",
    pixelcnn_images=None,
    evaluation=_CIFAR_DESK_PLAN,
    slow=replace(_CIFAR_DESK_PLAN, images=300, suite="glimpse"),
)

_RENTAL_OPTIMIZER = OptimizerConfig(name="adamw", learning_rate=3e-3, weight_decay=5e-4, schedule="one-cycle")
_RENTAL_FIT = FitConfig(
    epochs=15, batch_size=512, optimizer=_RENTAL_OPTIMIZER, averaging=0.998, augmentation=_FASHION_CROPS
)
_RENTAL_PURIFIER = replace(_RENTAL_FIT, epochs=50, augmentation=Augmentation())


def _rented_pgd_training(epsilon: float, augmentation: Augmentation) -> tuple[Stage, ...]:
    attack = Pgd(steps=10, momentum=0, stop_when_fooled=False)
    return (
        Stage(
            name="pgd",
            objective=Online(epsilon=epsilon, warm_up=0.1, attack=attack),
            score="robust",
            fit=replace(_RENTAL_FIT, epochs=8, augmentation=augmentation, validate_every=2),
        ),
    )


FASHION_RENTAL = replace(
    FASHION_PAPER,
    name="rental",
    classifier=_RENTAL_FIT,
    offline=replace(_RENTAL_FIT, epochs=10),
    autoencoder=_RENTAL_FIT,
    purifier=_RENTAL_PURIFIER,
    pixelcnn=replace(_RENTAL_PURIFIER, epochs=20),
    robust=_rented_pgd_training(25 / 255, _FASHION_CROPS),
    pairs_images=5000,
    pairs_attacks=published_pairs(cw_steps=40),
    stand_in=replace(_RENTAL_PURIFIER, epochs=5, batch_size=128),
    stand_in_images=1024,
    evaluation=_FASHION_DESK_PLAN,
    slow=replace(_FASHION_DESK_PLAN, images=200, suite="glimpse"),
)

_RENTAL_CIFAR_FIT = replace(_RENTAL_FIT, augmentation=_CROPS)

CIFAR_RENTAL = replace(
    FASHION_RENTAL,
    dataset="cifar10",
    classifier=_RENTAL_CIFAR_FIT,
    offline=replace(_RENTAL_CIFAR_FIT, epochs=10),
    autoencoder=_RENTAL_CIFAR_FIT,
    robust=_rented_pgd_training(8 / 255, _CROPS),
    held_out=CIFAR_PAPER.held_out,
    evaluation=_CIFAR_DESK_PLAN,
    slow=replace(_CIFAR_DESK_PLAN, images=100, suite="glimpse"),
)

_TINY_FIT = FitConfig(epochs=1, batch_size=50, optimizer=QUICK_OPTIMIZER, checkpoint_every=2)
_TINY_CW: dict[str, Attack] = {
    "cw": CarliniWagner(steps=4, search_steps=1),
    "cw-confident": CarliniWagner(steps=4, search_steps=1, confidence=50, best_effort=True),
}
_TINY_PLAN = _plan(_FASHION_RADII, _TINY_CW, 1.5, 12, "glimpse")

FASHION_TINY = Scale(
    name="tiny",
    dataset="fashion-mnist",
    network="linear",
    classifier=_TINY_FIT,
    offline=_TINY_FIT,
    autoencoder=_TINY_FIT,
    purifier=_TINY_FIT,
    pixelcnn=_TINY_FIT,
    preset="small",
    robust=(Stage(name="warm-start", objective=WarmStart(epsilon=0.1), score="robust", fit=_TINY_FIT),),
    pairs_images=50,
    pairs_attacks=brief_pairs(),
    pixelcnn_images=50,
    stand_in=replace(_TINY_FIT, batch_size=4),
    stand_in_images=4,
    held_out=HeldOutAttack(attack=Pgd(steps=2), ball=Linf(0.1), images=20),
    evaluation=_TINY_PLAN,
    slow=replace(_TINY_PLAN, images=2),
)

CIFAR_TINY = replace(
    FASHION_TINY,
    dataset="cifar10",
    evaluation=replace(_TINY_PLAN, linf=_CIFAR_RADII, l2=(L2(0.5),)),
    slow=replace(_TINY_PLAN, linf=_CIFAR_RADII, l2=(L2(0.5),), images=2),
)

SCALES = (
    FASHION_CPU,
    FASHION_DESK,
    FASHION_PAPER,
    FASHION_RENTAL,
    CIFAR_CPU,
    CIFAR_DESK,
    CIFAR_PAPER,
    CIFAR_RENTAL,
    FASHION_TINY,
    CIFAR_TINY,
)
"""Every scale; tiny tries the machinery in seconds, and its numbers mean nothing."""

ROWS = tuple(recipe for scale in SCALES for recipe in rows_of(scale))


def rows_at(scale: str, dataset: str) -> dict[str, Recipe]:
    """Return the recipes of a scale on a dataset, by row.

    Raises
    ------
    ValueError
        For an unknown dataset or scale.
    """
    check_name(dataset, {one.dataset for one in SCALES}, "dataset")
    check_name(scale, {one.name for one in SCALES if one.dataset == dataset}, "scale")
    start = f"{dataset}/{scale}/"
    return {one.name.removeprefix(start): one for one in ROWS if one.name.startswith(start)}
