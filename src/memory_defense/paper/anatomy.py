"""The anatomy of the claim: from the paper's cell to the number that is left, one choice at a time.

The weights and the images are the same throughout, and the defense always answers by itself: its selector chooses
the slot of the attacked image, as in the released code. What changes is how images are attacked and what counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from memory_defense.contracts import Classifier, Images, Labels, PerImage, Progress, Rows
from memory_defense.defenses.memory.defense import MemoryDefense
from memory_defense.defenses.memory.surrogates import FixedSlots
from memory_defense.evaluation.metrics import accuracy, predict
from memory_defense.evaluation.provenance import provenance
from memory_defense.evaluation.record import Accuracy, Record
from memory_defense.evaluation.results import read_per_image
from memory_defense.paper.anatomy_steps import STEPS, Protocol, Step, difference
from memory_defense.paper.measured import Anatomy, AnatomyStep
from memory_defense.paper.tables import DataSource, ReproducedRow, reproduced_row
from memory_defense.paper.trained_rows import Sample, TrainedRows
from memory_defense.randomness import ImageDraws
from memory_defense.recipes.recipe import Recipe
from memory_defense.threat import Linf
from memory_defense.workflows.evaluate import per_image_path
from memory_defense.wrappers import frozen

DATASET = "fashion-mnist"
"""The released code is for this one alone."""
EPSILON = 25 / 255
_WITHIN = 1e-6


def reproduce_anatomy(
    out: Path, data: DataSource, *, scale: str = "cpu", seed: int = 0, progress: Progress | None = None
) -> Anatomy:
    """Return every step for Memory Defense as the paper trains it, and the controls beside them.

    Parameters
    ----------
    out
        Directory of all runs; the row and the record of its table are used where they are there. Else the row is
        trained and attacked in this ball alone.
    data
        Asked for Fashion-MNIST.
    scale
        One of `reproduction.scale_names`.
    seed
        Of training and of the attacks.
    progress
        Told how far it is.

    Raises
    ------
    ValueError
        For an unknown scale.
    """
    rows = TrainedRows.of(out, data, dataset=DATASET, scale=scale, seed=seed, progress=progress)
    recipe = rows.recipes["memory-defense"]
    sample = rows.test(recipe.evaluation.images)
    bench = Bench(defense=rows.defense(recipe), sample=sample, seed=seed)
    steps: list[AnatomyStep] = []
    for number, step in enumerate(STEPS[:-1]):
        rows.note(f"step {step.key}: {step.title}")
        changed = "" if number == 0 else _changed(STEPS[number - 1].protocol, step.protocol)
        steps.append(bench.judged(step, changed, bench.attacked(step.protocol)))
    row = judged_row(rows, recipe)
    steps.append(bench.worst(STEPS[-1], _changed(STEPS[-2].protocol, STEPS[-1].protocol), row.record, row.path))
    return Anatomy(
        dataset=DATASET,
        scale=scale,
        provenance=provenance(seed, sample.images.device, recipe.sha256),
        images=len(sample.labels),
        epsilon=EPSILON,
        clean=bench.clean,
        steps=tuple(steps),
        controls=bench.controls(),
    )


def judged_row(rows: TrainedRows, recipe: Recipe) -> ReproducedRow:
    """Return the row with the record of its table, or where there is none, of the attacks in this ball alone."""
    record = rows.out / recipe.name / "record.json"
    name = "record"
    if not (record.is_file() and Record.read(record).provenance.recipe_sha256 == recipe.sha256):
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
        """Return what the protocol's PGD makes of the images; `leave` (N,) are the classes it leads away from."""
        sample = self.sample
        labels = sample.labels if leave is None else leave
        draws = ImageDraws.of(self.seed, "anatomy", sample.ids, sample.images.device)
        with frozen(self.defense):
            ball = protocol.ball(EPSILON)
            images = protocol.attack()(self.surrogate(protocol), sample.images, labels, ball, draws)
        assert bool(ball.contains(images, sample.images).all())
        return images

    def surrogate(self, protocol: Protocol) -> Classifier:
        """Return what the protocol's attack differentiates."""
        defense = self.defense
        match protocol.seen:
            case "true label":
                return FixedSlots(defense, self.sample.labels)
            case "clean answer":
                return FixedSlots(defense, defense.choose_slots(self.sample.images))
            case "soft slot":
                return _plain(defense.surrogates()["end-to-end"])
            case "selector":
                return _plain(defense.surrogates()["selector"])

    def noise(self, protocol: Protocol) -> Images:
        """Return the images with every pixel moved by the ball's radius, up or down at random."""
        sample, ball = self.sample, protocol.ball(EPSILON)
        draws = ImageDraws.of(self.seed, "anatomy noise", sample.ids, sample.images.device)
        signs = 2.0 * draws.integers(2, *sample.images.shape[1:]) - 1
        return ball.project(sample.images + ball.epsilon * signs, sample.images)

    def judged(self, step: Step, changed: str, images: Images) -> AnatomyStep:
        """Return a step's numbers for attacked images (N, C, H, W)."""
        right = predict(self.defense, images) == self.sample.labels
        return self._step(step, changed, images, accuracy(right))

    def worst(self, step: Step, changed: str, record: Record, path: Path) -> AnatomyStep:
        """Return the last step from the row's record.

        Selector and agreement are those on the images that broke the defense, or on clean ones where nothing did.
        """
        (worst,) = (one for one in record.worst_case if one.norm == "linf" and abs(one.epsilon - EPSILON) < _WITHIN)
        return self._step(step, changed, self._found(path), worst)

    def _found(self, path: Path) -> Images:
        """Return the images that the record's evaluation found, clean ones where it found none."""
        results, sample = read_per_image(per_image_path(path)), self.sample
        if not torch.equal(results.ids.cpu(), sample.ids.cpu()):
            raise ValueError(f"{path} is about other images; evaluate the row again")
        (broken,) = (
            one for one in results.broken if one.ball.norm == "linf" and abs(one.ball.epsilon - EPSILON) < _WITHIN
        )
        images = sample.images.clone()
        found: Rows = (broken.breaker >= 0).nonzero().squeeze(1)
        images[found.to(images.device)] = broken.images[found].to(images)
        return images

    def controls(self) -> tuple[AnatomyStep, ...]:
        """Return what stands beside the steps: noise, clipping without an attack, and the released default."""
        first, pixels = STEPS[0], next(step for step in STEPS if step.protocol.units == "pixels")
        answers = self.defense.choose_slots(self.sample.images)
        ball = first.protocol.ball(EPSILON)
        default = replace(first.protocol, seen="clean answer")
        return (
            self.judged(
                _titled(first, "Clipping alone, no attack"),
                "attack",
                ball.project(self.sample.images, self.sample.images),
            ),
            self.judged(_titled(first, "Random signs, no attack"), "attack", self.noise(first.protocol)),
            self.judged(
                Step(key="a", title="The released default: away from the selector's own answer", protocol=default),
                "seen and label",
                self.attacked(default, leave=answers),
            ),
            self.judged(_titled(pixels, "Random signs, no attack"), "attack", self.noise(pixels.protocol)),
        )

    def _step(self, step: Step, changed: str, images: Images, attacked: Accuracy) -> AnatomyStep:
        slots = self.defense.choose_slots(images)
        answers = predict(self.defense, images)
        change: PerImage = (images - self.sample.images).abs().flatten(1).amax(1)
        mean = (self.clean.accuracy + attacked.accuracy) / 2
        return AnatomyStep(
            key=step.key,
            title=step.title,
            changed=changed,
            protocol=step.protocol.choices(),
            score=attacked.accuracy if step.protocol.score == "attacked" else mean,
            attacked=Accuracy(accuracy=attacked.accuracy, ci95=attacked.ci95),
            selector=accuracy(slots == self.sample.labels),
            agreement=float((answers == slots).float().mean()),
            median_change=float(change.median()),
        )


def _titled(step: Step, title: str) -> Step:
    return replace(step, title=title)


def _changed(before: Protocol, after: Protocol) -> str:
    (name,) = difference(before, after)
    return name


def _plain(surrogate: object) -> Classifier:
    assert callable(surrogate)
    return surrogate  # pyright: ignore[reportReturnType]
