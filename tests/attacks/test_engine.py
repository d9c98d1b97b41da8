"""The engine: which rows travel together, what a pass returns, and the layouts a model can take."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import victims
from memory_defense.attacks import ApgdTargeted, FabTargeted, Pgd, Square
from memory_defense.attacks.engine import (
    ASCENT_LOSSES,
    Victim,
    ascent_loss,
    attacked,
    check_settings,
    input_gradient,
    log_odds,
    reached,
)
from memory_defense.foreign import ModelError
from memory_defense.losses import LOSSES, cross_entropy
from memory_defense.passes import ACCELERATOR_MICRO_BATCH, CPU_MICRO_BATCH
from memory_defense.randomness import ImageDraws
from memory_defense.threat import Linf
from memory_defense.wrappers import CountingPasses


def test_the_cross_entropy_is_the_softplus_of_the_log_odds() -> None:
    logits = torch.randn(50, 7, generator=victims.generator()).double()
    labels = torch.arange(50) % 7
    torch.testing.assert_close(F.softplus(log_odds(logits, labels)), cross_entropy(logits, labels))


def test_log_odds_point_where_the_cross_entropy_points() -> None:
    logits = torch.randn(50, 7, generator=victims.generator()).double().requires_grad_()
    labels = torch.arange(50) % 7
    one, other = (torch.autograd.grad(f(logits, labels).sum(), logits)[0] for f in (log_odds, cross_entropy))
    torch.testing.assert_close(F.normalize(one), F.normalize(other))


def test_losses_are_found_by_name_and_turned_for_targets() -> None:
    logits, labels = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([0])
    assert set(ASCENT_LOSSES) == set(LOSSES)
    assert ascent_loss("margin")(logits, labels) == 2
    assert ascent_loss("margin", towards_label=True)(logits, labels) == -2
    with pytest.raises(ValueError, match="did you mean 'margin'"):
        ascent_loss("margins")


def test_reached_means_error_or_target() -> None:
    logits, labels = torch.eye(3), torch.tensor([0, 2, 2])
    assert reached(logits, labels).tolist() == [False, True, False]
    assert reached(logits, labels, towards_label=True).tolist() == [True, False, True]


def test_parts_cover_the_rows_in_order() -> None:
    victim = Victim(victims.mlp(), torch.zeros(10, dtype=torch.int64), 4)
    assert [part.tolist() for part in victim.parts(victim.all_rows())] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert list(victim.parts(torch.tensor([], dtype=torch.int64))) == []


def test_the_device_chooses_the_micro_batch() -> None:
    assert Victim(victims.mlp(), torch.zeros(1).long(), None).micro_batch == CPU_MICRO_BATCH
    on_meta = torch.zeros(1, dtype=torch.int64, device="meta")
    assert Victim(victims.mlp(), on_meta, None).micro_batch == ACCELERATOR_MICRO_BATCH


@pytest.mark.parametrize("micro_batch", [1, 4, 100, None])
def test_the_gradient_is_autograds_own(micro_batch: int | None) -> None:
    model, images = victims.conv(), victims.images(9, channels=3)
    labels = victims.right_answers(model, images)
    leaf = images.clone().requires_grad_()
    logits = model(leaf)
    expected = torch.autograd.grad(cross_entropy(logits, labels).sum(), leaf)[0]
    gradient, answers = input_gradient(model, images, labels, cross_entropy, micro_batch)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(answers, logits.detach())


def test_one_pass_serves_gradient_losses_and_logits() -> None:
    counted, images = CountingPasses(victims.row_bound(7)), victims.images(7)
    labels = torch.zeros(7, dtype=torch.int64)
    with attacked(counted, images, labels, 3) as victim:
        rows = torch.tensor([6, 1])
        one = victim.gradient(images[rows], rows, log_odds)
        assert (counted.passes.forward, counted.passes.backward) == (2, 2)
        torch.testing.assert_close(one.logits, victim.answers(images[rows], rows))
        assert not (one.gradient.requires_grad)
        assert not (one.losses.requires_grad)
        assert not (one.logits.requires_grad)
        assert one.losses.dtype == torch.float32
        torch.testing.assert_close(one.losses, log_odds(one.logits, labels[rows]).float())


class Noting(nn.Module):
    """Notes the memory layout of what it is given."""

    def __init__(self, views: bool) -> None:
        super().__init__()
        self.views, self.seen = views, list[bool]()

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.is_contiguous(memory_format=torch.channels_last))
        flat = images.view(len(images), -1) if self.views else images.flatten(1)
        return flat[:, : victims.CLASSES]


def test_a_model_gets_channels_last_images_if_it_can_take_them() -> None:
    images, labels = victims.images(6, channels=3), torch.zeros(6, dtype=torch.int64)
    able, unable = Noting(views=False), Noting(views=True)
    for model in (able, unable):
        gradient, _ = input_gradient(model, images, labels, cross_entropy, micro_batch=2)
        assert gradient.flatten(1)[:, : victims.CLASSES].abs().min() > 0
    assert able.seen == [True, True, True]
    assert unable.seen == [True, False, False, False], "one refusal, then never again"


def test_an_error_of_the_model_itself_comes_through() -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("broken inside")

    with pytest.raises(ModelError, match=r"raised RuntimeError: broken inside .*test_engine"):
        input_gradient(Broken(), victims.images(2), torch.zeros(2).long(), cross_entropy)


def test_settings_below_one_are_refused_by_name() -> None:
    check_settings("dlr", None, steps=1)
    for bad in (0, -3, 2.5, math.nan):
        with pytest.raises(ValueError, match=f"steps is {bad}"):
            check_settings("dlr", None, steps=bad)  # pyright: ignore
    with pytest.raises(ValueError, match="micro_batch is 0"):
        check_settings("dlr", 0)


@pytest.mark.parametrize(
    "made", [Pgd(steps=2), ApgdTargeted(steps=2, loss="margin"), Square(queries=2), FabTargeted(steps=2)]
)
def test_a_model_with_one_logit_is_refused_when_an_attack_is_called(made) -> None:
    clean, draws = victims.images(3), ImageDraws.of(0, "one", 3)
    one = victims.affine(classes=1)
    with pytest.raises(ValueError, match=r"answers with 1 logit .*torch.cat\(\[torch.zeros_like\(z\), z\], 1\)"):
        made(one, clean, torch.zeros(3, dtype=torch.int64), Linf(0.1), draws)
