"""Interval bounds of a linear classifier are exact; their gate stands; slack and proof agree."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import memory_defense
from memory_defense import Options
from memory_defense.defenses.gated import Gated
from memory_defense.defenses.interval_proof import IntervalProof, proving
from memory_defense.defenses.proving_memory import build_proving_memory
from memory_defense.defenses.undefended import Undefended
from memory_defense.randomness import seeded

AT = (0.05, 0.1, 0.2)


def linear() -> nn.Module:
    with seeded(0, "net"):
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def small() -> nn.Module:
    with seeded(0, "net"):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16, 8),
            nn.ReLU(),
            nn.Linear(8, 3),
        )


def images_of(count: int) -> Tensor:
    return 0.3 + 0.4 * torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def exact(images: Tensor, net: nn.Module) -> Tensor:
    """The L-inf distance to the nearest border between two classes, away from the box's edge."""
    weight, logits = net[1].weight.detach().double(), net(images).detach().double()
    top = logits.argmax(1)
    leads = logits.gather(1, top[:, None]) - logits
    lengths = (weight[top][:, None] - weight[None]).abs().sum(2)
    return torch.where(lengths > 0, leads / lengths.clamp_min(1e-12), torch.inf).amin(1)


@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
def test_a_linear_classifier_s_radius_is_the_exact_one(method) -> None:
    net, images = linear(), images_of(30)
    found = IntervalProof(net, largest=0.2, method=method).certificates(images)
    true = exact(images, net).clamp(max=0.2)
    assert bool((found.radii <= true).all())
    assert bool((found.radii >= true - 1.1e-3).all())


@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
def test_slack_is_above_nothing_exactly_where_the_radius_is_proven(method) -> None:
    net, images = small(), images_of(40)
    proof = IntervalProof(net, largest=0.25, at=AT, method=method)
    radii = proof.certificates(images).radii
    for radius in AT:
        assert torch.equal(proof.slack(images, radius) >= 0, radii >= radius)
        assert 0 < int((radii >= radius).sum()) < 40 or radius != AT[2]
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(proof.slack(leaf, AT[1]).sum(), leaf)
    assert float(gradient.abs().max()) > 0


def test_a_gate_of_intervals_stands_against_attacks_on_it() -> None:
    net, images = small(), images_of(40)
    labels = net(images).argmax(1)
    gate = Gated(proving(Undefended(net), radii=[AT[1]]), AT[1])
    record = memory_defense.evaluate(
        gate, images, labels, epsilon=AT[1], attacks="pgd,apgd,brief", options=Options(seed=0)
    )
    (one,) = record.certified
    assert (one.method, one.norm, one.broken) == ("interval bounds, ibp", "linf", 0)
    assert one.gate is not None
    assert one.gate.wrong_and_accepted_found == 0
    assert one.gate.attacked > 0
    assert not [line for line in record.audit if line.verdict == "fail" and "certificate" in line.check]


def test_a_defense_that_proves_is_taken_as_it_is() -> None:
    with seeded(0, "memory"):
        memory = build_proving_memory(preset="tiny", channels=1, size=8, classes=3, mean=[0.5], std=[0.2])
    assert proving(memory, radii=[0.1]) is memory
    images = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    found = memory.certificates(images)
    middle = float(found.radii.median())
    assert torch.equal(memory.slack(images, middle) >= 0, found.radii >= middle)
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(memory.slack(leaf, middle).sum(), leaf)
    assert float(gradient.abs().max()) > 0


def test_both_are_certified_from_python() -> None:
    net, images = small(), images_of(12)
    labels = net(images).argmax(1)
    record = memory_defense.certify(proving(net, radii=list(AT)), images, labels, radii=list(AT))
    radii = IntervalProof(net, largest=0.25, at=AT).certificates(images).radii
    assert [one.accuracy for one in record.certified] == [float((radii >= one).double().mean()) for one in AT]
    assert record.certified[0].norm == "linf"
