import math
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from memory_defense.contracts import Batch
from memory_defense.defenses.memory.objective import (
    MemoryLosses,
    MemoryObjective,
    entropy,
    nontarget_gradient_share,
    statistics_kept,
)
from memory_defense.defenses.memory.slots import SlotMemory
from memory_defense.randomness import ImageDraws


class Pixels(nn.Module):
    """Images (B, 1, 1, 2) to and from codes (B, 2): an autoencoder that changes nothing."""

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.flatten(1) if tensor.dim() == 4 else tensor.reshape(-1, 1, 1, 2)


def by_hand() -> tuple[SimpleNamespace, Batch]:
    """Return a stand-in for a defense that pen and paper can follow: two classes, two items for each."""
    memory = SlotMemory(items=4, code_size=2, classes=2, shrink_threshold=0, keep_one=False).double()
    with torch.no_grad():
        memory.items.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0], [1.0, 1.0]]))
    model = SimpleNamespace(
        classes=2,
        training=False,
        normalize=nn.Identity(),
        encoder=Pixels(),
        memory=memory,
        decoder=Pixels(),
        classifier_b=nn.Flatten(),
    )
    images = torch.tensor([[0.6, 0.8], [1.0, 0.0]], dtype=torch.float64).reshape(2, 1, 1, 2)
    labels = torch.tensor([0, 1])
    return model, Batch(images, labels, labels, ImageDraws.of(0, "test", 2), 0.0)


def expected_terms(*, mean_over_pixels: bool) -> dict[str, float]:
    """Return Eq. 13's terms of `by_hand` by plain arithmetic."""
    items = [(1.0, 0.0), (0.0, 2.0), (3.0, 4.0), (1.0, 1.0)]
    cosines = [[0.6, 0.8, 1.0, 1.4 / math.sqrt(2)], [1.0, 0.0, 0.6, 1 / math.sqrt(2)]]
    images, labels = [(0.6, 0.8), (1.0, 0.0)], [0, 1]
    terms = dict.fromkeys(("error", "entropy", "other error", "other entropy", "cross entropy"), 0.0)
    for (first, second), label, logits in zip(images, labels, cosines, strict=True):
        for kind, slot in (("", label), ("other ", 1 - label)):
            chosen = [2 * slot, 2 * slot + 1]
            powers = [math.exp(logits[index]) for index in chosen]
            weights = [power / sum(powers) for power in powers]
            made = [sum(w * items[i][d] for w, i in zip(weights, chosen, strict=True)) for d in (0, 1)]
            pixels = 2 if kind and mean_over_pixels else 1
            terms[f"{kind}error"] += ((first - made[0]) ** 2 + (second - made[1]) ** 2) / pixels / 2
            terms[f"{kind}entropy"] -= sum(w * math.log(w) for w in weights) / 2
            if not kind:
                terms["cross entropy"] += (math.log(math.exp(made[0]) + math.exp(made[1])) - made[label]) / 2
    return terms


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_every_term_agrees_with_plain_arithmetic(reduction):
    model, batch = by_hand()
    objective = MemoryObjective(alpha=0.3, beta=0.7, cross_entropy=0.9, nontarget_reduction=reduction)
    terms = expected_terms(mean_over_pixels=reduction == "mean")
    other = terms["other error"] + 0.3 * terms["other entropy"]
    penalty = 0.7 / (1 + math.exp(-other / (2 - 1)))

    parts = objective(model, batch).parts()

    assert parts == pytest.approx(
        {
            "total": terms["error"] + 0.3 * terms["entropy"] - penalty + 0.9 * terms["cross entropy"],
            "target_reconstruction": terms["error"],
            "target_entropy": terms["entropy"],
            "nontarget_reconstruction": terms["other error"],
            "nontarget_entropy": terms["other entropy"],
            "nontarget_term": penalty,
            "cross_entropy": terms["cross entropy"],
        },
        rel=1e-6,
    )


def test_parts_are_all_the_named_terms_as_numbers(build, batch):
    losses = MemoryObjective()(build(), batch())

    parts = losses.parts()

    assert list(parts) == [one.name for one in fields(MemoryLosses)]
    assert all(isinstance(value, float) for value in parts.values())
    assert losses.total.requires_grad
    assert losses.total.shape == ()


def test_entropy_counts_zeros_as_nothing_and_differentiates_there():
    weights = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)

    value = entropy(weights)
    (gradient,) = torch.autograd.grad(value.sum(), weights)

    assert torch.allclose(value, torch.tensor([math.log(2), 0.0, 0.0]))
    assert gradient.isfinite().all()
    assert torch.allclose(gradient[0, :2], torch.full((2,), math.log(2) - 1))


def test_reconstructions_are_compared_in_normalised_space(build, batch):
    defense, given = build(), batch()

    losses = MemoryObjective()(defense, given)

    pixels = defense.reconstruct(given.images, given.labels)
    expected = ((given.images - pixels) / 0.4).square().sum((1, 2, 3)).mean()
    assert torch.allclose(losses.target_reconstruction, expected, rtol=1e-4)


def test_slots_come_from_the_label_and_the_selector_is_not_even_run(build, batch):
    defense, given = build(), batch()
    expected = MemoryObjective()(defense, given).parts()
    defense.selector.forward = None  # type: ignore[assignment]

    assert MemoryObjective()(defense, given).parts() == expected
    with pytest.raises(TypeError):
        MemoryObjective(slot_source="selector")(defense, given)


def test_slots_can_come_from_the_selector(build, batch):
    defense, given = build(), batch()
    chosen = given._replace(labels=defense.choose_slots(given.images))
    wrong = given._replace(labels=(chosen.labels + 1) % 4)
    objective = MemoryObjective(slot_source="selector")

    right = MemoryObjective()(defense, chosen).target_reconstruction

    assert torch.equal(objective(defense, wrong).target_reconstruction, right)
    assert not torch.equal(MemoryObjective()(defense, wrong).target_reconstruction, right)


def test_all_parts_are_trained_but_the_selector(build, batch):
    defense = build().train()

    MemoryObjective()(defense, batch()).total.backward()

    assert all(parameter.grad is None for parameter in defense.selector.parameters())
    for part in (defense.encoder, defense.memory, defense.decoder, defense.classifier_b):
        assert all(parameter.grad.abs().sum() > 0 for parameter in part.parameters())


def test_noise_is_added_in_training_only_and_the_clean_image_is_the_goal(build, batch):
    defense, given = build(), batch()
    noisy, quiet = MemoryObjective(noise_std=0.3), MemoryObjective(noise_std=0)
    for layer in defense.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0

    assert noisy(defense, given).parts() == quiet(defense, given).parts()
    defense.train()
    for layer in defense.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    seen = given.images + 0.3 * given.draws.normal(1, 16, 16)
    expected = quiet.losses(defense, given.images, given.labels, seen).parts()
    reconstructed = defense.reconstruct(seen, given.labels)
    error = ((given.images - reconstructed) / 0.4).square().sum((1, 2, 3)).mean()
    assert expected["target_reconstruction"] == pytest.approx(float(error.detach()), rel=1e-4)
    assert noisy(defense, given).parts() == pytest.approx(expected)
    assert noisy(defense, given).parts() != pytest.approx(quiet(defense, given).parts())


def test_running_statistics_describe_target_reconstructions_only(build, batch):
    first, given = build().train(), batch()
    second = build().train()
    second.load_state_dict(first.state_dict())

    MemoryObjective(noise_std=0)(first, given)
    second.answer(given.images, given.labels)

    for one, other in zip(first.decoder.layers, second.decoder.layers, strict=True):
        if isinstance(one, nn.BatchNorm2d):
            assert torch.allclose(one.running_mean, other.running_mean, atol=1e-6)
            assert torch.allclose(one.running_var, other.running_var, atol=1e-6)
            assert one.momentum == 0.1


def test_statistics_are_followed_again_even_after_an_error():
    layer = nn.BatchNorm2d(1)
    before = layer.running_mean.clone()

    with pytest.raises(ValueError, match="4D"), statistics_kept(nn.Sequential(layer)):
        nn.Sequential(layer, nn.Flatten(), layer)(torch.rand(4, 1, 2, 2) + 5)

    assert torch.equal(layer.running_mean, before)
    layer(torch.rand(4, 1, 2, 2) + 5)
    assert not torch.equal(layer.running_mean, before)


def test_the_nontarget_share_is_the_ratio_of_gradients():
    model, batch = by_hand()
    objective = MemoryObjective(alpha=0.3, beta=0.7, cross_entropy=0.9)
    losses = objective(model, batch)
    of_total = torch.autograd.grad(losses.total, model.memory.items, retain_graph=True)[0]
    of_term = torch.autograd.grad(losses.nontarget_term, model.memory.items)[0]

    share = nontarget_gradient_share(model, batch.images, batch.labels, objective)

    assert share == pytest.approx(float(of_term.norm() / of_total.norm()))
    assert share > 0.01


def test_with_a_summed_error_the_nontarget_term_is_inert_and_with_a_mean_it_is_less_so(build, batch):
    defense, given = build(), batch()

    def share(**options) -> float:
        return nontarget_gradient_share(defense, given.images, given.labels, MemoryObjective(**options))

    assert share() < 1e-6
    assert share(nontarget_reduction="mean") > 10 * share()
    assert share(beta=0) == 0


def test_autocast_keeps_the_loss_in_single_precision(build, batch):
    defense, given = build(), batch()
    expected = MemoryObjective()(defense, given)

    with torch.autocast("cpu", torch.bfloat16):
        losses = MemoryObjective()(defense, given)

    assert losses.total.dtype == torch.float32
    assert torch.allclose(losses.total, expected.total, rtol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1}, "alpha is -1"),
        ({"noise_std": -0.1}, "noise_std is -0.1"),
        ({"nontarget_reduction": "max"}, "'max', expected 'sum' or 'mean'"),
        ({"slot_source": "oracle"}, "expected 'label' or 'selector'"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MemoryObjective(**options)


def test_the_objective_is_a_value():
    assert MemoryObjective() == MemoryObjective(alpha=2e-4, beta=1e-4, cross_entropy=1.0, noise_std=1e-4)
    assert "beta=0.5" in repr(MemoryObjective(beta=0.5))
