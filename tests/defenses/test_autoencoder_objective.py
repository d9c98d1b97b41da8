"""Every term of the autoencoders' objectives by plain arithmetic, and that minimising them works."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from memory_defense.contracts import Batch
from memory_defense.data.images import Splits, load_dataset
from memory_defense.data.sources import DataNotFoundError
from memory_defense.defenses.autoencoder import (
    AutoencoderObjective,
    Codes,
    MemAeObjective,
    build_autoencoder_defense,
    build_memae_defense,
)
from memory_defense.randomness import ImageDraws

SMALL = {"channels": 1, "size": 16, "classes": 4, "mean": (0.3,), "std": (0.4,)}
OBJECTIVES = {
    "autoencoder": (build_autoencoder_defense, AutoencoderObjective),
    "memae": (build_memae_defense, MemAeObjective),
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def batch(count: int = 8) -> Batch:
    ids = torch.arange(count)
    return Batch(torch.rand(count, 1, 16, 16), torch.randint(4, (count,)), ids, ImageDraws.of(0, "test", ids), 0.0)


def by_hand(weights: list[list[float]] | None) -> tuple[SimpleNamespace, Batch]:
    """Return a stand-in that reconstructs twice what it sees, and a batch of two images of two pixels."""
    given = None if weights is None else torch.tensor(weights)

    def codes(images: torch.Tensor) -> Codes:
        return Codes(images.flatten(1), 2 * images.flatten(1), given)

    model = SimpleNamespace(
        training=False,
        normalize=lambda images: 10 * images,
        codes=codes,
        decoder=lambda decoded: decoded.reshape(-1, 1, 1, 2),
        classifier_b=nn.Flatten(),
    )
    images = torch.tensor([[0.1, 0.2], [0.4, 0.0]]).reshape(2, 1, 1, 2)
    return model, Batch(images, torch.tensor([0, 1]), torch.arange(2), ImageDraws.of(0, "test", 2), 0.0)


def test_every_term_agrees_with_plain_arithmetic():
    model, given = by_hand([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]])
    # Normalised goals are ten times the pixels, reconstructions twice them.
    error = (0.8**2 + 1.6**2 + 3.2**2) / 2
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / 2
    cross = (math.log(math.exp(0.2) + math.exp(0.4)) - 0.2 + math.log(math.exp(0.8) + 1) - 0.0) / 2

    parts = MemAeObjective(alpha=0.3, cross_entropy=0.7)(model, given).parts()
    plain = AutoencoderObjective(cross_entropy=0.7)(by_hand(None)[0], given).parts()

    shared = {"reconstruction": error, "cross_entropy": cross}
    assert parts == pytest.approx({**shared, "entropy": entropy, "total": error + 0.3 * entropy + 0.7 * cross})
    assert plain == pytest.approx({**shared, "total": error + 0.7 * cross})


def test_noise_is_drawn_in_train_mode_only_and_the_clean_image_is_the_goal():
    model, given = by_hand(None)
    objective = AutoencoderObjective(noise_std=0.5)
    quiet = objective(model, given).parts()
    assert quiet == AutoencoderObjective(noise_std=0)(model, given).parts()
    model.training = True

    noisy = objective(model, given).parts()

    seen = given.images + 0.5 * given.draws.normal(1, 1, 2)
    assert noisy["reconstruction"] == pytest.approx(float((10 * given.images - 2 * seen).square().sum() / 2))
    assert noisy["reconstruction"] != pytest.approx(quiet["reconstruction"])


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_every_part_is_trained(kind):
    build, objective = OBJECTIVES[kind]
    defense = build(**SMALL).train()

    losses = objective()(defense, batch())
    losses.total.backward()

    assert losses.total.shape == ()
    assert losses.parts()["total"] == float(losses.total.detach())
    assert all(parameter.grad.abs().sum() > 0 for parameter in defense.parameters())


def test_an_objective_refuses_the_other_autoencoder():
    with pytest.raises(ValueError, match="use AutoencoderObjective"):
        MemAeObjective()(build_autoencoder_defense(**SMALL), batch())
    with pytest.raises(ValueError, match="use MemAeObjective"):
        AutoencoderObjective()(build_memae_defense(**SMALL), batch())


@pytest.mark.parametrize("options", [{"alpha": -1}, {"cross_entropy": -0.1}, {"noise_std": float("nan")}])
def test_bad_settings_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is"):
        MemAeObjective(**options)


def test_the_objective_is_a_value():
    assert MemAeObjective() == MemAeObjective(alpha=2e-4, cross_entropy=1.0, noise_std=1e-4)
    assert MemAeObjective() != AutoencoderObjective()
    assert "alpha=0.5" in repr(MemAeObjective(alpha=0.5))


@pytest.fixture(scope="module")
def splits() -> Splits:
    try:
        return load_dataset("fashion-mnist", offline=True)
    except DataNotFoundError:
        pytest.skip("no source of Fashion-MNIST here")


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_few_steps_on_fashion_mnist_lower_the_losses_of_images_not_seen_before(kind, splits):
    build, objective = OBJECTIVES[kind]
    defense = build(channels=1, size=28, classes=10, mean=splits.spec.mean, std=splits.spec.std).train()
    optimizer = torch.optim.Adam(defense.parameters(), 5e-3)
    history = []

    for step in range(50):  # each image is used once
        rows = torch.arange(32 * step, 32 * (step + 1))
        images, ids = splits.train.floats(rows), splits.train.ids[rows]
        losses = objective()(
            defense, Batch(images, splits.train.labels[rows], ids, ImageDraws.of(0, "step", ids), 0.0)
        )
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        history.append(losses.parts())

    for name in ("total", "reconstruction", "cross_entropy"):
        first, last = (sum(one[name] for one in part) / 5 for part in (history[:5], history[-5:]))
        assert last < (0.6 if name == "reconstruction" else 0.95) * first, name
