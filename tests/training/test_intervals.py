"""Training for interval bounds: its losses against closed forms, what it certifies, and that it resumes exactly."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from memory_defense.certificates.boxes import Box, image_box
from memory_defense.certificates.intervals import logit_bounds, margin_bounds, margins, verified
from memory_defense.certificates.reading import steps_of
from memory_defense.certificates.steps import follow
from memory_defense.contracts import Batch
from memory_defense.networks.interval_cnn import IntervalCnn, cnn7_narrow
from memory_defense.randomness import ImageDraws, seeded
from memory_defense.threat import L2, Linf
from memory_defense.training.adversarial import Benign
from memory_defense.training.fit import FitConfig, fit
from memory_defense.training.intervals import IntervalTraining, imbalance
from memory_defense.training.optimizer import OptimizerConfig
from memory_defense.training.synchronised import batch_moments
from memory_defense.training.validate import certified_accuracy
from memory_defense.training.weight_perturbation import WeightPerturbation
from training.test_fit import KillAt, KilledError, StopAt, assert_same, two_blobs, weights

METHODS = ("ibp", "crown-ibp")


def batch(progress: float = 1.0, count: int = 6, classes: int = 2) -> Batch:
    ids = torch.arange(count)
    images = ImageDraws.of(1, "images", ids).uniform(1, 6, 6)
    return Batch(images, ids % classes, ids, ImageDraws.of(1, "epoch 0", ids), progress)


def network(*, normalised: bool = True, pooled: bool = False) -> nn.Module:
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(4), nn.BatchNorm1d(8)] if normalised else [nn.Identity(), nn.Identity()]
    pool = nn.MaxPool2d(2, 1) if pooled else nn.Identity()
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), norms[0], nn.ReLU(), pool, nn.Flatten()),
        *(nn.Linear(36 if pooled else 64, 8), norms[1], nn.ReLU(), nn.Linear(8, 2)),
    )


def test_both_terms_by_hand() -> None:
    """A linear classifier's worst logits are those at a corner of the box, cut at [0, 1]."""
    model, one = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), batch(classes=3)
    losses = IntervalTraining(epsilon=0.1, clean_weight=0.3)(model, one)
    weight, bias = model[1].weight, model[1].bias
    worst = torch.empty(6, 3)
    for row, label in enumerate(one.labels.tolist()):
        for other in range(3):
            difference = weight[label] - weight[other]
            corner = (one.images[row].flatten() - 0.1 * difference.sign()).clamp(0, 1)
            worst[row, other] = -(corner @ difference + bias[label] - bias[other])
    expected = F.cross_entropy(worst, one.labels)
    clean = F.cross_entropy(model(one.images), one.labels)
    torch.testing.assert_close(losses.worst, expected)
    torch.testing.assert_close(losses.clean, clean)
    torch.testing.assert_close(losses.total, 0.3 * clean + 0.7 * expected)
    parts = losses.parts()
    assert parts["loss"] == losses.total.item()
    assert parts["certified batch accuracy"] == pytest.approx((worst.argmax(1) == one.labels).float().mean().item())
    assert parts["clean batch accuracy"] >= parts["certified batch accuracy"]


def test_radius_and_weight_follow_progress() -> None:
    objective = IntervalTraining(epsilon=0.2, start=0.1, warm_up=0.5, clean_weight=0.25)
    assert [objective.radius(one) for one in (0.0, 0.1, 0.3, 0.5, 0.9)] == pytest.approx([0, 0, 0.1, 0.2, 0.2])
    model = network(normalised=False)
    for progress, kappa in ((0.0, 1.0), (0.3, 0.625), (0.8, 0.25)):
        losses = objective(model, batch(progress))
        torch.testing.assert_close(losses.total, kappa * losses.clean + (1 - kappa) * losses.worst)
    at_once = IntervalTraining(warm_up=0.0)
    assert at_once.grown(0.0) == 1.0
    assert IntervalTraining(start=0.3, warm_up=0.3).grown(0.29) == 0.0


def test_the_first_term_is_of_attacked_images() -> None:
    """With two classes a linear classifier's worst image is one corner of the box, which one step finds."""
    model, one = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), batch()
    losses = IntervalTraining(epsilon=0.1, steps=1, step=2.0, clean_weight=0.9)(model, one)
    torch.testing.assert_close(losses.clean, losses.worst)
    assert losses.clean > F.cross_entropy(model(one.images), one.labels)
    torch.testing.assert_close(losses.total, 0.9 * losses.clean + 0.1 * losses.worst)
    parts = losses.parts()
    assert parts["attacked batch accuracy"] == pytest.approx(parts["certified batch accuracy"])
    assert "clean loss" not in parts
    before = IntervalTraining(steps=1)(model, batch(0.0))
    torch.testing.assert_close(before.clean, F.cross_entropy(model(one.images), one.labels))


@pytest.mark.parametrize("normalised", [False, True])
def test_without_a_radius_it_is_the_clean_cross_entropy(normalised) -> None:
    model, other = network(normalised=normalised), network(normalised=normalised)
    losses = IntervalTraining()(model, batch(0.0))
    expected = F.cross_entropy(other(batch().images), batch().labels)
    torch.testing.assert_close(losses.total, expected)
    torch.testing.assert_close(losses.worst, expected)
    losses.total.backward()
    expected.backward()
    for one, same in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, same.grad)


def test_crown_is_mixed_in_while_the_radius_grows() -> None:
    model = network(normalised=False)
    for progress, grown in ((0.1, 0.25), (0.2, 0.5), (0.5, 1.0)):
        plain, mixed = (IntervalTraining(warm_up=0.4, method=method)(model, batch(progress)) for method in METHODS)
        crown = _alone(model, batch(progress), 0.1 * grown)
        torch.testing.assert_close(mixed.margins, grown * plain.margins + (1 - grown) * crown)
        assert (progress == 0.5) == torch.equal(mixed.margins, plain.margins)


def _alone(model: nn.Module, one: Batch, epsilon: float) -> torch.Tensor:
    """Return CROWN-IBP's own bounds, in float32."""
    steps = steps_of(model)
    end, _ = follow(steps, image_box(one.images, epsilon))
    return margins(steps, end, one.labels, to_the_image=True)


@pytest.mark.parametrize("pooled", [False, True])
def test_in_eval_mode_training_has_the_bounds_of_proofs(pooled) -> None:
    model = network(pooled=pooled)
    for _ in range(3):
        IntervalTraining()(model, batch())
    model.eval()
    one = batch()
    found = IntervalTraining(epsilon=0.05)(model, one).margins
    expected = margin_bounds(model, one.images, one.labels, 0.05, method="ibp")
    torch.testing.assert_close(found, expected.float(), atol=1e-4, rtol=1e-4)


def test_batch_normalisation_takes_its_moments_from_the_clean_images() -> None:
    model, other = network().train(), network().train()
    one = batch()
    steps = steps_of(model, batch_moments)
    end, point = follow(steps, image_box(one.images, 0.05), point=one.images)
    torch.testing.assert_close(point, other(one.images))
    for name, buffer in other.named_buffers():
        torch.testing.assert_close(dict(model.named_buffers())[name], buffer, msg=name)
    moved = (one.images + 0.05 * (2 * torch.rand_like(one.images) - 1)).clamp(0, 1)
    for step in steps:  # with the moments of the clean images, everything in the box stays in the bounds
        moved = step.box(Box(moved, moved)).lower
    assert bool((end.lower - 1e-5 <= moved).all())
    assert bool((moved <= end.upper + 1e-5).all())


@pytest.mark.parametrize("momentum", [None, 0.3])
def test_running_moments_are_kept_as_the_layer_keeps_them(momentum) -> None:
    ours, theirs = (nn.Sequential(nn.BatchNorm2d(1, momentum=momentum)).train() for _ in range(2))
    for seed in range(3):
        images = torch.rand((5, 1, 4, 4), generator=torch.Generator().manual_seed(seed))
        follow(steps_of(ours, batch_moments), image_box(images, 0.1), point=images)
        theirs(images)
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[name], buffer, msg=name)


def test_dropout_is_refused_while_it_drops() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 2)).train()
    with pytest.raises(ValueError, match=r"use p=0, or model\.eval\(\)"):
        IntervalTraining()(model, batch())
    IntervalTraining()(model.eval(), batch())


def test_regularisation_by_hand() -> None:
    """Two neurons, one active and one not; boxes twice as wide as the first."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[3.0], [-1.0]]))
        model[1].bias.zero_()
    steps = steps_of(model)
    follow(steps, Box(torch.tensor([[[[0.4]]]]), torch.tensor([[[[0.6]]]])))
    # radii .1, then .3 and .1: mean .2, so .1 / .2 is the tolerance; centres 1.5 and -.5, mean .5, variances alike
    assert imbalance(steps).item() == pytest.approx((0.5 - 1 / 3) / 0.5, abs=1e-5)
    with torch.no_grad():
        model[1].weight.mul_(2)
    follow(steps, Box(torch.tensor([[[[0.4]]]]), torch.tensor([[[[0.6]]]])))
    assert imbalance(steps).item() == pytest.approx((0.5 - 0.25) / 0.5 + (0.5 - 1 / 3) / 0.5, abs=1e-5)
    assert float(imbalance(steps_of(nn.Sequential(nn.Flatten())))) == 0.0


def test_regularisation_fades_and_has_gradients_without_nan() -> None:
    model = network(normalised=False)
    with torch.no_grad():
        model[0].bias.fill_(-100)  # no neuron is active
    objective = IntervalTraining(regularisation=0.5, warm_up=0.4)
    losses = objective(model, batch(0.2))
    assert losses.regularisation > 0
    without = replace(objective, regularisation=0.0)(model, batch(0.2))
    torch.testing.assert_close(losses.total, without.total + 0.5 * 0.5 * losses.regularisation)
    losses.total.backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in model.parameters())
    assert objective(model, batch(0.4)).regularisation == 0


@pytest.mark.parametrize("method", METHODS)
def test_every_weight_gets_a_gradient_under_autocast(method) -> None:
    model = network(pooled=method == "ibp").train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = IntervalTraining(method=method, regularisation=0.5)(model, batch(0.2))
    assert losses.total.dtype == torch.float32
    losses.total.backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in model.parameters())


CONFIG = FitConfig(
    epochs=12,
    batch_size=16,
    optimizer=OptimizerConfig(name="adam", learning_rate=1e-2, clip=10.0),
    precision="float32",
    checkpoint_every=2,
)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_it_certifies_what_training_on_clean_images_does_not(method, normalised) -> None:
    epsilon, images = 0.15, two_blobs(160)
    score = certified_accuracy(images, Linf(epsilon))
    plain, made = network(normalised=normalised), network(normalised=normalised)
    before = score(made.eval())
    fit(plain, Benign(), images, CONFIG, seed=1)
    fit(made, IntervalTraining(epsilon=epsilon, method=method, warm_up=0.6), images, CONFIG, seed=1)
    assert score(made) > max(score(plain), before) + 0.1
    assert score(made) > 0.7


@pytest.mark.parametrize("stop", [StopAt, KillAt])
@pytest.mark.parametrize("steps", [1, 7, 14])
def test_a_stopped_run_ends_bit_identical(tmp_path, stop, steps) -> None:
    objective = IntervalTraining(epsilon=0.1, regularisation=0.5, warm_up=0.6)
    config, images = replace(CONFIG, epochs=4), two_blobs()
    validate = certified_accuracy(two_blobs(20), Linf(0.05))
    whole, resumed, state = network(), network(), tmp_path / "state.safetensors"
    expected = fit(whole, objective, images, config, seed=1, validate=validate)
    with pytest.raises((KeyboardInterrupt, KilledError)):
        fit(network(), objective, images, config, seed=1, validate=validate, state=state, progress=stop(steps))
    assert fit(resumed, objective, images, config, seed=1, validate=validate, state=state) == expected
    assert_same(weights(whole), weights(resumed))


def test_it_works_at_perturbed_weights() -> None:
    model = network().train()
    losses = WeightPerturbation(objective=IntervalTraining(), gamma=0.01)(model, batch())
    plain = IntervalTraining()(network().train(), batch())
    assert losses.total > plain.total
    losses.total.backward()
    assert all(one.grad is not None for one in model.parameters())


def test_the_score_is_the_share_of_images_that_are_proven() -> None:
    model, images = network().eval(), two_blobs(40)
    score = certified_accuracy(images, Linf(0.01))
    expected = verified(model, images.floats(), images.labels, 0.01, method="ibp").float().mean()
    assert score(model) == pytest.approx(float(expected))
    with torch.autocast("cpu", torch.bfloat16):
        assert score(model) == pytest.approx(float(expected))
    with pytest.raises(ValueError, match=r"give Linf\(epsilon\)"):
        certified_accuracy(images, L2(0.5))


@pytest.mark.parametrize("build", [IntervalCnn, cnn7_narrow])
def test_initialisation_keeps_boxes_from_growing(build) -> None:
    shape = {"channels": 1, "size": 12, "classes": 10, "mean": (0.3,), "std": (0.35,)}
    with seeded(0, "network"):
        made = build(**shape, batch_norm=False)
    layers = [one for one in made.modules() if isinstance(one, (nn.Conv2d, nn.Linear))]
    for layer in layers[:-1]:
        inputs = layer.weight[0].numel()
        assert layer.weight.std().item() * inputs == pytest.approx(math.sqrt(2 * math.pi), rel=0.2)
        assert not layer.bias.any()
    assert not all(bool((layer.bias == 0).all()) for layer in layers), "the last layer is as torch draws it"
    usual = build(**shape, batch_norm=False)
    for module in usual.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.reset_parameters()
    images = torch.rand(4, 1, 12, 12)
    widths = [(upper - lower).mean() for lower, upper in (logit_bounds(one, images, 0.1) for one in (made, usual))]
    assert widths[0] < widths[1] / 3


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"epsilon": 8}, "8/255"),
        ({"method": "crown"}, "'crown-ibp'"),
        ({"start": 0.6}, "start <= warm_up"),
        ({"warm_up": 1.5}, "shares of training"),
        ({"clean_weight": 2}, "clean_weight is 2"),
        ({"regularisation": -1.0}, "at least 0"),
        ({"steps": -1}, "at least 0"),
        ({"step": 0.0}, "above 0"),
    ],
)
def test_bad_values(changed, said) -> None:
    with pytest.raises(ValueError, match=said):
        IntervalTraining(**changed)
