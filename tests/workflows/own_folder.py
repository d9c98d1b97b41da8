"""A folder of coloured shapes and a small net trained on them, as somebody might bring them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from memory_defense.data.own import load_splits

SIZE = 16
CLASSES = ("bar", "disc", "square")
PLACE = "shapes_net:build"

SOURCE = """
from torch import nn

def build(classes, size):
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * (size // 2) ** 2, classes),
    )

whole = build(3, 16)

class Steps(nn.Sequential):
    def forward(self, images):
        return super().forward((images > 0.5).float())

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = build(3, 16)
        self.second = self.first

    def forward(self, images):
        return self.first(images)

def hard(classes, size):
    return Steps(*build(classes, size))
"""


def shape(label: int, draws: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """Return (H, W, 3) uint8: a noisy ground with a bar, a disc or a square of a random colour on it."""
    rows, columns = np.mgrid[:size, :size]
    x, y = draws.integers(5, size - 5, 2)
    inside = (
        abs(columns - x) < 2,
        (columns - x) ** 2 + (rows - y) ** 2 < 16,
        (abs(columns - x) < 4) & (abs(rows - y) < 4),
    )[label]
    ground = draws.integers(0, 60, (size, size, 3))
    return np.where(inside[..., None], draws.integers(120, 256, 3), ground).astype(np.uint8)


def write_folder(root: Path, *, train: int = 16, test: int = 3, size: int = SIZE, classes=CLASSES) -> Path:
    """Write `train` and `test` images of each class as a folder."""
    draws = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(shape(label, draws, size)).save(folder / f"{number:03}.png")
    return root


def write_net(directory: Path, data: Path) -> Path:
    """Write the user's module, train its net for a moment, and return where its weights are."""
    (directory / "shapes_net.py").write_text(SOURCE)
    space: dict[str, object] = {}
    exec(SOURCE, space)
    torch.manual_seed(0)
    net: nn.Module = space["build"](3, SIZE)
    train = load_splits(data).train
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(60):
        loss = F.cross_entropy(net(train.floats()), train.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_file(net.state_dict(), directory / "shapes.safetensors")
    return directory / "shapes.safetensors"
