"""Images made in place and small nets for them: what every case is asked about.

Class k is a faint grating at the angle 180 k / K degrees, with a random phase, under noise. `Small` learns it in a
second; `Linear` needs no training, and its worst case in an L-inf ball is known in closed form.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor, nn

from memory_defense.contracts import Images, Labels, Logits

SIDE, CHANNELS, CLASSES = 16, 3, 4
EPSILON = 0.06
"""A radius at which about half of the images stand under attack."""


def gratings(count: int, classes: int = CLASSES, *, seed: int = 0) -> tuple[Images, Labels]:
    """Return (N, 3, 16, 16) images in [0, 1] and their (N,) labels, the classes taking turns."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    angles = labels * math.pi / classes
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    waves = angles.cos()[:, None, None] * rows + angles.sin()[:, None, None] * columns
    light = 0.5 + 0.12 * torch.sin(1.1 * waves + 0.9 * torch.rand(count, 1, 1, generator=draw))
    noise = 0.15 * torch.randn(count, CHANNELS, SIDE, SIDE, generator=draw)
    return (light[:, None] + noise).clamp(0, 1).contiguous(), labels


class Small(nn.Module):
    """Two convolutions and a linear layer; normalises its images itself."""

    def __init__(self, classes: int = CLASSES, width: int = 12) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(CHANNELS, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(16 * width, classes),
        )

    def forward(self, images: Images) -> Logits:
        """Return the logits (B, K)."""
        return self.features((images - 0.5) / 0.25)


class Linear(nn.Module):
    """Logits that are linear in the pixels, with fixed random weights."""

    def __init__(self, classes: int, side: int = SIDE) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(classes)
        pixels = CHANNELS * side * side  # logits of about 1, so that no softmax saturates
        self.weight = nn.Parameter(torch.randn(classes, pixels, generator=draw) * 6 / pixels**0.5)

    def forward(self, images: Images) -> Logits:
        """Return the logits (B, K)."""
        return (images - 0.5).flatten(1) @ self.weight.T


def trained(classes: int = CLASSES, *, steps: int = 80) -> Small:
    """Return a `Small` that has learnt the gratings, in eval mode.

    It is trained once, in a process of its own: one that has been differentiated in should not be forked.
    """
    net = Small(classes)
    net.load_state_dict(_weights(classes, steps))
    return net.eval()


@cache
def _weights(classes: int, steps: int) -> Mapping[str, Tensor]:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        arrays = pool.apply(_train, (classes, steps))
    return {name: torch.from_numpy(one) for name, one in arrays.items()}


def _train(classes: int, steps: int) -> dict[str, object]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = Small(classes)
    images, labels = gratings(120 * classes, classes, seed=1)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(steps):
        rows = torch.randint(len(images), (64,))
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
        optimiser.step()
    return {name: one.numpy() for name, one in net.state_dict().items()}


def linear_problem(classes: int, count: int = 20, side: int = SIDE) -> tuple[Linear, Images, Labels, float, float]:
    """Return a linear net, images that it gets right, labels, a radius, and the exact share that survives there.

    In an L-inf ball of radius e that [0, 1] does not cut, an image of class y survives exactly if for every other
    class k the margin z_y - z_k is above e times the L1 norm of w_y - w_k. The radius lies between the two middle
    radii at which images fall, so that half of them survive and none is a matter of rounding.
    """
    net = Linear(classes, side)
    draw = torch.Generator().manual_seed(7)
    images = (
        77 + 102 * torch.rand(count, CHANNELS, side, side, generator=draw)
    ).round() / 255  # as a file has them
    with torch.no_grad():
        logits = net(images)
        labels = logits.argmax(1)
        falls = _critical_radii(net.weight, logits, labels).sort().values
    epsilon = float(falls[count // 2 - 1] + falls[count // 2]) / 2
    return net, images, labels, epsilon, float((falls > epsilon).double().mean())


def random_start_fools(net: nn.Module, image: Images, label: int, epsilon: float) -> bool:
    """Return whether plain descent from random points of the ball finds an image of another class."""
    draw = torch.Generator().manual_seed(3)
    points = image + epsilon * (2 * torch.rand(16, *image.shape[1:], generator=draw) - 1)
    labels = torch.full((16,), label)
    for _ in range(40):
        points = points.detach().clamp(0, 1).requires_grad_()
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(net(points), labels), points)
        points = image + (points + epsilon / 8 * slope.sign() - image).clamp(-epsilon, epsilon)
    with torch.no_grad():
        return bool((net(points.clamp(0, 1)).argmax(1) != label).any())


def _critical_radii(weight: Tensor, logits: Logits, labels: Labels) -> Tensor:
    margins = logits.gather(1, labels[:, None]) - logits
    norms = (weight[labels][:, None] - weight[None]).abs().sum(2)
    radii = margins / norms.clamp_min(1e-12)
    return radii.scatter(1, labels[:, None], torch.inf).amin(1)
