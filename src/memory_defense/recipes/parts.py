"""Values that several recipes share. Radii and steps are in pixel units of [0, 1]."""

from __future__ import annotations

import math

from memory_defense.attacks import PAPER_BIM, PAPER_CW, PAPER_FGSM, PAPER_PGD, CarliniWagner, Ddn, Pgd
from memory_defense.contracts import Attack
from memory_defense.data.augmentation import Augmentation
from memory_defense.recipes.recipe import EvaluationPlan
from memory_defense.threat import L2, Linf
from memory_defense.training.fit import FitConfig
from memory_defense.training.optimizer import OptimizerConfig


def batch_size(images: int, most: int = 128) -> int:
    """Return a batch size for so many images: at most an eighth of them, and at least 2 (or all, if fewer)."""
    return min(most, max(min(2, images), images // 8))


def epochs_for(images: int, seen: int, *, least: int, most: int) -> int:
    """Return the epochs in which `images` training images are seen about `seen` times in all, within two limits."""
    return min(most, max(least, math.ceil(seen / images)))


PAPER_AUGMENTATION = Augmentation(crop_padding=4, horizontal_flip=True, erase_probability=0.5)
"""Section 3.3 without vertical flips, which turn Fashion-MNIST's shoes and shirts into other images."""

PAPER_FIT = FitConfig(
    epochs=100,
    optimizer=OptimizerConfig(name="adam", learning_rate=1e-4),
    augmentation=PAPER_AUGMENTATION,
)
"""Section 4: Adam at 1e-4. Epochs and batch size are not given there."""

CLASSIFIER_B_WEIGHT = 100.0
"""Factor of classifier-B's loss beside the reconstruction error, which is a sum over pixels and drowns a factor of
1: classifier-B then still reads the image where it should read the slot."""

QUICK_OPTIMIZER = OptimizerConfig(name="adamw", learning_rate=5e-3, weight_decay=5e-4, schedule="one-cycle")

STRONG_OPTIMIZER = OptimizerConfig(name="sgd", learning_rate=0.1, weight_decay=5e-4, schedule="one-cycle")

CURVE_RADII = (4 / 255, 16 / 255, 51 / 255, 0.5)

PAPER_ATTACKS: dict[str, Attack] = {"fgsm": PAPER_FGSM, "bim": PAPER_BIM, "pgd": PAPER_PGD}
"""The L-inf attacks of section 4 with the paper's settings."""


def full_plan(radii: tuple[float, ...], l2_radius: float) -> EvaluationPlan:
    """Return the plan of the paper's scale: all 10,000 test images and the paper's attacks, and sound ones."""
    return EvaluationPlan(
        images=10_000,
        linf=tuple(Linf(radius) for radius in radii),
        attacks=PAPER_ATTACKS,
        white_box={"pgd-margin": Pgd(steps=100, loss="margin", restarts=2)},
        l2=(L2(l2_radius),),
        minimum_norm={"cw": CarliniWagner(), "cw-paper": PAPER_CW},
        suite="standard",
        curve=Pgd(steps=20),
        curve_balls=tuple(Linf(radius) for radius in CURVE_RADII),
    )


def quick_plan(radii: tuple[float, ...], l2_radius: float) -> EvaluationPlan:
    """Return a plan that two processor cores finish in a few minutes on a small network."""
    return EvaluationPlan(
        images=1000,
        linf=tuple(Linf(radius) for radius in radii),
        attacks=PAPER_ATTACKS,
        white_box={"pgd-margin": Pgd(steps=20, loss="margin")},
        l2=(L2(l2_radius),),
        minimum_norm={"cw": CarliniWagner(steps=10, search_steps=2), "ddn": Ddn(steps=40)},
        suite="brief",
        curve=Pgd(steps=5),
        curve_balls=tuple(Linf(radius) for radius in CURVE_RADII),
    )
