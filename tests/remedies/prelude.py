"""Names that every case may use."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import memory_defense
from memory_defense import threat
from memory_defense.attacks import ATTACKS
from remedies.cases import command


def prelude(make_run: Callable[[], Path]) -> dict[str, Any]:
    """Return the names; `make_run` returns a finished tiny run, which the name ``run()`` copies to ``run``."""
    torch.manual_seed(0)
    images = torch.rand(8, 1, 4, 4)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))

    def run(place: str = "run") -> Path:
        return Path(shutil.copytree(make_run(), place))

    return {
        **{name: getattr(memory_defense, name) for name in memory_defense.__all__},
        **{attack.__name__: attack for attack in map(ATTACKS.__getitem__, ATTACKS)},
        "memory_defense": memory_defense,
        "Path": Path,
        "Image": Image,
        "json": json,
        "nn": nn,
        "np": np,
        "shutil": shutil,
        "shape": {"channels": 1, "size": 28, "classes": 10, "mean": [0.5], "std": [0.5]},
        "threat": threat,
        "torch": torch,
        "folder": folder,
        "images": images,
        "labels": net(images).argmax(1),
        "memdef": command,
        "net": net,
        "run": run,
        "subprocess": subprocess,
    }


def folder(
    place: str = "data",
    *,
    classes: int = 2,
    count: int = 2,
    size: int = 8,
    splits: tuple[str, ...] = ("train", "test"),
) -> Path:
    """Write a folder of images of your own: SPLIT/classK/N.png, grey."""
    for split in splits:
        for which in range(classes):
            home = Path(place, split, f"class{which}")
            home.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                levels = np.full((size, size), 40 * which + number, dtype=np.uint8)
                Image.fromarray(levels).save(home / f"{number}.png")
    return Path(place)
