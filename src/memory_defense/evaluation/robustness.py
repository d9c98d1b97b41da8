"""Robust accuracy: every attack with every knowledge, judged by the true defense, worst case image by image."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

import torch

from memory_defense.checks import check_images, check_labels, nearest
from memory_defense.contracts import (
    Attack,
    Ball,
    Binding,
    Classifier,
    Defense,
    Images,
    Labels,
    PerImage,
    Progress,
    Rows,
)
from memory_defense.evaluation.metrics import accuracy, predict
from memory_defense.evaluation.record import Accuracy, AttackResult, Parameter, WorstCase
from memory_defense.randomness import ImageDraws
from memory_defense.wrappers import CountingPasses, frozen


@dataclass(frozen=True, kw_only=True)
class Case:
    """One attack, what its maker knows, and the ball it must stay in."""

    name: str
    """The attack's name in tables."""
    attack: Attack
    knowledge: str
    """Name of one of the defense's surrogates."""
    ball: Ball
    purpose: Literal["table", "curve"] = "table"
    """A curve case is a point of accuracy against epsilon, and stays out of the tables."""


@dataclass(frozen=True)
class Outcome:
    """What one case did to every image."""

    case: Case
    robust: PerImage
    """(B,) bool: still classified correctly (images misclassified when clean are not robust)."""
    distance: PerImage
    """(B,) distance of the returned images to the clean ones, in the ball's norm."""
    result: AttackResult


@dataclass(frozen=True)
class Broken:
    """The images that some case broke inside one ball, as first found."""

    ball: Ball
    robust: PerImage
    """(B,) bool: no case broke it."""
    images: Images
    """The breaking image, or the clean one where there is none."""
    breaker: Labels
    """(B,) index of the first outcome that broke it, -1 where none did."""


@dataclass(frozen=True)
class Evaluation:
    """All outcomes on one set of images."""

    images: Images
    labels: Labels
    correct: PerImage
    """(B,) bool: the clean verdicts."""
    outcomes: tuple[Outcome, ...]
    broken: tuple[Broken, ...]

    @property
    def clean(self) -> Accuracy:
        """Clean accuracy."""
        return accuracy(self.correct)

    def worst_cases(self) -> tuple[WorstCase, ...]:
        """Return the worst case of every ball."""
        return tuple(
            WorstCase(norm=one.ball.norm, epsilon=one.ball.epsilon, **accuracy(one.robust).model_dump())
            for one in self.broken
        )


def evaluate(
    defense: Defense,
    images: Images,
    labels: Labels,
    cases: Sequence[Case],
    *,
    seed: int,
    ids: Rows | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Attack the correctly classified images with every case and let the true defense judge what comes back.

    Parameters
    ----------
    defense
        Judged in eval mode; its mode and gradients are as before afterwards.
    images, labels
        (B, C, H, W) in [0, 1] and (B,).
    cases
        An image broken inside a smaller ball of the same norm counts as broken in every larger one.
    seed, ids
        Of the attacks' draws; `ids` (B,) are positions in the dataset, 0..B-1 by default.
    progress
        Told after each case.

    Raises
    ------
    ValueError
        For bad images or labels, a knowledge the defense does not publish, or an attack that returns NaN or
        leaves its ball.
    """
    check_images(images)
    check_labels(labels, len(images))
    surrogates = defense.surrogates()
    for case in cases:
        if case.knowledge not in surrogates:
            raise nearest(case.knowledge, surrogates, "knowledge")
    numbers = torch.arange(len(images)) if ids is None else ids
    with frozen(defense):
        correct = predict(defense, images) == labels
        judge = _Judge(defense, images, labels, correct, seed, numbers)
        if progress:
            progress.begin("attacking", len(cases))
        outcomes: list[Outcome] = []
        for case in cases:
            outcomes.append(judge.run(case, surrogates[case.knowledge]))
            if progress:
                result = outcomes[-1].result
                progress.advance(1, f"{case.name}, {case.knowledge}: {100 * result.accuracy:.1f} %")
    return Evaluation(images, labels, correct, tuple(outcomes), judge.worst(cases))


class _Judge:
    """Runs cases against one defense and remembers what broke each image in each ball."""

    def __init__(
        self, defense: Defense, images: Images, labels: Labels, correct: PerImage, seed: int, ids: Rows
    ) -> None:
        self.defense, self.images, self.labels, self.correct = defense, images, labels, correct
        self.seed, self.ids = seed, ids
        self.rows = correct.nonzero().squeeze(1)
        self.found: list[tuple[Ball, Rows, Images, PerImage]] = []

    def run(self, case: Case, surrogate: Classifier | Binding) -> Outcome:
        clean, labels = self.images[self.rows], self.labels[self.rows]
        transfers = case.knowledge in getattr(self.defense, "transfer_knowledge", ())
        attack = case.attack.for_transfer() if transfers else case.attack
        draws = ImageDraws.of(self.seed, f"{case.name} {case.knowledge}", self.ids[self.rows], clean.device)
        started = time.perf_counter()
        bound = surrogate.bind(clean) if isinstance(surrogate, Binding) else surrogate
        counted = CountingPasses(bound)
        attacked = attack(counted, clean, labels, case.ball, draws) if len(clean) else clean
        seconds = time.perf_counter() - started
        _verify(case, attacked, clean)
        fooled = predict(self.defense, attacked) != labels if len(clean) else labels.bool()
        self.found.append(
            (case.ball, self.rows[fooled], attacked[fooled], case.ball.distance(attacked, clean)[fooled])
        )
        robust = self.correct.clone()
        robust[self.rows[fooled]] = False
        distance = torch.zeros(len(self.images), device=clean.device)
        distance[self.rows] = case.ball.distance(attacked, clean)
        result = AttackResult(
            attack=case.name,
            knowledge=case.knowledge,
            norm=case.ball.norm,
            epsilon=case.ball.epsilon,
            median_distance=float(distance[self.rows[fooled]].median()) if fooled.any() else None,
            forward_passes=counted.passes.forward,
            backward_passes=counted.passes.backward,
            seconds=round(seconds, 3),
            parameters=_parameters(attack, case.purpose),
            **accuracy(robust).model_dump(),
        )
        return Outcome(case, robust, distance, result)

    def worst(self, cases: Sequence[Case]) -> tuple[Broken, ...]:
        table = {(case.ball.norm, case.ball.epsilon): case.ball for case in cases if case.purpose == "table"}
        return tuple(self._broken(table[key]) for key in sorted(table))

    def _broken(self, ball: Ball) -> Broken:
        robust, images = self.correct.clone(), self.images.clone()
        breaker = torch.full_like(self.labels, -1)
        for number, (other, rows, attacked, distance) in enumerate(self.found):
            if other.norm != ball.norm:
                continue
            inside = (distance <= ball.epsilon) | (other.epsilon <= ball.epsilon)
            fresh = inside & robust[rows]
            robust[rows[fresh]] = False
            images[rows[fresh]] = attacked[fresh]
            breaker[rows[fresh]] = number
        return Broken(ball, robust, images, breaker)


def _verify(case: Case, attacked: Images, clean: Images) -> None:
    """Raise ValueError unless every image is finite, inside the ball and inside [0, 1]."""
    if attacked.shape != clean.shape:
        raise ValueError(f"{case.name} returned shape {tuple(attacked.shape)} for images {tuple(clean.shape)}")
    outside = ~case.ball.contains(attacked, clean)
    if len(clean) and outside.any():
        worst = float(case.ball.distance(attacked, clean)[outside].nan_to_num(torch.inf).max())
        raise ValueError(
            f"{case.name} returned {int(outside.sum())} of {len(clean)} images outside its "
            f"{case.ball.norm} ball of radius {case.ball.epsilon:.4g} or outside [0, 1] "
            f"(largest distance {worst:.4g}); its result is refused: mend the attack's projection"
        )


def _parameters(attack: Attack, purpose: str) -> dict[str, Parameter]:
    """Return the attack's own configuration, as its dataclass fields."""
    values: dict[str, Any] = {}
    if is_dataclass(attack):
        values = {one.name: getattr(attack, one.name) for one in fields(attack)}
    if purpose != "table":
        values["purpose"] = purpose
    return {name: value if isinstance(value, Parameter) else repr(value) for name, value in values.items()}


def cross(
    attacks: Mapping[str, Attack], knowledge: Sequence[str], balls: Sequence[Ball], **options: Any
) -> list[Case]:
    """Return every attack with every knowledge in every ball."""
    return [
        Case(name=name, attack=attack, knowledge=known, ball=ball, **options)
        for ball in balls
        for name, attack in attacks.items()
        for known in knowledge
    ]
