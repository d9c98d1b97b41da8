"""Adversarial weight perturbation: direction and size on a quadratic, and a module that nothing happens to."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.attacks import Pgd
from memory_defense.contracts import Batch
from memory_defense.randomness import ImageDraws
from memory_defense.threat import Linf
from memory_defense.training.adversarial import Benign, Online, SingleStep, WarmStart
from memory_defense.training.trades import Trades
from memory_defense.training.weight_perturbation import Crafting, WeightPerturbation, perturbations


@dataclass(frozen=True)
class Given:
    total: Tensor

    def parts(self) -> dict[str, float]:
        return {"loss": self.total.item()}


class Bowl(nn.Module):
    """A module whose objective is half the squared distance of its parameters from fixed points."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.matrix = nn.Parameter(torch.randn(3, 4, generator=generator))
        self.vector = nn.Parameter(torch.randn(5, generator=generator))
        self.fixed = nn.Parameter(torch.randn(2, 2, generator=generator), requires_grad=False)
        self.matrix_at = torch.randn(3, 4, generator=generator)
        self.vector_at = torch.randn(5, generator=generator)

    def far(self) -> Tensor:
        return 0.5 * ((self.matrix - self.matrix_at).square().sum() + (self.vector - self.vector_at).square().sum())


def bowl(model: Bowl, batch: Batch) -> Given:
    return Given(model.far())


def batch(progress: float = 1.0, count: int = 8) -> Batch:
    ids = torch.arange(count)
    images = ImageDraws.of(1, "images", ids).uniform(1, 4, 4)
    return Batch(images, ids % 3, ids, ImageDraws.of(1, "epoch 0", ids), progress)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    return nn.Sequential(*layers).train()


@dataclass
class Counting:
    """TRADES that counts its parts' calls."""

    inner: Trades = field(default_factory=lambda: Trades(epsilon=0.1, warm_up=0, steps=2))
    crafted: int = 0
    seen: list[Tensor] = field(default_factory=list)

    def craft(self, model: nn.Module, batch: Batch) -> Tensor:
        self.crafted += 1
        return self.inner.craft(model, batch)

    def losses(self, model: nn.Module, images: Tensor, batch: Batch):
        self.seen.append(images)
        return self.inner.losses(model, images, batch)

    def __call__(self, model: nn.Module, batch: Batch):
        return self.losses(model, self.craft(model, batch), batch)


def test_direction_and_size_on_a_quadratic() -> None:
    """The gradient of the bowl is ``w - c``; so the loss returned has the gradient ``w + v - c``, v a constant."""
    model = Bowl()
    losses = WeightPerturbation(objective=bowl, gamma=0.1)(model, batch())
    losses.total.backward()
    away = (model.matrix - model.matrix_at).detach()
    v = 0.1 * model.matrix.detach().norm() * away / away.norm()
    assert v.norm() == pytest.approx(0.1 * model.matrix.detach().norm().item(), rel=1e-5)
    there = model.matrix.detach() + v - model.matrix_at
    assert torch.allclose(model.matrix.grad, there, atol=1e-6)
    assert torch.allclose(model.vector.grad, (model.vector - model.vector_at).detach())  # one dimension: left alone
    assert model.fixed.grad is None
    expected = 0.5 * (there.square().sum() + (model.vector - model.vector_at).square().sum())
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert losses.total > model.far()


def test_only_trained_weights_of_two_dimensions_are_perturbed() -> None:
    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = Bowl()

        def forward(self, images: Tensor | None, batch: Batch) -> Given:
            return Given(self.model.far())

    assert perturbations(Held(), None, batch(), 0.1).keys() == {"model.matrix"}


@pytest.mark.parametrize("changed", [{"gamma": 0.0}, {"gamma": 0.01, "warm_up": 0.5}])
def test_without_perturbation_it_is_the_inner_objective_bit_for_bit(changed) -> None:
    one, other = network(), network()
    inner = Trades(epsilon=0.1, warm_up=0, steps=2)
    losses = WeightPerturbation(objective=inner, **changed)(one, batch(0.4))
    expected = inner(other, batch(0.4))
    losses.total.backward()
    expected.total.backward()
    assert torch.equal(losses.total, expected.total)
    for mine, its in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine.grad, its.grad)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_a_network_by_hand() -> None:
    """The published procedure, done on a copy whose weights really are moved."""
    model, copy, one = network(), network(), batch()
    inner = Trades(epsilon=0.1, warm_up=0, steps=2)
    losses = WeightPerturbation(objective=inner, gamma=0.02)(model, one)
    losses.total.backward()
    images = inner.craft(copy, one)
    proxy = network()
    inner.losses(proxy, images, one).total.backward()
    with torch.no_grad():
        for mine, its in zip(copy.parameters(), proxy.parameters(), strict=True):
            if mine.dim() > 1:
                mine.add_(0.02 * mine.norm() * its.grad / its.grad.norm())
    expected = inner.losses(copy, images, one)
    expected.total.backward()
    assert losses.total.item() == pytest.approx(expected.total.item(), rel=1e-5)
    for mine, its in zip(model.parameters(), copy.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-4, atol=1e-6)
    for name, tensor in model.named_buffers():  # batch statistics of the perturbed pass, once
        torch.testing.assert_close(tensor, dict(copy.named_buffers())[name])


def test_the_module_is_unchanged_and_images_are_crafted_once() -> None:
    model, objective = network(), Counting()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    parameters = dict(model.named_parameters())
    losses = WeightPerturbation(objective=objective, gamma=0.5)(model, batch())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_parameters())
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    assert all(isinstance(parameter, nn.Parameter) and parameter.grad is None for parameter in model.parameters())
    assert int(model[1].num_batches_tracked) == 2  # clean and adversarial images, of the perturbed pass alone
    assert objective.crafted == 1
    assert objective.seen[0] is objective.seen[1]
    losses.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_steps_lead_to_flatter_and_lower_perturbed_losses() -> None:
    model, inner = network(), SingleStep(epsilon=0.05, warm_up=0)
    objective = WeightPerturbation(objective=inner, gamma=0.02)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    totals = []
    for _ in range(30):
        losses = objective(model, batch())
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        totals.append(losses.total.item())
    assert totals[-1] < 0.8 * totals[0]


@pytest.mark.parametrize(
    "inner",
    [
        Online(epsilon=0.1, warm_up=0, attack=Pgd(steps=2, stop_when_fooled=False)),
        SingleStep(epsilon=0.1, warm_up=0),
        WarmStart(epsilon=0.1, warm_up=0),
    ],
    ids=lambda inner: type(inner).__name__,
)
def test_adversarial_training_can_be_inside(inner) -> None:
    model, moved = network(), network()
    assert isinstance(inner, Crafting)
    losses = WeightPerturbation(objective=inner, gamma=0.02)(model, batch())
    losses.total.backward()
    if isinstance(inner, WarmStart):
        inner.restore({})
    images = inner.craft(moved, batch())
    inner.losses(proxy := network(), images, batch()).total.backward()
    with torch.no_grad():
        for mine, its in zip(moved.parameters(), proxy.parameters(), strict=True):
            if mine.dim() > 1:
                mine.add_(0.02 * mine.norm() * its.grad / its.grad.norm())
    assert losses.total.item() == pytest.approx(inner.losses(moved, images, batch()).total.item(), rel=1e-5)


def test_any_objective_can_be_inside() -> None:
    model = network()
    assert not isinstance(Benign(), Crafting)
    losses = WeightPerturbation(objective=Benign(), gamma=0.05)(model, batch())
    plain = F.cross_entropy(network()(batch().images), batch().labels)
    assert losses.total > plain
    losses.total.backward()
    assert model[0].weight.grad is not None


def test_bfloat16_and_channels_last() -> None:
    model = network().to(memory_format=torch.channels_last)
    inner = Trades(epsilon=0.1, warm_up=0, steps=2)
    with torch.autocast("cpu", torch.bfloat16):
        losses = WeightPerturbation(objective=inner, gamma=0.01)(model, batch())
    losses.total.backward()
    exact = network()
    WeightPerturbation(objective=inner, gamma=0.01)(exact, batch()).total.backward()
    for mine, its in zip(model.parameters(), exact.parameters(), strict=True):
        assert mine.grad.dtype == torch.float32
        if its.grad.norm() < 1e-5:  # the bias that batch normalisation takes away again
            continue
        assert F.cosine_similarity(mine.grad.flatten(), its.grad.flatten(), 0) > 0.98


def test_a_translated_model_is_translated_once() -> None:
    translations = []

    def backend(graph, inputs):
        translations.append(graph)
        return graph.forward

    torch.compiler.reset()
    model, plain = network(), network()
    objective = WeightPerturbation(objective=Trades(epsilon=0.1, warm_up=0, steps=2), gamma=0.01)
    called = torch.compile(model, backend=backend)
    counts = []
    for _ in range(4):
        losses = objective(called, batch())
        counts.append(len(translations))
    assert counts[1:] == [counts[0]] * 3
    for _ in range(4):
        expected = objective(plain, batch())
    assert losses.total.item() == pytest.approx(expected.total.item(), rel=1e-5)
    losses.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    torch.compiler.reset()


def test_what_the_inner_objective_remembers_travels() -> None:
    objective = WeightPerturbation(objective=WarmStart(epsilon=0.1, warm_up=0), gamma=0.01, warm_up=1.0)
    objective(network(), batch(0.5))
    state = objective.state()
    assert state.keys() == {"perturbations"}
    other = WeightPerturbation(objective=WarmStart(epsilon=0.1, warm_up=0), gamma=0.01)
    other.restore({name: tensor.clone() for name, tensor in state.items()})
    rows = torch.tensor([1, 2])
    assert torch.equal(other.recall(rows)["perturbations"], objective.recall(rows)["perturbations"])
    other.remember(rows, {"perturbations": torch.zeros(2, 1, 4, 4, dtype=torch.int8)})
    assert not other.recall(rows)["perturbations"].any()
    without = WeightPerturbation(objective=Benign())
    assert (without.state(), without.recall(rows)) == ({}, {})
    without.restore({})


def test_without_gradients_it_scores_the_inner_objective() -> None:
    model = network().eval()
    inner = Trades(epsilon=0.1, warm_up=0, steps=2)
    with torch.no_grad():
        assert torch.equal(WeightPerturbation(objective=inner)(model, batch()).total, inner(model, batch()).total)
    assert Linf(0.1).contains(inner.craft(model, batch()), batch().images).all()


@pytest.mark.parametrize(("changed", "said"), [({"gamma": -1}, "gamma is -1"), ({"warm_up": 2}, "warm_up is 2")])
def test_bad_values(changed, said) -> None:
    with pytest.raises(ValueError, match=said):
        WeightPerturbation(objective=Benign(), **changed)
