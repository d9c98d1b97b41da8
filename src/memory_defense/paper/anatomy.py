"""The anatomy of the claim: from the paper's cell to the number that is left, one choice at a time.

The weights and the images are the same throughout, and the defense always answers by itself: its selector chooses
the slot of the attacked image, as in the released code. What changes is how images are attacked and what counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from memory_defense.attacks import Pgd
from memory_defense.contracts import Ball, Classifier, Draws, Images, Labels, PerImage, Rows
from memory_defense.defenses.memory.defense import MemoryDefense
from memory_defense.defenses.memory.surrogates import FixedSlots
from memory_defense.evaluation.metrics import accuracy, predict
from memory_defense.evaluation.place import per_image_of
from memory_defense.evaluation.provenance import provenance
from memory_defense.evaluation.record import Accuracy, Record
from memory_defense.evaluation.results import read_per_image
from memory_defense.names import check_name
from memory_defense.paper.printed.anatomy import Anatomy, AnatomyStep
from memory_defense.paper.tables import ReproducedRow, is_made, reproduced_row
from memory_defense.paper.trained_rows import Sample, TrainedRows
from memory_defense.randomness import ImageDraws
from memory_defense.recipes.recipe import Recipe
from memory_defense.threat import TOLERANCE, Linf
from memory_defense.wrappers import frozen

DATASET = "fashion-mnist"
"""The released code is for this one alone."""
EPSILON = 25 / 255
_WITHIN = 1e-6


RELEASED_MEAN, RELEASED_STD = 0.1307, 0.3081
"""Constants of the released code's normalisation of Fashion-MNIST, which are MNIST's (reading A20)."""
STEP_SIZE = 0.0075
"""Step size of the paper's PGD, in the units of the step's protocol."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Every choice that some step changes."""

    score: Literal["mean of clean and attacked", "attacked"] = "mean of clean and attacked"
    """Number that is printed as robust accuracy."""
    steps: int = 10
    units: Literal["normalised", "pixels"] = "normalised"
    """Units of epsilon and step size, in which images are clipped to [0, 1]."""
    seen: Literal["true label", "clean answer", "soft slot", "selector"] = "true label"
    """Part that the attack differentiates: encoder, memory, decoder and classifier-B, where the slot is a constant
    (the image's true label, or the selector's answer for the clean image) or its choice has a gradient; or the
    selector alone."""
    attacks: Literal["PGD", "all, worst case"] = "PGD"

    def choices(self) -> dict[str, str | int]:
        """Return every choice by name."""
        return asdict(self)

    def ball(self, epsilon: float) -> Ball:
        """Return the ball of attacked images."""
        if self.units == "pixels":
            return Linf(epsilon)
        return NormalisedBox(epsilon, RELEASED_MEAN, RELEASED_STD)

    def attack(self) -> Pgd:
        """Return the paper's PGD; every image takes every step and comes back at its highest loss."""
        size = STEP_SIZE if self.units == "pixels" else STEP_SIZE * RELEASED_STD
        return Pgd(steps=self.steps, step_size=size, stop_when_fooled=False)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One row of the table."""

    key: str
    title: str
    protocol: Protocol
    changed: str = ""
    """Name of the choice that differs from the step before; for a control, what differs from its step."""


def _steps() -> tuple[Step, ...]:
    changes: Sequence[tuple[str, str, str, str | int]] = (
        ("b", "Attacked images alone, not their mean with clean ones", "score", "attacked"),
        ("c", "40 steps, not 10", "steps", 40),
        ("d", "Epsilon and clipping in pixels, not in normalised units", "units", "pixels"),
        ("e", "The slot is the selector's, not the true label", "seen", "clean answer"),
        ("f", "The choice of the slot has a gradient", "seen", "soft slot"),
        ("g", "The selector itself is attacked", "seen", "selector"),
        ("h", "Every attack with every knowledge, worst case image by image", "attacks", "all, worst case"),
    )
    steps = [Step(key="a", title="Scored as the released code does", protocol=Protocol())]
    for key, title, name, value in changes:
        protocol = replace(steps[-1].protocol, **{name: value})  # pyright: ignore[reportArgumentType]
        steps.append(Step(key=key, title=title, protocol=protocol, changed=name))
    return tuple(steps)


STEPS = _steps()
"""Each differs from the one before in exactly one choice."""


@dataclass(frozen=True)
class NormalisedBox:
    """The ball in which the released code looks for adversarial images, in pixel units.

    It takes epsilon in the units of ``(x - mean) / std`` and clips to [0, 1] there. In pixels the radius is
    ``epsilon * std`` and the box is ``[mean, mean + std]``, so that every pixel outside the box is moved into it,
    however far that is: clean images do not lie in their own ball, and black is never black.

    Parameters
    ----------
    radius
        epsilon in normalised units, at least 0.
    mean, std
        Constants of the normalisation; the box must be inside [0, 1].

    Raises
    ------
    ValueError
        For a negative radius, or a box that leaves [0, 1].
    """

    radius: float
    mean: float
    std: float
    norm: ClassVar[str] = "linf"

    def __post_init__(self) -> None:
        if not self.radius >= 0:
            raise ValueError(f"the radius is {self.radius}, but it must be at least 0")
        if not (self.mean >= 0 and self.std > 0 and self.mean + self.std <= 1):
            raise ValueError(f"the box [{self.mean}, {self.mean + self.std}] must be a part of [0, 1]")

    @property
    def epsilon(self) -> float:
        """The radius in pixel units."""
        return self.radius * self.std

    def project(self, points: Images, centre: Images) -> Images:
        """Return points clamped to ``centre +- epsilon``, then to the box."""
        near = torch.minimum(torch.maximum(points, centre - self.epsilon), centre + self.epsilon)
        return near.clamp(self.mean, self.mean + self.std)

    def random_point(self, centre: Images, draws: Draws) -> Images:
        """Return a uniform point of ``centre +- epsilon``, clamped to the box."""
        noise = draws.uniform(*centre.shape[1:]).to(centre)
        return self.project(centre + self.epsilon * (2 * noise - 1), centre)

    def ascent(self, gradient: Tensor) -> Tensor:
        """Return the sign of the gradient."""
        return gradient.sign()

    def distance(self, points: Images, centre: Images) -> PerImage:
        """Return (B,) the largest change of a pixel, which may be far above `epsilon`."""
        return (points - centre).abs().flatten(1).amax(1)

    def contains(self, points: Images, centre: Images) -> PerImage:
        """Return (B,) bool: what `project` leaves where it is; NaN is outside."""
        moved = (points - self.project(points, centre)).abs().flatten(1).amax(1)
        return moved <= TOLERANCE


def reproduce_anatomy(rows: TrainedRows) -> Anatomy:
    """Return every step for Memory Defense as the paper trains it, and the controls beside them.

    A row and the record of its table are used if they are there; else the row is trained, and attacked in this ball
    alone. Raises ValueError for another dataset than `DATASET`.
    """
    check_name(rows.dataset, [DATASET], "dataset of the released code")
    recipe = rows.recipes["memory-defense"]
    sample = rows.test(recipe.evaluation.images)
    bench = Bench(defense=rows.defense(recipe), sample=sample, seed=rows.seed)
    steps: list[AnatomyStep] = []
    for step in STEPS[:-1]:
        rows.note(f"step {step.key}: {step.title}")
        steps.append(bench.judged(step, bench.attacked(step.protocol)))
    row = judged_row(rows, recipe)
    steps.append(bench.worst(STEPS[-1], row.record, row.path))
    return Anatomy(
        dataset=DATASET,
        scale=rows.scale,
        provenance=provenance(rows.seed, sample.images.device, recipe.sha256),
        images=len(sample.labels),
        epsilon=EPSILON,
        clean=bench.clean,
        steps=tuple(steps),
        controls=bench.controls(),
    )


def judged_row(rows: TrainedRows, recipe: Recipe) -> ReproducedRow:
    """Return the row with the record of its table, or without one, of the attacks in this ball alone."""
    record = rows.out / recipe.name / "record.json"
    name = "record"
    if not is_made(record, recipe, rows.seed):
        name = "worst-case"
        alone = replace(
            recipe.evaluation,
            linf=(Linf(EPSILON),),
            l2=(),
            minimum_norm={},
            unbounded={},
            curve=None,
            curve_balls=(),
        )
        recipe = replace(recipe, evaluation=alone)
    return reproduced_row(
        "memory-defense", recipe, rows.out, rows.splits, record=name, seed=rows.seed, progress=rows.progress
    )


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One trained defense and the images that every step is measured on."""

    defense: MemoryDefense
    sample: Sample
    seed: int

    @property
    def clean(self) -> Accuracy:
        """Accuracy on the images as they are."""
        return accuracy(predict(self.defense, self.sample.images) == self.sample.labels)

    def attacked(self, protocol: Protocol, leave: Labels | None = None) -> Images:
        """Return the images after the protocol's PGD, away from the classes `leave` (N,), by default the labels."""
        sample = self.sample
        labels = sample.labels if leave is None else leave
        draws = ImageDraws.of(self.seed, "anatomy", sample.ids, sample.images.device)
        with frozen(self.defense):
            ball = protocol.ball(EPSILON)
            images = protocol.attack()(self.surrogate(protocol), sample.images, labels, ball, draws)
        assert bool(ball.contains(images, sample.images).all())
        return images

    def surrogate(self, protocol: Protocol) -> Classifier:
        """Return the surrogate that the protocol's attack differentiates."""
        defense = self.defense
        match protocol.seen:
            case "true label":
                return FixedSlots(defense, self.sample.labels)
            case "clean answer":
                return FixedSlots(defense, defense.choose_slots(self.sample.images))
            case "soft slot":
                return cast("Classifier", defense.surrogates()["end-to-end"])
            case "selector":
                return cast("Classifier", defense.surrogates()["selector"])

    def noise(self, protocol: Protocol) -> Images:
        """Return the images with every pixel moved by the ball's radius, up or down at random."""
        sample, ball = self.sample, protocol.ball(EPSILON)
        draws = ImageDraws.of(self.seed, "anatomy noise", sample.ids, sample.images.device)
        signs = 2.0 * draws.integers(2, *sample.images.shape[1:]) - 1
        return ball.project(sample.images + ball.epsilon * signs, sample.images)

    def judged(self, step: Step, images: Images) -> AnatomyStep:
        """Return a step's numbers for attacked images (N, C, H, W)."""
        right = predict(self.defense, images) == self.sample.labels
        return self._step(step, images, accuracy(right))

    def worst(self, step: Step, record: Record, path: Path) -> AnatomyStep:
        """Return the last step from the row's record; where no attack ran, its images are judged as they are.

        Selector and agreement are those on the images that broke the defense, or on clean ones if nothing did.
        """
        (worst,) = (one for one in record.worst_case if one.norm == "linf" and abs(one.epsilon - EPSILON) < _WITHIN)
        images, found = self._found(record, path), worst.measured
        return self.judged(step, images) if found is None else self._step(step, images, found)

    def _found(self, record: Record, path: Path) -> Images:
        """Return the images that the record's evaluation found, clean ones where it found none."""
        results, sample = read_per_image(per_image_of(record, path)), self.sample
        if not torch.equal(results.ids.cpu(), sample.ids.cpu()):
            raise ValueError(
                f"{path} is about other images; delete it, and the same command evaluates the row again"
            )
        (broken,) = (
            one for one in results.broken if one.ball.norm == "linf" and abs(one.ball.epsilon - EPSILON) < _WITHIN
        )
        images = sample.images.clone()
        found: Rows = (broken.breaker >= 0).nonzero().squeeze(1)
        images[found.to(images.device)] = broken.images[found].to(images)
        return images

    def controls(self) -> tuple[AnatomyStep, ...]:
        """Return the controls beside the steps: noise, clipping without an attack, and the released default."""
        first, pixels = STEPS[0], next(step for step in STEPS if step.protocol.units == "pixels")
        answers = self.defense.choose_slots(self.sample.images)
        clipped = first.protocol.ball(EPSILON).project(self.sample.images, self.sample.images)
        default = replace(
            first,
            title="The released default: away from the selector's own answer",
            protocol=replace(first.protocol, seen="clean answer"),
            changed="seen and label",
        )
        signs = {"title": "Random signs, no attack", "changed": "attack"}
        return (
            self.judged(replace(first, title="Clipping alone, no attack", changed="attack"), clipped),
            self.judged(replace(first, **signs), self.noise(first.protocol)),
            self.judged(default, self.attacked(default.protocol, leave=answers)),
            self.judged(replace(pixels, **signs), self.noise(pixels.protocol)),
        )

    def _step(self, step: Step, images: Images, attacked: Accuracy) -> AnatomyStep:
        slots = self.defense.choose_slots(images)
        answers = predict(self.defense, images)
        change: PerImage = (images - self.sample.images).abs().flatten(1).amax(1)
        mean = (self.clean.accuracy + attacked.accuracy) / 2
        return AnatomyStep(
            key=step.key,
            title=step.title,
            changed=step.changed,
            protocol=step.protocol.choices(),
            score=attacked.accuracy if step.protocol.score == "attacked" else mean,
            attacked=Accuracy(accuracy=attacked.accuracy, ci95=attacked.ci95),
            selector=accuracy(slots == self.sample.labels),
            agreement=float((answers == slots).float().mean()),
            median_change=float(change.median()),
        )
