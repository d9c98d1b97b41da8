"""ComDefend and Defense-VAE on real images: a few steps of training repair what they are to repair."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from memory_defense.contracts import Batch
from memory_defense.data.images import load_dataset
from memory_defense.data.sources import DataNotFoundError
from memory_defense.defenses.comdefend import ComDefendObjective, build_comdefend
from memory_defense.defenses.defense_vae import DefenseVaeEndToEnd, DefenseVaeObjective, build_defense_vae
from memory_defense.networks.classifiers import Linear
from memory_defense.randomness import ImageDraws, seeded

COUNT, STEPS = 32, 20


@pytest.fixture(scope="module")
def clothes() -> tuple[Tensor, Tensor]:
    """Return the first training images of Fashion-MNIST and their labels."""
    try:
        train = load_dataset("fashion-mnist", offline=True).train
    except DataNotFoundError as error:
        pytest.skip(str(error))
    return train.floats(torch.arange(COUNT)), train.labels[:COUNT]


def linear() -> Linear:
    with seeded(0, "classifier"):
        return Linear(channels=1, size=28, classes=10, mean=(0.286,), std=(0.353,))


def attacked(clean: Tensor) -> Tensor:
    noise = torch.rand(clean.shape, generator=torch.Generator().manual_seed(0)).sub(0.5).sign()
    return (clean + 0.2 * noise).clamp(0, 1)


def train(defense, objective, images: Tensor, labels: Tensor, clean: Tensor, rate: float) -> list[dict[str, float]]:
    """Take the steps on one batch; return the parts of the losses in eval mode, before and after."""
    wanted = [parameter for parameter in defense.parameters() if parameter.requires_grad]
    optimizer, ids = torch.optim.Adam(wanted, rate), torch.arange(len(images))

    def batch(step: int) -> Batch:
        return Batch(images, labels, ids, ImageDraws.of(step, "train", ids), step / STEPS, clean)

    seen = [objective(defense.eval(), batch(0)).parts()]
    defense.train()
    for step in range(STEPS):
        optimizer.zero_grad()
        objective(defense, batch(step)).total.backward()
        optimizer.step()
    return [*seen, objective(defense.eval(), batch(0)).parts()]


def test_comdefend_learns_to_rebuild(clothes: tuple[Tensor, Tensor]) -> None:
    images, labels = clothes
    with seeded(0, "defense"):
        defense = build_comdefend(channels=1, size=28, classifier=linear(), preset="small")
    before = defense.eval()(images)

    first, last = train(defense, ComDefendObjective(), images, labels, images, rate=3e-3)

    assert last["reconstruction"] < 0.7 * first["reconstruction"]
    assert last["total"] < first["total"]
    assert not torch.equal(defense(images), before)


def test_defense_vae_learns_to_repair_and_then_to_classify(clothes: tuple[Tensor, Tensor]) -> None:
    clean, labels = clothes
    with seeded(0, "defense"):
        defense = build_defense_vae(channels=1, size=28, classifier=linear(), preset="small")

    first, last = train(defense, DefenseVaeObjective(), attacked(clean), labels, clean, rate=3e-3)
    assert last["reconstruction"] < 0.9 * first["reconstruction"]

    joint = DefenseVaeEndToEnd()
    first, last = train(defense.release_classifier(), joint, attacked(clean), labels, clean, rate=1e-3)
    assert last["reconstruction"] < first["reconstruction"]
    assert last["cross_entropy"] < 0.9 * first["cross_entropy"]
