"""Scores by hand, in their ranges, with gradients, and the flag that looks at them."""

from __future__ import annotations

import pytest
import torch

from memory_defense.contracts import Flagging
from memory_defense.defenses.memory import evidence as module
from memory_defense.defenses.memory.evidence import SCORES, regret


def test_regret_by_hand() -> None:
    errors = torch.tensor([[0.1, 0.3, 0.5]] * 4)
    certain = torch.eye(3)
    mixed = torch.tensor([[0.5, 0.25, 0.25]])
    found = regret(errors, torch.cat([certain, mixed]))
    # (0.5 * 0.1 + 0.25 * 0.3 + 0.25 * 0.5 - 0.1) / (0.5 - 0.1)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.5, 1.0, 0.375]))


def test_regret_has_no_unit() -> None:
    errors, beliefs = torch.rand(20, 5), torch.randn(20, 5).softmax(1)
    found = regret(errors, beliefs)
    torch.testing.assert_close(regret(errors * 7, beliefs), found)
    torch.testing.assert_close(regret(errors + 3, beliefs), found, atol=1e-5, rtol=1e-4)
    assert ((found >= 0) & (found <= 1)).all()


def test_equal_errors_are_no_evidence() -> None:
    assert regret(torch.full((2, 4), 0.3), torch.randn(2, 4).softmax(1)).tolist() == [0.0, 0.0]


def test_reconstruction_is_the_traces_error(build, batch) -> None:
    defense, images = build(), batch(6).images
    torch.testing.assert_close(defense.scores(images)["reconstruction"], defense.trace(images).reconstruction_error)


def test_disagreement_asks_every_slot(build, batch) -> None:
    """Slot by slot, with the slots dictated one after the other."""
    defense, images = build(), batch(6).images
    errors = torch.stack(
        [
            (images - defense.reconstruct(images, torch.full((6,), slot))).square().mean((1, 2, 3))
            for slot in range(defense.classes)
        ],
        1,
    )
    beliefs = defense.selector(images).softmax(1)
    low, high = errors.min(1).values, errors.max(1).values
    expected = ((beliefs * errors).sum(1) - low) / (high - low)
    torch.testing.assert_close(defense.scores(images)["disagreement"], expected, atol=1e-4, rtol=1e-3)


def test_many_classes_are_asked_in_parts(build, batch, monkeypatch) -> None:
    defense, images = build(), batch(21).images
    whole = defense.scores(images)["disagreement"]
    monkeypatch.setattr(module, "RECONSTRUCTIONS", 8 * defense.classes)
    sizes: list[int] = []
    every = defense.reconstruct_all
    monkeypatch.setattr(defense, "reconstruct_all", lambda part: (sizes.append(len(part)), every(part))[1])
    torch.testing.assert_close(defense.scores(images)["disagreement"], whole)
    assert sizes == [8, 8, 5]


def test_a_selector_sure_of_the_worst_slot_disagrees_most(build, batch) -> None:
    defense, images = build(), batch(6).images
    errors = (images[:, None] - defense.reconstruct_all(images)).square().mean((2, 3, 4))

    class Sure(torch.nn.Module):
        def __init__(self, slots: torch.Tensor) -> None:
            super().__init__()
            self.slots = slots

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 200.0 * torch.nn.functional.one_hot(self.slots, 4).float()

    defense.selector = Sure(errors.argmax(1))
    assert (defense.scores(images)["disagreement"] > 0.999).all()
    defense.selector = Sure(errors.argmin(1))
    assert (defense.scores(images)["disagreement"] < 0.001).all()


@pytest.mark.parametrize("name", SCORES)
def test_scores_have_gradients_to_the_image(build, batch, name) -> None:
    defense, images = build(), batch(4).images.requires_grad_()
    (slope,) = torch.autograd.grad(defense.scores(images)[name].sum(), images)
    assert (slope.flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize("name", SCORES)
def test_the_flag_looks_at_its_score(build, batch, name) -> None:
    defense, images = build(), batch(12).images
    assert isinstance(defense, Flagging)
    with torch.no_grad():
        scores = defense.scores(images)[name]
    defense.flag_score, defense.flag_threshold = name, float(scores.sort().values[7])
    flagged = defense.suspicious(images)
    assert torch.equal(flagged, scores > defense.flag_threshold)
    assert int(flagged.sum()) == 4


def test_an_unknown_score_is_refused(build, batch) -> None:
    defense = build()
    defense.flag_score, defense.flag_threshold = "disagrement", 0.1
    with pytest.raises(ValueError, match="did you mean 'disagreement'"):
        defense.suspicious(batch(2).images)
