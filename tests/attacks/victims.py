"""Tiny victims with known behaviour, computing in float64 so that batch size cannot change a decision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from memory_defense.contracts import Classifier
from memory_defense.wrappers import frozen

SIZE = 6
CLASSES = 4


class Double(nn.Module):
    """Run a float64 network on float32 images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.double())


class Affine(Double):
    """``logits = weight @ pixels + bias``."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        super().__init__(nn.Sequential(nn.Flatten(), linear))
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        self.weight, self.bias = linear.weight.detach(), linear.bias.detach()


class Flat(nn.Module):
    """Logits with a zero gradient everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.arange(CLASSES, 0, -1.0) + 0 * images.flatten(1).sum(1, keepdim=True)


@dataclass(frozen=True)
class Shifted:
    """A row-bound classifier: row i adds its own offset (K,), and refuses a batch of another length."""

    model: nn.Module
    offsets: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        assert len(images) == len(self.offsets), "called with rows it was not restricted to"
        return self.model(images) + self.offsets

    def rows(self, index: Tensor) -> Shifted:
        return Shifted(self.model, self.offsets[index])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, channels: int = 1, seed: int = 0, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Return random images; a fifth of the pixels saturates when the range is the whole box."""
    wide = torch.rand(count, channels, SIZE, SIZE, generator=generator(seed)) * 1.2 - 0.1
    return low + (high - low) * wide.clamp(0, 1)


def affine(classes: int = CLASSES, seed: int = 1) -> Affine:
    random = generator(seed)
    weight = torch.randn(classes, SIZE * SIZE, generator=random).double()
    return Affine(weight, torch.randn(classes, generator=random).double() - weight.sum(1) / 2)


def mlp(channels: int = 1) -> nn.Module:
    torch.manual_seed(2)
    return Double(nn.Sequential(nn.Flatten(), nn.Linear(channels * SIZE**2, 24), nn.ReLU(), nn.Linear(24, CLASSES)))


def conv(channels: int = 3) -> nn.Module:
    torch.manual_seed(3)
    return Double(
        nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * 9, CLASSES),
        )
    )


class Viewing(nn.Module):
    """Flattens with `view`, which only works in the default memory layout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.linear = nn.Linear(4 * SIZE**2, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.conv(images).view(len(images), 4 * SIZE**2))


def training() -> nn.Module:
    """A network left in training mode, with batch statistics, dropout and a partly frozen set of parameters."""
    torch.manual_seed(4)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(4 * SIZE**2, CLASSES),
    )
    network[1].running_mean.normal_(generator=generator(5))
    network[3].eval()
    network[0].weight.requires_grad_(False)
    return Double(network)


def row_bound(count: int) -> Shifted:
    return Shifted(mlp(), torch.randn(count, CLASSES, generator=generator(6)).double())


def right_answers(model: Classifier, batch: Tensor) -> Tensor:
    """Return the model's own answers, in eval mode, so that every image starts out right."""
    with frozen(model), torch.no_grad():
        return model(batch).argmax(1)
