"""Defenses inside the net: activations whose gradient misleads."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from broken.byhand import Climb, lead
from broken.parts import Broken, Kit, Trial, small_net, straight_through
from memory_defense.contracts import Images, Logits


class Winners(nn.Module):
    """An activation that keeps the largest entries of an image's layer and sets the others to 0."""

    def __init__(self, share: float = 0.1) -> None:
        super().__init__()
        self.share = share

    def forward(self, values: Tensor) -> Tensor:
        """Return the values with a share of them kept."""
        flat = values.flatten(1)
        least = flat.topk(max(1, int(self.share * flat.shape[1])), 1).values[:, -1:]
        return (flat * (flat >= least)).view_as(values)


class WinnersNet(nn.Module):
    """A small net of such activations."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small_net(activation=Winners)

    def forward(self, images: Images) -> Logits:
        """Return logits (B, K)."""
        return self.network(images)


def winners(kit: Kit) -> Trial:
    """k-winners-take-all."""
    model = kit.trained("k-winners", WinnersNet)
    return Trial(
        model,
        Climb(on=model, steps=10, step=0.25),
        {
            "finite differences": Climb(on=model, loss=lead, steps=40, differences=25, spread=0.2),
            "gradients averaged nearby": Climb(on=model, loss=lead, steps=60, samples=10, spread=0.2),
            "an undefended net": Climb(on=kit.plain(), loss=lead, steps=60),
            "gradients, from a dozen points": Climb(on=model, loss=lead, steps=40, starts=9, ranks=3),
        },
    )


class MeanSparse(nn.Module):
    """Sets activations that lie near their channel's mean to that mean, before a rectifier."""

    def __init__(self, width: float) -> None:
        super().__init__()
        self.width, self.straight = width, False
        self.learning = True
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.zeros(()))

    def forward(self, values: Tensor) -> Tensor:
        """Return the sparse values, rectified."""
        if self.learning:
            over = [axis for axis in range(values.dim()) if axis != 1]
            self.mean, self.deviation = values.mean(over, keepdim=True), values.std(over, keepdim=True)
            self.learning = False
        near = (values - self.mean).abs() <= self.width * self.deviation
        sparse = torch.where(near, self.mean.expand_as(values), values)
        return (straight_through(sparse, values) if self.straight else sparse).relu()


def sparse_net(network: nn.Module, images: Images, width: float, *, straight: bool) -> nn.Module:
    """Return a copy of a net with its rectifiers replaced; what is mean is learnt from these images."""
    made = copy.deepcopy(network)
    for parent in list(made.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(parent, name, MeanSparse(width))
    with torch.no_grad():
        made(images)
    for one in made.modules():
        if isinstance(one, MeanSparse):
            one.straight = straight
    return made.eval()


def mean_sparse(kit: Kit) -> Trial:
    """MeanSparse on a net that was trained on attacked images."""
    images = kit.held_out.first(min(2000, len(kit.held_out))).floats()
    model, smooth = (sparse_net(kit.robust(), images, 0.25, straight=straight) for straight in (False, True))
    return Trial(
        model,
        Climb(on=model, steps=20, step=0.125),
        {
            "straight-through gradient of the sparsifier": Climb(on=smooth, loss=lead, steps=60, ranks=3),
            "the network without it": Climb(on=kit.robust(), loss=lead, steps=60, ranks=3),
            "gradients": Climb(on=model, loss=lead, steps=60, ranks=3),
        },
    )


ACTIVATIONS = {
    "k-winners": Broken(
        "k-winners-take-all",
        "Xiao et al. 2020",
        "Tramèr et al. 2020: 0.16 % (ResNet-18, CIFAR-10); claimed 52.4 % for a DenseNet-121 (RobustBench)",
        "PGD, 10 steps of epsilon / 4",
        "the output jumps wherever another unit wins, and the gradient contains no jumps",
        winners,
    ),
    "mean-sparse": Broken(
        "MeanSparse",
        "Amini et al. 2024",
        "no published number; a flat step, as in Athalye et al. 2018",
        "PGD, 20 steps of epsilon / 8",
        "activations near their mean have no gradient",
        mean_sparse,
    ),
}
"""By name."""
