"""ComDefend's objective against plain arithmetic, and the statistics of its noise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from defenses.small_comdefend import batch, build, by_hand, sigmoid
from memory_defense.defenses.comdefend import ComDefendObjective


def test_the_losses_agree_with_plain_arithmetic() -> None:
    defense = by_hand().train()
    pixels = [[0.1, 0.7, 0.5, 1.0], [0.0, 0.3, 0.6, 0.2]]
    given = batch(torch.tensor(pixels, dtype=torch.float64).reshape(2, 1, 2, 2))
    noise = given.draws.normal(1, 1, 2, 2).flatten(1).tolist()
    error = size = 0.0
    for row, drawn in zip(pixels, noise, strict=True):
        for pixel, n in zip(row, drawn, strict=True):
            soft = sigmoid(3 * (pixel - 0.5) + 0.2 - 5 * n)
            error += (sigmoid(2 * soft - 0.7) - pixel) ** 2 / 8
            size += soft**2 / 8

    parts = ComDefendObjective(noise_std=5, code_weight=0.3)(defense, given).parts()

    assert parts == pytest.approx(
        {"total": error + 0.3 * size, "reconstruction": error, "code_size": size}, rel=1e-6
    )


def test_the_published_noise_is_gaussian_of_deviation_20_before_the_sigmoid() -> None:
    """With a code of 0 the soft code's logit is the noise itself."""
    defense, seen = build(), list[Tensor]()
    defense.train()
    with torch.no_grad():
        for parameter in defense.purifier.compressor.parameters():
            parameter.zero_()
    defense.purifier.reconstructor.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    objective = ComDefendObjective()

    for seed in range(4):
        objective(defense, batch(torch.rand(16, 1, 28, 28), seed=seed))

    soft = torch.stack(seen)
    assert objective == ComDefendObjective(noise_std=20, code_weight=1e-4)
    for level in (-30.0, -10.0, 0.0, 5.0, 14.0):  # inside what float32 can tell from 0 and 1
        share = float((soft < sigmoid(level)).double().mean())
        assert share == pytest.approx(0.5 * (1 + math.erf(level / 20 / math.sqrt(2))), abs=5e-3)
    inner = soft[(soft > sigmoid(-15)) & (soft < sigmoid(15))].double().logit()
    assert float(inner.square().mean().sqrt()) == pytest.approx(truncated_deviation(15 / 20) * 20, rel=0.01)
    assert not torch.equal(seen[0], seen[1])


def truncated_deviation(limit: float) -> float:
    """Return the deviation of a standard normal that is kept within +-limit."""
    density = math.exp(-(limit**2) / 2) / math.sqrt(2 * math.pi)
    return math.sqrt(1 - 2 * limit * density / math.erf(limit / math.sqrt(2)))


def test_only_clean_images_are_seen_and_only_the_purifier_is_trained() -> None:
    defense, clean = build().train(), torch.rand(4, 1, 28, 28)
    attacked = batch(torch.rand(4, 1, 28, 28), clean=clean)
    objective = ComDefendObjective()

    losses = objective(defense, attacked)
    losses.total.backward()

    assert losses.parts() == objective(defense, batch(clean)).parts()
    assert all(parameter.grad is None for parameter in defense.classifier.parameters())
    assert all(parameter.grad is not None for parameter in defense.purifier.parameters())
    assert not any(parameter.requires_grad for parameter in defense.classifier.parameters())
    quiet = ComDefendObjective(noise_std=0)
    assert objective(defense.eval(), batch(clean)).parts() == quiet(defense, batch(clean)).parts()


def test_large_images_are_trained_on_patch_by_patch() -> None:
    defense, images = build(3, 32).train(), torch.rand(2, 3, 64, 32)
    whole = ComDefendObjective(noise_std=0)(defense, batch(images)).parts()
    parts = torch.cat([images[:, :, :32], images[:, :, 32:]])

    assert whole == pytest.approx(ComDefendObjective(noise_std=0)(defense, batch(parts)).parts(), rel=1e-5)
    assert ComDefendObjective()(defense, batch(images)).total.isfinite()


@pytest.mark.parametrize(("name", "value"), [("noise_std", -1.0), ("code_weight", math.nan)])
def test_negative_factors_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        ComDefendObjective(**{name: value})
