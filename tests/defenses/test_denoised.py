"""Denoised smoothing: what the objectives are, that the classifier stays, and what the memory alone changes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.attacks import Pgd
from memory_defense.certificates.smoothing import Smoothing
from memory_defense.contracts import Batch
from memory_defense.data.images import ImageSet
from memory_defense.defenses.denoised import (
    Denoised,
    DenoiserObjective,
    LevelMemory,
    MemoryDenoised,
    build_denoised,
    build_memory_denoised,
)
from memory_defense.networks.denoiser import Denoiser, DenoiserPlan
from memory_defense.randomness import ImageDraws, seeded
from memory_defense.threat import L2
from memory_defense.training.fit import FitConfig, fit
from memory_defense.training.noise import NoiseTraining
from memory_defense.training.optimizer import OptimizerConfig

SIGMA, CLASSES = 0.25, 3
BLACK_BOX = DenoiserObjective(sigma=SIGMA)
THROUGH = DenoiserObjective(sigma=SIGMA, error=0.5, stability=1.0, copies=2)


class Judged(nn.Module):
    """A classifier with statistics of its own, that knows when it was asked."""

    def __init__(self, channels: int = 1, size: int = 8) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
            nn.Linear(4 * size**2, CLASSES),
        )  # fmt: skip
        self.asked = 0

    def forward(self, images: Tensor) -> Tensor:
        self.asked += 1
        return self.net(images)


def build(memory: bool = False, channels: int = 1, size: int = 8) -> Denoised:
    with seeded(0, "classifier"):
        classifier = Judged(channels, size)
    with seeded(0, "denoiser"):
        if memory:
            return build_memory_denoised(
                channels=channels, size=size, classes=CLASSES, classifier=classifier, preset="tiny"
            )
        return build_denoised(channels=channels, classifier=classifier, preset="tiny")


class Brightest(nn.Module):
    """A classifier that reads the brightest pixel alone, and so is lost under noise."""

    def forward(self, images: Tensor) -> Tensor:
        return images.amax((1, 3))[:, : 2 * CLASSES].unflatten(1, (CLASSES, 2)).amax(2)


def stripes(count: int = 48, size: int = 8) -> ImageSet:
    """Return grey images with a bright row that says their class."""
    labels = torch.arange(count) % CLASSES
    images = torch.zeros(count, 1, size, size)
    for row, label in enumerate(labels.tolist()):
        images[row, 0, 2 * label : 2 * label + 2] = 1
    return ImageSet((255 * images).to(torch.uint8), labels, torch.arange(count))


def batch(images: Tensor, labels: Tensor | None = None) -> Batch:
    ids = torch.arange(len(images))
    return Batch(
        images, ids % CLASSES if labels is None else labels, ids, ImageDraws.of(0, "test", ids), 0.0, images
    )


def noise_of(given: Batch, copies: int) -> Tensor:
    """Return (copies, B, C, H, W): the noise that the objective draws."""
    drawn = given.draws.child("noise").normal(copies, *given.images.shape[1:])
    return torch.stack([drawn[:, copy] for copy in range(copies)])


def trained(defense: Denoised, *stages: object, epochs: int = 2, rate: float = 1e-2) -> Denoised:
    for stage in stages:
        config = FitConfig(
            epochs=epochs,
            batch_size=8,
            optimizer=OptimizerConfig(name="adam", learning_rate=rate),
            averaging=0.9,
            precision="float32",
        )
        fit(defense, stage, stripes(), config, seed=1)  # type: ignore[arg-type]
    return defense


@pytest.mark.parametrize("memory", [False, True])
def test_no_byte_of_the_classifier_changes_in_training(memory: bool) -> None:
    defense = build(memory)
    before = {name: value.clone() for name, value in defense.state_dict().items()}

    trained(defense, BLACK_BOX, THROUGH, NoiseTraining(sigma=SIGMA, copies=2, consistency=1.0))

    after = defense.state_dict()
    of_classifier = [name for name in after if name.startswith("classifier.")]
    assert any("running_mean" in name for name in of_classifier)
    for name in of_classifier:
        assert torch.equal(after[name], before[name]), name
    assert {name for name in after if not torch.equal(after[name], before[name])} >= {
        name for name, _ in defense.named_parameters() if not name.startswith("classifier.")
    }
    assert not defense.train().classifier.training


def test_a_black_box_is_never_asked_while_the_denoiser_is_trained() -> None:
    defense = trained(build(), BLACK_BOX)
    assert defense.classifier.asked == 0
    DenoiserObjective(sigma=SIGMA, stability=1.0)(defense, batch(torch.rand(4, 1, 8, 8)))
    assert defense.classifier.asked == 2


def test_the_losses_of_a_denoiser_that_sees_nothing_are_those_of_the_noise() -> None:
    """Before training nothing is taken off, so that every term is one of the noisy images themselves."""
    defense, given = build(), batch(torch.rand(5, 1, 8, 8))
    noise = noise_of(given, 2)

    losses = replace(THROUGH, error=2.0)(defense, given)

    error = float(noise.square().mean())
    own = defense.classifier(given.images).argmax(1)
    copies = [defense.classifier((given.images + SIGMA * one).clamp(0, 1)) for one in noise]
    stability = sum(float(F.cross_entropy(one, own)) for one in copies) / 2
    assert losses.parts() == pytest.approx(
        {"total": 2 * error + stability, "error": error, "stability": stability}, rel=1e-5
    )


def test_stability_takes_no_labels() -> None:
    defense, images = build(), torch.rand(6, 1, 8, 8)
    wrong = batch(images, torch.zeros(6, dtype=torch.int64))
    assert THROUGH(defense, wrong).parts() == THROUGH(defense, batch(images)).parts()


@pytest.mark.parametrize("memory", [False, True])
def test_training_takes_the_noise_off(memory: bool) -> None:
    objective = DenoiserObjective(sigma=SIGMA, slots=0.1 * memory)
    defense, images = build(memory), stripes().floats()
    noisy = images + SIGMA * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))

    trained(defense, objective, epochs=16, rate=3e-3)

    left = (defense.purify(noisy) - images).square().mean()
    assert left < 0.85 * (noisy.clamp(0, 1) - images).square().mean()


def test_behind_a_denoiser_that_knows_the_image_every_copy_gets_one_class() -> None:
    """So the certificate is the largest that so many copies allow, which the classifier alone falls short of."""
    image, plan = stripes(2).floats()[1:], DenoiserPlan(channels=1, widths=(4,), blocks=0)

    class Knowing(Denoiser):
        def encode(self, images: Tensor) -> tuple[Tensor, ...]:
            return (images,)

        def decode(self, levels: tuple[Tensor, ...], height: int, width: int) -> Tensor:
            assert (height, width) == (8, 8)
            return levels[-1] - image

    defense = Denoised(Brightest(), Knowing(plan)).eval()
    smoothing, draws = Smoothing(sigma=1.0, samples=200), ImageDraws.of(0, "smoothing", 1)
    alone, behind = (smoothing.certify(one, image, draws) for one in (defense.classifier, defense))
    assert behind.labels.tolist() == [1]
    assert float(behind.radii) == pytest.approx(smoothing.largest_radius, abs=1e-3)
    assert float(alone.radii) < float(behind.radii)


@pytest.mark.parametrize("memory", [False, True])
def test_the_white_box_gives_the_very_answer_and_its_gradient_leads_somewhere(memory: bool) -> None:
    defense = trained(build(memory), THROUGH).eval()
    images = stripes(6).floats()
    surrogates = defense.surrogates()
    assert set(surrogates) == {"end-to-end", "oblivious"}
    assert torch.equal(surrogates["end-to-end"](images), defense(images))
    assert torch.allclose(defense(images), torch.cat([defense(one[None]) for one in images]), atol=1e-5)
    assert defense.purify(images + 2).max() <= 1
    assert defense.purify(images - 2).min() >= 0
    labels, ball = defense(images).argmax(1), L2(2.0)
    attacked = Pgd(steps=20)(surrogates["end-to-end"], images, labels, ball, ImageDraws.of(0, "attack", 6))
    before, after = (F.cross_entropy(defense(one), labels) for one in (images, attacked))
    assert after > before


def test_the_memory_is_all_that_two_denoisers_differ_by() -> None:
    plain, with_memory = build().eval(), build(memory=True).eval()
    ours = {name: value for name, value in with_memory.state_dict().items() if not name.startswith("memory.")}
    assert ours.keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        assert torch.equal(value, ours[name]), name
    nn.init.normal_(plain.denoiser.output.weight, std=0.1)
    with_memory.denoiser.load_state_dict(plain.denoiser.state_dict())
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(plain(images), with_memory(images))  # what is read begins at nothing
    nn.init.dirac_(with_memory.memory.mix.weight)
    assert not torch.equal(plain(images), with_memory(images))


@pytest.mark.parametrize(("side", "cells"), [(1, 1), (3, 3), (4, 4), (7, 4), (16, 4)])
def test_what_is_read_is_the_slots_mixture_of_items_image_by_image(side: int, cells: int) -> None:
    with seeded(0, "memory"):
        memory = LevelMemory(width=2, side=side, classes=CLASSES, items=6)
        nn.init.dirac_(memory.mix.weight)
    features = torch.rand(2, 2, side, side)

    made, slots = memory(features)

    items, kernel = memory.memory.items, math.ceil(side / 4)
    assert items.shape == (6, 2 * cells**2)
    for image in range(2):
        code = torch.stack(
            [
                features[image, :, y * kernel : (y + 1) * kernel, x * kernel : (x + 1) * kernel].mean((1, 2))
                for y in range(cells)
                for x in range(cells)
            ],
            1,
        ).flatten()
        chosen = memory.chooser(code).softmax(0)
        cosines = torch.stack([F.cosine_similarity(code, item, dim=0) for item in items])
        raw = cosines.softmax(0)
        kept = torch.stack(
            [
                raw[row]
                if raw[row] > 1 / 6 or raw[row] == raw[row // 2 * 2 : row // 2 * 2 + 2].max()
                else raw[row] * 0
                for row in range(6)
            ]
        )
        weights = kept * chosen.repeat_interleave(2)
        read = (weights / weights.sum() @ items).view(2, cells, cells)
        grown = F.interpolate(read[None], size=(side, side))[0]
        assert torch.allclose(made[image], features[image] + grown, atol=1e-5)
        assert torch.allclose(slots[image], memory.chooser(code), atol=1e-5)


def test_slots_are_taught_by_labels_and_only_where_there_are_some() -> None:
    given = batch(stripes(12).floats())
    objective = DenoiserObjective(sigma=SIGMA, slots=0.5)
    losses = objective(build(memory=True), given)
    assert losses.slots is not None
    assert float(losses.total) == pytest.approx(float(losses.error) + 0.5 * float(losses.slots))
    with pytest.raises(ValueError, match="has no memory whose slots"):
        objective(build(), given)
    defense = trained(build(memory=True), objective, epochs=16, rate=3e-3)
    noisy = given.images + SIGMA * torch.randn(given.images.shape, generator=torch.Generator().manual_seed(0))
    slots = defense.denoise(noisy).slots
    assert slots is not None
    assert (slots.argmax(1) == given.labels).float().mean() > 0.9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DenoiserObjective(sigma=0), "sigma is 0"),
        (lambda: DenoiserObjective(sigma=math.inf), "sigma is inf"),
        (lambda: DenoiserObjective(sigma=0.1, slots=-1), "slots is -1"),
        (lambda: DenoiserObjective(sigma=0.1, copies=0), "copies is 0"),
        (lambda: DenoiserObjective(sigma=0.1, error=0), "both 0"),
        (lambda: build_denoised(channels=1, classifier=Judged(), preset="smal"), "did you mean 'small'"),
        (lambda: build_denoised(channels=0, classifier=Judged()), "channels is 0"),
        (lambda: _with_memory(size=129), "size is 129"),
        (lambda: _with_memory(items=7), "7 items for 3 classes"),
    ],
)
def test_what_cannot_be_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def _with_memory(size: int = 8, items: int = 6) -> MemoryDenoised:
    plan = DenoiserPlan(channels=1, widths=(4,), blocks=0)
    return MemoryDenoised(Judged(), Denoiser(plan), size=size, classes=CLASSES, items=items)
