"""Small classifiers in the formats that people have, and images for them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

CLASSES, SIDE = 5, 32


def images(place: Path, count: int = 20, side: int = SIDE) -> torch.Tensor:
    """Write CLASSES folders 0, 1, ... of noise, each of its own brightness; return all, (N, 3, H, W) in [0, 1]."""
    found = []
    for number in range(count):
        label, draws = number % CLASSES, np.random.default_rng(number)
        levels = (draws.integers(0, 128, (side, side, 3)) + 25 * label).astype(np.uint8)
        home = place / "test" / str(label)
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(levels).save(home / f"{number:02d}.png")
        found.append(torch.from_numpy(levels).permute(2, 0, 1).float() / 255)
    return torch.stack(found)


class Net(nn.Module):
    """A convolution, a pooling and a linear layer; right on `images` more often than not after `fitted`."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(8)
        )
        self.head = nn.Linear(32, CLASSES)

    def forward(self, pixels):
        return self.head(self.body(pixels).flatten(1))


def fitted(model: nn.Module, pixels: torch.Tensor) -> nn.Module:
    """Train a little, so that answers are no guesses."""
    labels = torch.arange(len(pixels)) % CLASSES
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(pixels), labels).backward()
        optimiser.step()
    return model.eval()


class Last(nn.Module):
    """The same model for channels last."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels):
        return self.model(pixels.permute(0, 3, 1, 2))


class Levels(nn.Module):
    """The same model for uint8 grey levels."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels):
        return self.model(pixels.float() / 255)


def write_onnx(model: nn.Module, example: torch.Tensor, place: Path, *, batch: bool = True) -> Path:
    """Write a model as torch's exporter by tracing does, its batch open or that of the example."""
    open_axes = {"input": {0: "n"}, "scores": {0: "n"}} if batch else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            (example,),
            str(place),
            dynamo=False,
            opset_version=18,
            input_names=["input"],
            output_names=["scores"],
            dynamic_axes=open_axes,
        )
    return place


def write_program(model: nn.Module, example: torch.Tensor, place: Path, *, batch: bool = True) -> Path:
    """Write a model as a program of torch.export, its batch open or that of the example."""
    shapes = ({0: torch.export.Dim("n", min=1, max=1024)},) if batch else None
    torch.export.save(torch.export.export(model, (example,), dynamic_shapes=shapes), place)
    return place
