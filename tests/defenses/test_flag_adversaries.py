"""Who fights a flag: what counts as a success, and where the gradient leads, on logits in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from memory_defense.contracts import Binding, RowBound
from memory_defense.defenses.flag_adversaries import AlarmBinder, ConfidentBinder, Look, SilentBinder


def classifier(images: torch.Tensor) -> torch.Tensor:
    """Three classes: of the first pixel, of its negative, and of the second pixel."""
    flat = images.flatten(1)
    return torch.stack([4 * (flat[:, 0] - 0.5), -4 * (flat[:, 0] - 0.5), 3 * (flat[:, 1] - 0.9)], 1)


def excess(images: torch.Tensor) -> torch.Tensor:
    """Flagged where the first pixel lies in the middle: the flag guards the border of two classes."""
    return 0.2 - (images.flatten(1)[:, 0] - 0.5).abs()


def look(images: torch.Tensor) -> Look:
    logits = classifier(images)
    return Look(logits, excess(images), logits.log_softmax(1))


def point(*pixels: float) -> torch.Tensor:
    return torch.tensor([*pixels, *[0.0] * (4 - len(pixels))]).view(1, 1, 2, 2)


def slope(model, image: torch.Tensor, wrong: int, right: int) -> torch.Tensor:
    """Return the gradient of the lead of a class over the right one."""
    leaf = image.clone().requires_grad_()
    logits = model(leaf)
    return torch.autograd.grad((logits[:, wrong] - logits[:, right]).sum(), leaf)[0].flatten()


BINDERS = {
    "silent": SilentBinder(classifier, excess),
    "crossing": SilentBinder(classifier, excess, crossing=True),
    "confident": ConfidentBinder(look),
}


@pytest.mark.parametrize("name", BINDERS)
def test_success_is_wrong_and_accepted_and_nothing_else(name: str) -> None:
    images = torch.rand(200, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    clean = point(0.95, 0.2).expand(200, -1, -1, -1)
    bound = BINDERS[name].bind(clean)
    assert isinstance(BINDERS[name], Binding)
    assert isinstance(bound, RowBound)
    wrong, flagged = classifier(images).argmax(1) != 0, excess(images) > 0
    assert 0 < int((wrong & flagged).sum()) < int(wrong.sum()), "the flag tells some of the wrong ones"
    assert torch.equal(bound(images).argmax(1) != 0, wrong & ~flagged)
    rows = torch.tensor([7, 3, 7])
    torch.testing.assert_close(bound.rows(rows)(images[rows]), bound(images)[rows])


@pytest.mark.parametrize("name", BINDERS)
def test_an_image_that_is_wrong_when_clean_is_bound_to_its_true_class(name: str) -> None:
    image = point(0.05, 0.2)  # answered with 1, whatever the label
    assert int(BINDERS[name].bind(image)(image).argmax()) == 1
    right = torch.tensor([0])
    assert int(BINDERS[name].bind_to(image, right)(image).argmax()) == 1, "wrong and accepted at once"
    middle = point(0.45, 0.2)  # wrong and flagged
    assert int(BINDERS[name].bind_to(middle, right)(middle).argmax()) == 0


def test_silent_turns_back_at_a_guarded_border_and_crossing_goes_on() -> None:
    """A flag that rises towards the border: on the near side, lowering it leads away from every wrong answer."""
    near, far = point(0.6, 0.2), point(0.45, 0.2)  # both flagged, the first still right
    clean = point(0.95, 0.2)
    silent, crossing = (BINDERS[name].bind(clean) for name in ("silent", "crossing"))
    assert slope(silent, near, wrong=1, right=0)[0] > 0, "a brighter first pixel: back"
    assert slope(crossing, near, wrong=1, right=0)[0] < 0, "a darker one: on"
    assert slope(silent, far, wrong=1, right=0)[0] < 0
    assert slope(crossing, far, wrong=1, right=0)[0] < 0


def test_confident_climbs_the_log_probability_of_the_class_it_leads_to() -> None:
    image, clean = point(0.6, 0.3), point(0.95, 0.2)
    found = slope(BINDERS["confident"].bind(clean), image, wrong=2, right=0)
    leaf = image.clone().requires_grad_()
    (expected,) = torch.autograd.grad(classifier(leaf).log_softmax(1)[0, 2], leaf)
    torch.testing.assert_close(found, expected.flatten())


def test_an_alarm_is_raised_by_a_flag_or_an_error_and_by_nothing_else() -> None:
    images = torch.rand(200, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    clean = point(0.95, 0.2).expand(200, -1, -1, -1)
    bound = AlarmBinder(classifier, excess).bind(clean)
    wrong, flagged = classifier(images).argmax(1) != 0, excess(images) > 0
    assert torch.equal(bound(images).argmax(1) != 0, wrong | flagged)
    assert int((flagged & ~wrong).sum()) > 0
    rows = torch.tensor([7, 3, 7])
    torch.testing.assert_close(bound.rows(rows)(images[rows]), bound(images)[rows])
    image = point(0.85, 0.2)  # right and accepted
    leaf = image.clone().requires_grad_()
    (expected,) = torch.autograd.grad(excess(leaf).sum(), leaf)
    torch.testing.assert_close(slope(bound.rows(rows[:1]), image, wrong=1, right=0), expected.flatten())


def test_a_weight_that_says_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="weight is 0"):
        SilentBinder(nn.Identity(), excess, weight=0)
    with pytest.raises(ValueError, match="weight is -1"):
        ConfidentBinder(look, weight=-1)
