"""What a broken defense is described with, the nets that they share, and how those are trained and kept."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import memory_defense
from broken.byhand import Climb
from memory_defense.contracts import Batch, Images, Objective
from memory_defense.data.images import ImageSet
from memory_defense.randomness import derive, seeded
from memory_defense.recipes.parts import QUICK_OPTIMIZER
from memory_defense.training.checkpoint import load_weights, save_weights
from memory_defense.training.fit import FitConfig, fit

CLASSES = 10
ROBUST = "zoo:fashion-mnist/sound"
"""The run whose selector, trained on attacked images, stands behind defenses that were put on such a net."""


@dataclass(frozen=True)
class Trial:
    """A defense as it is attacked."""

    model: nn.Module
    """What the evaluator is given, and what judges every image."""
    weak: Climb
    """The attack of the defense's own evaluation."""
    strong: Mapping[str, Climb]
    """Attacks written for this defense alone, by what they do; the truth is what all of them leave standing."""


@dataclass(frozen=True)
class Broken:
    """A published defense with its published break."""

    title: str
    defense: str
    """Who proposed it."""
    broken: str
    """Who broke it, and to what, on which images."""
    weak: str
    """The defense's own evaluation, in words."""
    why: str
    """Why that evaluation misleads."""
    make: Callable[[Kit], Trial]


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise."""

    total: Tensor

    def parts(self) -> dict[str, float]:
        """Return the number."""
        return {"loss": self.total.item()}


def cross_entropy(model: nn.Module, batch: Batch) -> Loss:
    """Return the cross-entropy of a batch."""
    return Loss(F.cross_entropy(model(batch.images), batch.labels))


@dataclass(frozen=True)
class Kit:
    """Images to train with, and where trained nets are kept."""

    train: ImageSet
    held_out: ImageSet
    cache: Path
    epochs: int = 2
    batch_size: int = 128
    _made: dict[str, nn.Module] = field(default_factory=dict[str, nn.Module])

    def trained(self, name: str, make: Callable[[], nn.Module], objective: Objective = cross_entropy) -> nn.Module:
        """Return a module in eval mode, trained now unless its weights are in the cache.

        What is kept belongs to the code of the module's class and of the objective, not to the name alone.
        """
        if name not in self._made:
            with seeded(0, "broken", name):
                model = make()
            code = "".join(inspect.getsource(one) for one in (type(model), objective, make))
            recipe = f"{name} {len(self.train)} {self.epochs} {self.batch_size} {code}"
            place = self.cache / f"broken-{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.safetensors"
            if place.exists():
                load_weights(place, model)
            else:
                config = FitConfig(
                    epochs=self.epochs,
                    batch_size=self.batch_size,
                    optimizer=QUICK_OPTIMIZER,
                    precision="float32",
                )
                fit(model, objective, self.train, config, seed=derive(0, "broken", name))
                place.parent.mkdir(parents=True, exist_ok=True)
                save_weights(place, model)
            self._made[name] = model.eval()
        return self._made[name]

    def plain(self) -> nn.Module:
        """Return an undefended net."""
        return self.trained("plain", small_net)

    def robust(self) -> nn.Module:
        """Return a net that was trained on attacked images: the selector of a run that comes with the package."""
        if "robust" not in self._made:
            self._made["robust"] = memory_defense.load(ROBUST).selector.eval()
        return self._made["robust"]


def small_net(
    *, channels: int = 1, side: int = 28, outputs: int = CLASSES, activation: Callable[[], nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Return two convolutions 4 x 4 of stride 2 and two linear layers, with this activation between them."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, stride=2, padding=1),
        activation(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        activation(),
        nn.Flatten(),
        nn.Linear(32 * (side // 4) ** 2, 100),
        activation(),
        nn.Linear(100, outputs),
    )


def straight_through(value: Tensor, carrier: Tensor) -> Tensor:
    """Return `value` with the gradient of `carrier`."""
    return carrier + (value - carrier).detach()


def right(model: nn.Module, images: Images, labels: Tensor) -> Tensor:
    """Return (B,) bool: answered right, or flagged by a defense that flags; each image is handed in once."""
    with torch.no_grad():
        stands = torch.cat([model(part).argmax(1) for part in images.split(128)]) == labels
        if hasattr(model, "suspicious"):
            stands |= torch.cat([model.suspicious(part) for part in images.split(128)])
    return stands
