"""Names that every case may use."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import memory_defense
from memory_defense import threat
from memory_defense.attacks import ATTACKS
from memory_defense.recipes.registry import RECIPES
from memory_defense.run_directory import RunDirectory
from memory_defense.systems.build import build_classifier, build_defense
from memory_defense.training.checkpoint import save_weights
from remedies.cases import command

RESULT = Path(__file__).parents[2] / "docs" / "results" / "demo" / "sound.json"


def prelude(make_run: Callable[[], Path], make_hardened: Callable[[], Path]) -> dict[str, Any]:
    """Return the names.

    `make_run` returns a finished tiny run, which the name ``run()`` copies to ``run``; `make_hardened` a folder
    with a user's classifier and a hardened run, which ``hardened()`` copies to where the case runs.
    """
    torch.manual_seed(0)
    images = torch.rand(8, 1, 4, 4)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))

    def run(place: str = "run", *, evaluated: bool = False) -> Path:
        shutil.copytree(make_run(), place)
        if evaluated:
            shutil.copy(RESULT, Path(place, "record.json"))
        return Path(place)

    def hardened() -> None:
        shutil.copytree(make_hardened(), ".", dirs_exist_ok=True)

    return {
        **{name: getattr(memory_defense, name) for name in memory_defense.__all__},
        **{attack.__name__: attack for attack in map(ATTACKS.__getitem__, ATTACKS)},
        "memory_defense": memory_defense,
        "Path": Path,
        "RECIPES": RECIPES,
        "RunDirectory": RunDirectory,
        "code": code,
        "hardened": hardened,
        "Image": Image,
        "json": json,
        "nn": nn,
        "np": np,
        "shutil": shutil,
        "shape": {"channels": 1, "size": 28, "classes": 10, "mean": [0.5], "std": [0.2]},
        "threat": threat,
        "torch": torch,
        "untrained": untrained,
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


def code(name: str, source: str) -> str:
    """Write a Python file as a user has one, and forget what was imported of an earlier one."""
    Path(name).write_text(f"import torch\nfrom torch import nn\n\n{dedent(source)}", encoding="utf-8")
    sys.modules.pop(Path(name).stem, None)
    shutil.rmtree("__pycache__", ignore_errors=True)
    importlib.invalidate_caches()
    return name


def untrained(recipe: str, place: str = "run") -> Path:
    """Make a run that says it is finished, its weights as they were drawn."""
    chosen, made = RECIPES[recipe], RunDirectory(Path(place))
    manifest = made.begin(chosen, 0, 100, resume=False)
    save_weights(made.weights, build_defense(chosen.model))
    if chosen.undefended_network:
        save_weights(made.undefended, build_classifier(chosen.undefended_network, chosen.model.dataset, 1, "plain"))
    made.seal(manifest)
    return made.path
