"""The wrappers: exact values, the right gradients, rows passed on, and models left as they were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from attacks import victims
from memory_defense.contracts import RowBound
from memory_defense.wrappers import (
    Bpda,
    CountingPasses,
    Eot,
    Resubmission,
    StraightThrough,
    exact_float32,
    frozen,
    modules_known,
    modules_of,
    replace_value,
    rows_of,
)


def gradient_of(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    leaf = images.clone().requires_grad_()
    return torch.autograd.grad(function(leaf).sum(), leaf)[0]


def test_rows_reach_row_bound_models_only() -> None:
    model, index = victims.row_bound(5), torch.tensor([4, 1])
    assert torch.equal(rows_of(model, index).offsets, model.offsets[index])
    network = victims.mlp()
    assert rows_of(network, index) is network


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: Bpda(model, model),
        lambda model: Eot(model, 2),
        lambda model: Resubmission(model, torch.zeros(5, dtype=torch.int64), 2),
        CountingPasses,
        lambda model: CountingPasses(Eot(Bpda(model, model), 1)),
    ],
)
def test_wrappers_pass_rows_on(wrap: Callable[..., Callable[[Tensor], Tensor]]) -> None:
    model, images, index = victims.row_bound(5), victims.images(5), torch.tensor([3, 0])
    wrapped = wrap(model)
    assert isinstance(wrapped, RowBound)
    torch.testing.assert_close(rows_of(wrapped, index)(images[index]), model(images)[index])


@dataclass(frozen=True, slots=True)
class Held:
    network: nn.Module

    def answer(self, images: Tensor) -> Tensor:
        return self.network(images)


def test_modules_are_found_wherever_a_call_can_reach_them() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())

    def closure(images: Tensor) -> Tensor:
        return network(images)

    for model in (
        network,
        closure,
        lambda images: network(2 * images),
        partial(Held.answer, Held(network)),
        Held(network).answer,
        network.forward,
        [{"network": network}],
        CountingPasses(Eot(Bpda(torch.round, closure), 3)),
    ):
        assert set(modules_of(model)) == set(network.modules())
        assert len(list(modules_of(model))) == 3
    assert list(modules_of(torch.round)) == []


def test_a_model_that_refers_to_itself_is_walked_once() -> None:
    network = nn.Linear(2, 2)
    network.hook = [network, lambda: network]
    assert list(modules_of(network)) == [network]


@pytest.mark.parametrize("fails", [False, True])
def test_frozen_restores_every_flag(fails: bool) -> None:
    model = victims.training()
    flags = [module.training for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    assert len(set(flags)) == len(set(wanted)) == 2, "the test needs a mixture"
    try:
        with frozen(CountingPasses(model)):
            assert not any(module.training for module in model.modules())
            assert not any(parameter.requires_grad for parameter in model.parameters())
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert [module.training for module in model.modules()] == flags
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted


class Announcing(nn.Module):
    """Keeps a value that is only good in eval mode, and drops it through ``train``."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.cache = nn.Linear(1, 1), "stale"

    def train(self, mode: bool = True) -> Announcing:
        self.cache = "dropped" if mode else "fresh"
        return super().train(mode)


def test_frozen_switches_modes_through_train() -> None:
    model = Announcing()
    with frozen(model):
        assert model.cache == "fresh"
    assert model.cache == "dropped"


class Stubborn(nn.Linear):
    """Refuses to be put into training mode by ``train``."""

    def train(self, mode: bool = True) -> Stubborn:
        del mode
        return super().train(False)


def test_flags_set_by_hand_come_back_too() -> None:
    model = nn.Sequential(Stubborn(1, 1))
    model[0].training = True
    with frozen(model):
        assert not model[0].training
    assert model[0].training


def test_frozen_nests() -> None:
    model = victims.training()
    flags = [module.training for module in model.modules()]
    with frozen(model):
        with frozen(model):
            pass
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == flags


def test_bpda_has_one_functions_value_and_the_others_gradient() -> None:
    images = victims.images(4)
    forward, backward = (lambda x: (7 * x).round() / 7), (lambda x: x**2)
    wrapped = Bpda(forward, backward)
    leaf = images.clone().requires_grad_()
    assert torch.equal(wrapped(leaf), forward(images)), "the value must be exact, not nearly"
    torch.testing.assert_close(gradient_of(wrapped, images), 2 * images)
    assert torch.equal(gradient_of(StraightThrough(forward), images), torch.ones_like(images))


def test_bpda_spares_the_stand_in_when_no_gradient_is_wanted() -> None:
    def backward(images: Tensor) -> Tensor:
        raise AssertionError

    images = victims.images(2)
    assert torch.equal(Bpda(torch.round, backward)(images), images.round())
    with torch.no_grad():
        assert torch.equal(Bpda(torch.round, backward)(images.requires_grad_()), images.round())


def test_a_stand_in_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 1\)"):
        replace_value(torch.zeros(2, 3), torch.zeros(2, 1))


class Cycling(nn.Module):
    """Answers 1, 2, 3, ... times the first two pixels: a classifier that draws at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return self.calls * images.flatten(1)[:, :2]


def test_eot_averages_values_and_gradients() -> None:
    images = victims.images(3)
    first = images.flatten(1)[:, :2]
    torch.testing.assert_close(Eot(Cycling(), 3)(images), 2 * first)
    expected = torch.zeros_like(images)
    expected.view(3, -1)[:, :2] = 2
    torch.testing.assert_close(gradient_of(Eot(Cycling(), 3), images), expected)
    mixture = Eot(Cycling(), 3, average="probabilities")(images).exp()
    torch.testing.assert_close(mixture, sum((k * first).softmax(1) for k in (1, 2, 3)) / 3)


def test_eot_refuses_settings_without_meaning() -> None:
    with pytest.raises(ValueError, match="samples is 0"):
        Eot(Cycling(), 0)
    with pytest.raises(ValueError, match="'median'"):
        Eot(Cycling(), 2, average="median")


class Listed(nn.Module):
    """Answers from a list of logits (A, B, K), plus the first pixel times the call's number for class 1."""

    def __init__(self, answers: Tensor) -> None:
        super().__init__()
        self.answers, self.calls = answers, 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        bump = torch.zeros(self.answers.shape[2])
        bump[1] = self.calls
        return self.answers[self.calls - 1] + bump * images.flatten(1)[:, :1]


def test_resubmission_takes_each_images_worst_answer_for_its_label() -> None:
    answers = torch.tensor(
        [
            [[5.0, 0.0, 1.0], [0.0, 9.0, 0.0]],  # margins against the labels 0 and 1: -4, -9
            [[2.0, 0.0, 1.0], [7.0, 9.0, 9.5]],  # -1, 0.5
            [[3.0, 2.5, 0.0], [8.0, 9.0, 0.0]],  # -0.5, -1
        ]
    )
    labels, images = torch.tensor([0, 1]), torch.zeros(2, 1, 2, 2)
    for attempts, expected in ((1, [0, 0]), (2, [1, 1]), (3, [2, 1])):
        model = Listed(answers)
        seen = Resubmission(model, labels, attempts)(images)
        assert model.calls == attempts
        assert torch.equal(seen, answers[torch.tensor(expected), torch.arange(2)])
    expected = torch.zeros_like(images)
    expected[:, 0, 0, 0] = torch.tensor([3.0, 2.0])  # the numbers of the calls that were taken
    assert torch.equal(gradient_of(Resubmission(Listed(answers), labels, 3), images), expected)


class Wavering(nn.Module):
    """Answers 0, but 1 with probability 0.2, drawn for every image at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.random = victims.generator()

    def forward(self, images: Tensor) -> Tensor:
        wrong = torch.rand(len(images), generator=self.random) < 0.2
        return torch.stack([~wrong, wrong], 1).float()


def test_resubmission_errs_as_often_as_the_best_of_so_many_draws() -> None:
    images, labels = torch.zeros(20_000, 1, 1, 1), torch.zeros(20_000, dtype=torch.int64)
    for attempts in (1, 2, 5):
        wrong = Resubmission(Wavering(), labels, attempts)(images).argmax(1) != labels
        assert float(wrong.double().mean()) == pytest.approx(1 - 0.8**attempts, abs=0.015)


def test_resubmission_restricts_its_labels_with_the_model() -> None:
    answers = torch.eye(3)[None]
    whole = Resubmission(Listed(answers), torch.tensor([0, 1, 2]), 1)
    assert whole.rows(torch.tensor([2, 0])).labels.tolist() == [2, 0]
    with pytest.raises(ValueError, match=r"2 images, but labels for 3; restrict"):
        whole(torch.zeros(2, 1, 1, 1))
    with pytest.raises(ValueError, match="attempts is 0"):
        Resubmission(Listed(answers), torch.tensor([0, 1, 2]), 0)


def test_passes_are_counted_by_the_image_and_shared_between_rows() -> None:
    counted, images = CountingPasses(victims.row_bound(6)), victims.images(6)
    counted(images)
    assert (counted.passes.forward, counted.passes.backward) == (6, 0)
    gradient_of(counted, images)
    assert (counted.passes.forward, counted.passes.backward) == (12, 6)
    part = torch.tensor([5, 2])
    gradient_of(counted.rows(part), images[part])
    assert (counted.passes.forward, counted.passes.backward) == (14, 8)
    assert torch.equal(counted(images), counted.model(images))


def test_modules_that_are_known_are_not_looked_for_again() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with modules_known(model):
        model.append(nn.Linear(2, 2))
        assert len(list(modules_of(model))) == 3
    assert len(list(modules_of(model))) == 4


def rounding() -> tuple[object, ...]:
    """Return every setting of torch by which a GPU may round what it multiplies."""
    backends = torch.backends
    return (
        torch.get_float32_matmul_precision(),
        backends.cuda.matmul.allow_tf32,
        backends.cudnn.allow_tf32,
        backends.cuda.matmul.fp32_precision,
        backends.cudnn.conv.fp32_precision,
        backends.cudnn.rnn.fp32_precision,
    )


@pytest.mark.parametrize("products", ["highest", "high"])
def test_exact_arithmetic_is_asked_for_and_given_back(products: str) -> None:
    torch.set_float32_matmul_precision(products)
    try:
        before = rounding()
        assert torch.backends.cudnn.allow_tf32
        with pytest.raises(KeyError), exact_float32():  # noqa: PT012
            assert "tf32" not in rounding()
            assert True not in rounding()
            with exact_float32():
                pass
            assert True not in rounding()
            raise KeyError
        assert rounding() == before
    finally:
        torch.set_float32_matmul_precision("highest")


def test_exact_arithmetic_goes_with_the_newer_settings() -> None:
    convolutions = torch.backends.cudnn.conv
    before = convolutions.fp32_precision
    try:
        convolutions.fp32_precision = "ieee"  # and recurrent ones as they were, so that torch calls it a mixture
        with pytest.raises(RuntimeError):
            _ = torch.backends.cudnn.allow_tf32
        with exact_float32():
            assert torch.backends.cudnn.rnn.fp32_precision == "ieee"
        assert torch.backends.cudnn.rnn.fp32_precision == "tf32"
        assert convolutions.fp32_precision == "ieee"
    finally:
        convolutions.fp32_precision = before
