"""Denoised smoothing: a denoiser, with or without a memory, before a benign classifier that stays as it is.

Rows beside each other have the same classifier, trained alike; runs that share a directory train it once.
"""

from __future__ import annotations

from dataclasses import replace

from memory_defense.attacks import Pgd
from memory_defense.data.augmentation import Augmentation
from memory_defense.defenses.denoised import DenoiserObjective
from memory_defense.recipes.fashion_mnist import DEMO_PAPER
from memory_defense.recipes.parts import QUICK_OPTIMIZER
from memory_defense.recipes.recipe import EvaluationPlan, ModelSpec, Recipe, Stage
from memory_defense.recipes.scales import rows_at
from memory_defense.threat import L2
from memory_defense.training.fit import FitConfig
from memory_defense.training.noise import NoiseTraining

SIGMA = 0.25
"""Of the noise, for radii up to 0.5."""
SLOTS = 0.1
"""Factor of the slots' cross-entropy beside the share of the noise that is left."""
CONSISTENCY = 10.0
"""Factor by which the answers to two noisy copies of an image are drawn together (Jeong & Shin 2020)."""
OPTIMIZER = replace(QUICK_OPTIMIZER, learning_rate=2e-3)
"""Of every denoiser."""

_FASHION_FIT = FitConfig(
    epochs=5,
    optimizer=OPTIMIZER,
    averaging=0.998,
    augmentation=Augmentation(horizontal_flip=True),
)
_CIFAR_CROPS = Augmentation(crop_padding=2, crop_border="mirrored", horizontal_flip=True)
_CIFAR_FIT = replace(_FASHION_FIT, epochs=6, augmentation=_CIFAR_CROPS)


def denoising(sigma: float, first: FitConfig, then: FitConfig | None, *, memory: bool) -> tuple[Stage, ...]:
    """Return the stages of a denoiser: as a black box, and then, unless `then` is None, through the classifier.

    Parameters
    ----------
    sigma
        Standard deviation of the noise, in pixel units.
    first, then
        Length and manner of the two stages.
    memory
        Whether the denoiser has a memory, whose slots the first stage teaches.
    """
    black_box = DenoiserObjective(sigma=sigma, slots=SLOTS if memory else 0.0)
    stages = [Stage(name="denoise", part="denoiser", objective=black_box, score="objective", fit=first)]
    if then is not None:
        through = NoiseTraining(sigma=sigma, copies=2, consistency=CONSISTENCY, entropy=0.5)
        stages.append(Stage(name="through", part="denoiser", objective=through, score="objective", fit=then))
    return tuple(stages)


def _before(benign: Recipe, preset: str, first: FitConfig, then: FitConfig, scale: str = "") -> tuple[Recipe, ...]:
    """Return the four recipes in front of the classifier that a recipe trains first."""
    dataset, attacked = benign.model.dataset, 1000 if not scale else benign.evaluation.images
    return tuple(
        Recipe(
            name=f"{dataset}/denoised{scale}{'-memory' * memory}{'-black-box' * black_box}",
            summary=f"A denoiser{' with a memory' * memory} before a frozen benign classifier, to be smoothed with "
            f"noise of {SIGMA:g}, " + ("which is never asked" if black_box else "trained through it"),
            model=ModelSpec(
                dataset=dataset,
                defense="denoised-memory" if memory else "denoised",
                preset=preset,
                selector=benign.model.selector,
            ),
            stages=(benign.stages[0], *denoising(SIGMA, first, None if black_box else then, memory=memory)),
            held_out=benign.held_out,
            evaluation=EvaluationPlan(
                images=attacked,
                linf=benign.evaluation.linf[:1],
                attacks={"pgd": Pgd(steps=20)},
                l2=(L2(0.5), L2(1.0)),
                suite="glimpse" if scale else "brief",
            ),
        )
        for memory in (False, True)
        for black_box in (False, True)
    )


_TINY = replace(_FASHION_FIT, epochs=1, batch_size=50, averaging=0.0, checkpoint_every=2)

DENOISED = (
    *_before(DEMO_PAPER, "small", _FASHION_FIT, replace(_FASHION_FIT, epochs=4)),
    *_before(rows_at("desk", "cifar10")["resnet-benign"], "small", _CIFAR_FIT, replace(_CIFAR_FIT, epochs=4)),
    *_before(rows_at("tiny", "fashion-mnist")["resnet-benign"], "tiny", _TINY, _TINY, "-tiny"),
)
"""Without a memory and with one, through the classifier and as a black box; tiny ones to try the machinery."""
