"""The gate's lemma: no two accepted images within epsilon of each other have different labels."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certificates.proving import Planes, images_of


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 6), epsilon=st.floats(0.01, 1.0))
def test_no_image_within_epsilon_is_accepted_with_another_label(seed: int, classes: int, epsilon: float) -> None:
    model, images = Planes(classes, seed), images_of(30, seed)
    moved = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)).double()
    moved = images + (epsilon * moved / moved.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).float() * 0.999
    moved = moved.clamp(0, 1)
    clean, other = model.certificates(images), model.certificates(moved)
    both = (clean.radii >= epsilon / 2) & (other.radii >= epsilon / 2)
    assert torch.equal(clean.labels[both], other.labels[both])


def test_half_of_epsilon_is_needed() -> None:
    """With a gate at a tenth of epsilon, some image is accepted with another label: the lemma is no tautology."""
    model, images = Planes(2, 0), images_of(200)
    step = (model.weight[1] - model.weight[0]).detach()
    clean = model.certificates(images)
    towards = torch.where(clean.labels == 0, 1.0, -1.0)[:, None] * step / step.norm()
    moved = (images.double() + 0.3 * towards.view(images.shape)).float()
    other = model.certificates(moved)
    passed = (clean.radii >= 0.03) & (other.radii >= 0.03) & (clean.labels != other.labels)
    assert bool(passed.any())
