"""Tiny networks with every layer that has interval bounds, and the points of a box that are worth trying."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor, nn

from memory_defense.networks.classifiers import LeNetSmall, Linear
from memory_defense.networks.interval_cnn import IntervalCnn
from memory_defense.networks.layers import Normalize, Sum
from memory_defense.networks.residual_cnn import ResidualCnn
from memory_defense.networks.resnet import Block

CLASSES = 3
GREY = {"channels": 1, "classes": CLASSES, "mean": (0.3,), "std": (0.35,)}


class ConvNet(nn.Sequential):
    """Layers on images (B, 1, 3, 3), then one linear layer."""

    def __init__(self, *layers: nn.Module) -> None:
        with torch.no_grad():
            features = nn.Sequential(*layers).eval()(torch.zeros(1, 1, 3, 3)).flatten(1).shape[1]
        super().__init__(*layers, nn.Flatten(), nn.Linear(features, CLASSES))


def _first(**options: object) -> nn.Conv2d:
    return nn.Conv2d(1, 4, **({"kernel_size": 2, "padding": 1} | options))


NETS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: ConvNet(nn.Identity()),
    "no bias": lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 5, bias=False), nn.ReLU(), nn.Linear(5, CLASSES)),
    "two hidden": lambda: ConvNet(nn.Flatten(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU()),
    "ends in a relu": lambda: nn.Sequential(ConvNet(_first(), nn.ReLU()), nn.ReLU()),
    "convolution": lambda: ConvNet(_first(), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.ReLU()),
    "stride": lambda: ConvNet(_first(stride=2), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.ReLU()),
    "uneven": lambda: ConvNet(_first(kernel_size=(3, 2), stride=(2, 1), padding=(0, 1)), nn.ReLU()),
    "rows that no window reaches": lambda: ConvNet(_first(kernel_size=2, stride=2, padding=0), nn.ReLU()),
    "dilation": lambda: ConvNet(_first(dilation=2), nn.ReLU()),
    "groups": lambda: ConvNet(_first(), nn.ReLU(), nn.Conv2d(4, 6, 2, groups=2), nn.ReLU()),
    "same": lambda: ConvNet(_first(padding="same"), nn.ReLU(), nn.Conv2d(4, 2, 3, padding="valid"), nn.ReLU()),
    "leaky": lambda: ConvNet(_first(), nn.LeakyReLU(0.2), nn.Conv2d(4, 3, 2), nn.LeakyReLU(0.9)),
    "average pooling": lambda: ConvNet(_first(), nn.ReLU(), nn.AvgPool2d(2, 1, padding=1), nn.Conv2d(4, 2, 2)),
    "uneven averages": lambda: ConvNet(
        _first(), nn.AvgPool2d((3, 2), 2, ceil_mode=True, count_include_pad=False), nn.ReLU()
    ),
    "adaptive averages": lambda: ConvNet(_first(), nn.ReLU(), nn.AdaptiveAvgPool2d((2, 3))),
    "maximum pooling": lambda: ConvNet(_first(), nn.MaxPool2d(2, 2, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 2)),
    "adaptive maxima": lambda: ConvNet(_first(), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Conv2d(4, 3, 1), nn.ReLU()),
    "batch normalisation": lambda: ConvNet(
        *(_first(bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6)),
        *(nn.ReLU(), nn.Dropout(0.5)),
    ),
    "batch normalisation of sequences": lambda: ConvNet(_first(), nn.Flatten(2), nn.BatchNorm1d(4), nn.ReLU()),
    "batch normalisation, not affine": lambda: ConvNet(_first(), nn.BatchNorm2d(4, affine=False), nn.ReLU()),
    "normalised": lambda: ConvNet(Normalize((0.3,), (0.2,)), _first(), nn.ReLU(), nn.Dropout2d(0.3)),
    "nested": lambda: ConvNet(nn.Sequential(nn.Sequential(_first()), nn.Identity()), nn.Sequential(nn.ReLU())),
    "residual": lambda: ConvNet(
        _first(), Sum(nn.Identity(), nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())), nn.ReLU()
    ),
    "residual of maxima": lambda: ConvNet(
        _first(), Sum(nn.MaxPool2d(3, 1, padding=1), nn.Conv2d(4, 4, 3, padding=1)), nn.ReLU(), nn.Conv2d(4, 2, 2)
    ),
    "affine residual": lambda: ConvNet(_first(), Sum(nn.Identity(), nn.Conv2d(4, 4, 1))),
    "block": lambda: ConvNet(Block(1, 4, stride=2, bottleneck=False, activation="relu")),
    "ours, linear": lambda: Linear(size=3, **GREY),
    "ours, small": lambda: LeNetSmall(size=4, widths=(3, 4), hidden=6, **GREY),
    "ours, for intervals": lambda: IntervalCnn(
        size=4, plan=((3, 3, 1), (4, 4, 2)), hidden=6, batch_norm=True, **GREY
    ),
    "ours, residual": lambda: ResidualCnn(size=4, widths=(4,), activation="relu", **GREY),
}
"""Networks on images of one channel and 3 or 4 pixels a side."""


def net(name: str, seed: int = 0) -> nn.Module:
    """Return a network in eval mode whose weights, statistics of batch normalisation included, are drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = NETS[name]()
        for module in made.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_()
                module.running_var.uniform_(0.2, 2)
                if module.affine:
                    nn.init.normal_(module.weight)
                    nn.init.normal_(module.bias)
        return made.eval()


def side(name: str) -> int:
    """Return the height and width of the images that a network of `NETS` takes."""
    return 4 if name in ("ours, small", "ours, for intervals", "ours, residual") else 3


def images(name: str, count: int = 2, seed: int = 1) -> Tensor:
    """Return images (count, 1, S, S), some of whose pixels are black or white."""
    drawn = torch.rand((count, 1, side(name), side(name)), generator=torch.Generator().manual_seed(seed))
    return (drawn * 1.4 - 0.2).clamp(0, 1)


def corners(image: Tensor, epsilon: float) -> Tensor:
    """Return every corner of the box around an image (1, S, S), cut at [0, 1]: all for 9 pixels, some for 16."""
    count = image.numel()
    if count <= 9:
        signs = torch.tensor(list(product((-1.0, 1.0), repeat=count)))
    else:
        signs = torch.randint(0, 2, (2000, count), generator=torch.Generator().manual_seed(2)) * 2.0 - 1
    return _inside(image, signs.view(-1, *image.shape), epsilon)


def randoms(image: Tensor, epsilon: float, count: int = 10_000) -> Tensor:
    """Return random images of the box around an image (1, S, S), cut at [0, 1]."""
    drawn = torch.rand((count, *image.shape), generator=torch.Generator().manual_seed(3)) * 2 - 1
    return _inside(image, drawn, epsilon)


def _inside(image: Tensor, signs: Tensor, epsilon: float) -> Tensor:
    """Return float32 images that lie in the exact box: rounding may have put one just outside."""
    moved = (image + epsilon * signs).clamp(0, 1)
    lower, upper = image.double() - epsilon, image.double() + epsilon
    towards = torch.where(moved.double() > upper, -1.0, torch.where(moved.double() < lower, 1.0, 0.0))
    return torch.where(towards == 0, moved, torch.nextafter(moved, moved + towards.float()))
