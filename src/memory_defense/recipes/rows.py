"""One recipe for every row of the paper's tables, at one scale: the same classifiers, data and attacks for all.

The classifier of a purifier is the benign one of its table's first row, and Memory Defense's selector is the row
trained on adversarial images made once; runs that share a directory train each of them once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

from memory_defense.attacks import PAPER_PGD, CarliniWagner, Fgsm, RandFgsm
from memory_defense.contracts import Attack, Ball, Objective
from memory_defense.data.augmentation import Augmentation
from memory_defense.defenses.autoencoder import AutoencoderObjective, MemAeObjective
from memory_defense.defenses.comdefend import ComDefendObjective
from memory_defense.defenses.defense_vae import DefenseVaeEndToEnd, DefenseVaeObjective
from memory_defense.defenses.magnet import MagNetObjective
from memory_defense.defenses.memory.objective import MemoryObjective
from memory_defense.defenses.pixeldefend import PixelCnnObjective, StandInObjective
from memory_defense.recipes.parts import CLASSIFIER_B_WEIGHT
from memory_defense.recipes.recipe import (
    EvaluationPlan,
    HeldOutAttack,
    ModelSpec,
    OfflinePairs,
    OfflineSet,
    Recipe,
    Stage,
)
from memory_defense.threat import L2, Linf
from memory_defense.training.adversarial import Benign
from memory_defense.training.fit import FitConfig

_PAIR_RADII = (0.2, 0.25, 0.3, 0.35)
"""Radii of Defense-VAE's training attacks (Li & Ji 2019)."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes of networks and lengths of training on one dataset."""

    name: str
    """cpu, paper or tiny; the middle of a recipe's name."""
    dataset: str
    network: str
    """The classifier of every row, a name of `networks.classifiers.CLASSIFIERS`."""
    robust_network: str = field(default="", kw_only=True)
    """That of the adversarially trained rows, where it is another."""
    target_classifier: FitConfig | None = field(default=None, kw_only=True)
    """Training of classifier-B alone, where it is another than `classifier`."""
    classifier: FitConfig
    label_smoothing: float = 0.0
    """Of both stages of the benign and the offline classifier."""
    offline: FitConfig
    """Training of the classifier's second stage, on clean images and those made once."""
    autoencoder: FitConfig
    purifier: FitConfig
    """Training of ComDefend, MagNet and Defense-VAE, where the next two say nothing else."""
    comdefend: FitConfig | None = None
    magnet: FitConfig | None = None
    pixelcnn: FitConfig
    preset: str = "paper"
    """Preset of the purifiers' networks."""
    pixelcnn_preset: str | None = None
    """Preset of PixelDefend's network, where it is another than `preset`."""
    robust: tuple[Stage, ...] = ()
    """Stages of adversarial training, for the classifier of ``resnet-online`` and of the sound system."""
    pairs_images: int | None = None
    """Number of training images of which Defense-VAE's pairs are made, each by every attack."""
    pairs_attacks: tuple[tuple[Attack, Ball], ...]
    pixelcnn_images: int | None = None
    """Number of training images of PixelDefend's network."""
    stand_in: FitConfig
    """Training of the network that imitates PixelDefend for an attack."""
    stand_in_images: int | None = None
    held_out: HeldOutAttack
    evaluation: EvaluationPlan
    slow: EvaluationPlan
    """Plan for PixelDefend, each of whose passes costs as many network passes as the image has pixels."""


def published_pairs(cw_steps: int = 100) -> tuple[tuple[Attack, Ball], ...]:
    """Return Defense-VAE's training attacks: FGSM and RAND+FGSM at four radii, and CW of four strengths.

    The published CW sets differ by the attack's learning rate alone and know no radius.
    """
    gradient = [(attack, Linf(radius)) for radius in _PAIR_RADII for attack in (Fgsm(), RandFgsm())]
    cw = [
        (
            CarliniWagner(
                steps=cw_steps, search_steps=1, initial_const=100.0, learning_rate=rate / 100, best_effort=True
            ),
            L2(100.0),
        )
        for rate in (6, 8, 10, 12)
    ]
    return (*gradient, *cw)


def brief_pairs() -> tuple[tuple[Attack, Ball], ...]:
    """Return Defense-VAE's gradient attacks at two of the four radii: what two processor cores make in a minute."""
    return tuple((attack, Linf(radius)) for radius in (0.2, 0.3) for attack in (Fgsm(), RandFgsm()))


def rows_of(scale: Scale) -> tuple[Recipe, ...]:
    """Return the recipe of every row at this scale; names are ``dataset/scale/row``."""
    plain = Benign(label_smoothing=scale.label_smoothing)
    benign = Stage(name="benign", objective=plain, fit=scale.classifier)
    offline = Stage(
        name="offline",
        objective=plain,
        fit=scale.offline,
        offline=OfflineSet(attack=PAPER_PGD, ball=Linf(0.03)),
    )
    memory = Stage(
        name="joint",
        part="autoencoder",
        objective=MemoryObjective(cross_entropy=CLASSIFIER_B_WEIGHT),
        score="objective",
        fit=scale.autoencoder,
    )
    pairs = OfflinePairs(attacks=scale.pairs_attacks, images=scale.pairs_images)
    reconstruct = Stage(
        name="reconstruction",
        part="purifier",
        objective=DefenseVaeObjective(),
        score="objective",
        fit=replace(scale.purifier, augmentation=Augmentation()),
        offline=pairs,
    )
    fine_tune = replace(reconstruct, name="end-to-end", objective=DefenseVaeEndToEnd(), releases_classifier=True)
    other = replace(benign, name="other")
    row = partial(_row, scale)
    rows = (
        row("resnet-benign", "A benign classifier", "undefended", benign),
        row("resnet-offline", "PGD images made once", "undefended", benign, offline),
        row("resnet-online", "Adversarial training", "undefended", *scale.robust, network=scale.robust_network),
        row(
            "pixeldefend",
            "PixelDefend before the benign classifier",
            "pixeldefend",
            benign,
            _purifier("pixelcnn", PixelCnnObjective(), scale.pixelcnn, scale.pixelcnn_images),
            _purifier("stand-in", StandInObjective(), scale.stand_in, scale.stand_in_images),
            preset=scale.pixelcnn_preset or scale.preset,
        ),
        row(
            "comdefend",
            "ComDefend before the benign classifier",
            "comdefend",
            benign,
            _purifier("compression", ComDefendObjective(), scale.comdefend or scale.purifier),
        ),
        row(
            "magnet",
            "MagNet before the benign classifier",
            "magnet",
            benign,
            _purifier("autoencoders", MagNetObjective(), scale.magnet or scale.purifier),
        ),
        row("defense-vae-rec", "Defense-VAE, reconstruction", "defense-vae", benign, reconstruct),
        row("defense-vae-e2e", "Defense-VAE, end to end", "defense-vae", benign, reconstruct, fine_tune),
        row(
            "target-classifier",
            "Classifier-B alone",
            "target-classifier",
            replace(benign, part="classifier", fit=scale.target_classifier or scale.classifier),
        ),
        row(
            "autoencoder",
            "Autoencoder and classifier-B, no memory",
            "autoencoder",
            replace(memory, objective=AutoencoderObjective(cross_entropy=CLASSIFIER_B_WEIGHT)),
        ),
        row(
            "memae",
            "Memory without slots, no selector",
            "memae",
            replace(memory, objective=MemAeObjective(cross_entropy=CLASSIFIER_B_WEIGHT)),
        ),
        row(
            "memory-defense",
            "The paper's system: selector trained on PGD images made once",
            "memory-defense",
            *(benign, offline, memory),
            undefended=other,
        ),
        row(
            "memory-defense-reference",
            "The same with the released code's constants",
            "memory-defense",
            *(benign, offline, memory),
            preset="reference",
            undefended=other,
        ),
        row(
            "memory-defense-sound",
            "Sound Memory Defense: adversarially trained selector",
            "memory-defense",
            *(*scale.robust, memory),
            preset="sound",
            undefended=other,
            network=scale.robust_network,
        ),
    )
    return tuple(one for one in rows if one.stages)


def _purifier(name: str, objective: Objective, fit: FitConfig, images: int | None = None) -> Stage:
    return Stage(name=name, part="purifier", objective=objective, score="objective", fit=fit, images=images)


_OF_PURIFIERS = ("comdefend", "defense-vae")
_WITHOUT_CLASSIFIER = ("target-classifier", "autoencoder", "memae")


def _row(
    scale: Scale,
    key: str,
    summary: str,
    defense: str,
    *stages: Stage,
    preset: str = "paper",
    undefended: Stage | None = None,
    network: str = "",
) -> Recipe:
    return Recipe(
        name=f"{scale.dataset}/{scale.name}/{key}",
        summary=summary,
        model=ModelSpec(
            dataset=scale.dataset,
            defense=defense,
            preset=scale.preset if defense in _OF_PURIFIERS else preset,
            selector="" if defense in _WITHOUT_CLASSIFIER else network or scale.network,
        ),
        undefended=undefended,
        undefended_network=scale.network if undefended is not None else "",
        stages=stages,
        held_out=scale.held_out,
        evaluation=scale.slow if defense == "pixeldefend" else scale.evaluation,
    )
