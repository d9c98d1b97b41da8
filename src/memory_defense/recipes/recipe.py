"""A recipe: everything that decides a result, as one value; training and evaluation only read it.

A recipe's hash covers the repr of its fields, so a new field or default gives every recipe another hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from memory_defense.contracts import Attack, Ball, Objective
from memory_defense.model_spec import ModelSpec
from memory_defense.training.fit import FitConfig


@dataclass(frozen=True, kw_only=True)
class OfflineSet:
    """Adversarial images made once, against the classifier as the previous stage left it (section 3.3)."""

    attack: Attack
    ball: Ball
    successful_only: bool = False
    """Keep only images that fool that classifier."""


@dataclass(frozen=True, kw_only=True)
class OfflinePairs:
    """Adversarial images made once against the system's classifier, each with its clean image beside it."""

    attacks: tuple[tuple[Attack, Ball], ...]
    """Each in turn attacks every image."""
    images: int | None = None
    """Number of training images used, from the first; None uses all."""
    with_clean: bool = False
    """Add pairs of a clean image and itself."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One call of the training loop."""

    name: str
    part: str = "selector"
    """Trained part: ``selector`` is the classifier alone; any other name labels a stage on the whole system."""
    objective: Objective
    fit: FitConfig
    score: Literal["clean", "robust", "certified", "objective"] = "clean"
    """Held-out score by which the best weights are chosen; ``certified`` is by intervals, in the ball of
    `Recipe.held_out`."""
    offline: OfflineSet | OfflinePairs | None = None
    """Adversarial images joined to the clean ones, half and half; or pairs in their place."""
    images: int | None = None
    """Number of training images used, from the first; None uses all."""
    releases_classifier: bool = False
    """Train the classifier along, in a stage of another part that would leave it alone."""


@dataclass(frozen=True, kw_only=True)
class HeldOutAttack:
    """The attack behind the score 'robust'; its ball and images are those of the score 'certified', too."""

    attack: Attack
    ball: Ball
    images: int = 1000


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """The attacks of an evaluation, with the adversary's knowledge and the balls."""

    images: int
    """Number of test images, from the start of the test set."""
    linf: tuple[Ball, ...]
    """L-inf balls; every attack runs with every knowledge in each."""
    attacks: Mapping[str, Attack]
    """L-inf attacks by their name in tables."""
    white_box: Mapping[str, Attack] = field(default_factory=dict[str, Attack])
    """More L-inf attacks, run only with knowledge that decides as the defense does."""
    l2: tuple[Ball, ...] = ()
    minimum_norm: Mapping[str, Attack] = field(default_factory=dict[str, Attack])
    """L2 attacks that look for the smallest perturbation."""
    unbounded: Mapping[str, Attack] = field(default_factory=dict[str, Attack])
    """Minimum-norm L2 attacks that may go anywhere in [0, 1], as the paper's CW; no cascade follows them there."""
    knowledge: tuple[str, ...] | None = None
    """Names of the surrogates to attack; None takes all that the defense publishes."""
    suite: str | None = None
    """Name in `attacks.suites` of the attacks that go on, in every ball above, against what is left standing."""
    curve: Attack | None = None
    curve_balls: tuple[Ball, ...] = ()
    """Radii of the figure of accuracy against epsilon."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One row of a table: a model, how it is trained and how it is judged.

    Raises
    ------
    ValueError
        If a stage of the classifier comes after a stage of another part.
    """

    name: str
    summary: str
    model: ModelSpec
    undefended: Stage | None = None
    """Trains the plain net whose adversarial images are tried on the defense (transfer); None for no transfer."""
    undefended_network: str = ""
    stages: tuple[Stage, ...]
    """Training stages in order; those of the classifier come first."""
    held_out: HeldOutAttack
    evaluation: EvaluationPlan

    def __post_init__(self) -> None:
        parts = [stage.part == "selector" for stage in self.stages]
        if sorted(parts, reverse=True) != parts:
            raise ValueError(f"{self.name} trains its classifier after other parts; put those stages first")

    @property
    def sha256(self) -> str:
        """Hash of the repr of all fields."""
        return hashlib.sha256(repr(self).encode()).hexdigest()

    @property
    def training_sha256(self) -> str:
        """Hash of what decides the weights: all fields but the plan by which they are judged, and the summary."""
        decides = (self.name, self.model, self.undefended, self.undefended_network, self.stages, self.held_out)
        return hashlib.sha256(repr(decides).encode()).hexdigest()
