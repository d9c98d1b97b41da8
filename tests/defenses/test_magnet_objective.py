"""MagNet's training: its terms by plain arithmetic, and noise that belongs to an image."""

from __future__ import annotations

import pytest
import torch

from memory_defense.contracts import Batch
from memory_defense.data.images import load_dataset
from memory_defense.data.sources import DataNotFoundError
from memory_defense.defenses.magnet import MagNet, MagNetObjective, build_magnet
from memory_defense.networks.classifiers import Linear
from memory_defense.randomness import ImageDraws


def build(size: int = 8, gain: float = 1.0) -> MagNet:
    """Return a small MagNet; with a larger gain its autoencoders are far from constant."""
    torch.manual_seed(0)
    classifier = Linear(channels=1, size=size, classes=10, mean=(0.3,), std=(0.4,))
    defense = build_magnet(classifier=classifier, channels=1)
    with torch.no_grad():
        for parameter in [*defense.reformer.parameters(), *defense.detector.parameters()]:
            parameter.mul_(gain)
    return defense


def batch(ids: torch.Tensor, images: torch.Tensor, epoch: int = 0) -> Batch:
    return Batch(images, torch.zeros(len(ids), dtype=torch.int64), ids, ImageDraws.of(epoch, "epoch", ids), 0.0)


def test_every_term_by_plain_arithmetic():
    defense, images = build().eval(), torch.rand(5, 1, 8, 8)
    one, two = defense.reformer(images), defense.detector(images)
    errors = [float(((images - made) ** 2).sum().detach()) / (5 * 64) for made in (one, two)]
    activity = float((defense.reformer.reconstruct(images).activity.sum()).detach())
    activity = (activity + float(defense.detector.reconstruct(images).activity.sum().detach())) / 5

    parts = MagNetObjective(activity=1e-3)(defense, batch(torch.arange(5), images)).parts()

    expected = {"reformer": errors[0], "detector": errors[1], "activity": activity}
    assert parts == pytest.approx({**expected, "total": sum(errors) + 1e-3 * activity}, rel=1e-5)


def test_noise_belongs_to_the_image_and_is_the_same_in_every_epoch():
    defense, images = build(gain=5).train(), torch.rand(6, 1, 8, 8)
    ids, objective = torch.arange(100, 106), MagNetObjective(noise_std=0.5)
    order = torch.tensor([3, 0, 5, 1, 2, 4])

    first = objective(defense, batch(ids, images)).parts()
    again = objective(defense, batch(ids, images, epoch=9)).parts()
    shuffled = objective(defense, batch(ids[order], images[order])).parts()
    others = objective(defense, batch(ids + 1, images)).parts()

    assert first == again
    assert shuffled == pytest.approx(first, rel=1e-5)
    assert others["reformer"] != pytest.approx(first["reformer"], rel=1e-5)
    assert MagNetObjective(noise_std=0.5, seed=1)(defense, batch(ids, images)).parts() != first


def test_the_clean_image_is_the_goal_and_the_noisy_one_stays_in_range():
    defense, images = build().train(), torch.rand(4, 1, 8, 8)
    ids, seen = torch.arange(4), []
    defense.reformer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    noise = ImageDraws.of(0, "magnet noise", ids).normal(1, 8, 8)
    noisy = (images + 0.3 * noise).clamp(0, 1)

    losses = MagNetObjective(noise_std=0.3)(defense, batch(ids, images))

    expected = (defense.reformer(noisy) - images).square().mean()
    assert torch.allclose(losses.reformer, expected)
    assert (noisy != images).float().mean() > 0.5
    defense.eval()
    quiet = MagNetObjective(noise_std=0.3)(defense, batch(ids, images)).reformer
    assert torch.allclose(quiet, (defense.reformer(images) - images).square().mean())


def test_both_autoencoders_are_trained_and_the_classifier_is_not():
    defense = build().train()

    MagNetObjective()(defense, batch(torch.arange(4), torch.rand(4, 1, 8, 8))).total.backward()

    assert not defense.classifier.training
    assert all(parameter.grad is None for parameter in defense.classifier.parameters())
    for part in (defense.reformer, defense.detector):
        assert all(parameter.grad.abs().sum() > 0 for parameter in part.parameters())


@pytest.mark.parametrize("options", [{"noise_std": -1}, {"activity": float("nan")}])
def test_bad_settings_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is"):
        MagNetObjective(**options)


def test_a_few_steps_on_fashion_mnist_lower_both_errors_on_other_images():
    try:
        splits = load_dataset("fashion-mnist", offline=True)
    except DataNotFoundError:
        pytest.skip("no source of Fashion-MNIST here")
    defense = build(28)
    trained = [parameter for parameter in defense.parameters() if parameter.requires_grad]
    objective, optimizer = MagNetObjective(), torch.optim.Adam(trained, 3e-2)
    clean = splits.held_out.floats(torch.arange(50))

    def errors() -> dict[str, float]:
        with torch.no_grad():
            return dict(objective(defense.eval(), batch(torch.arange(50), clean)).parts())

    before = errors()
    for step in range(40):
        rows = torch.arange(16 * step, 16 * (step + 1))
        losses = objective(defense.train(), batch(splits.train.ids[rows], splits.train.floats(rows)))
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    after = errors()

    assert after["reformer"] < 0.8 * before["reformer"]
    assert after["detector"] < 0.8 * before["detector"]
