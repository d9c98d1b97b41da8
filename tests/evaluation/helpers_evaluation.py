"""Tiny defenses whose robustness is known by construction, and attacks that misbehave."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from memory_defense.contracts import Ball, Classifier, Draws, Images, Labels


class Brightness(nn.Module):
    """Two classes by mean brightness: an image at distance d from grey 0.5 falls at L-inf radius d, not before."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, images: Images) -> torch.Tensor:
        mean = images.flatten(1).mean(1)
        return self.scale * torch.stack([0.5 - mean, mean - 0.5], 1)


class BrightnessDefense(Brightness):
    transfer_knowledge = frozenset({"other"})

    def surrogates(self) -> Mapping[str, Classifier]:
        return {"end-to-end": self, "other": lambda images: self(images) * 0.1}


def grey(levels: list[float]) -> Images:
    """Plain images (B, 1, 4, 4) of these grey levels."""
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).clone()


@dataclass(frozen=True, kw_only=True)
class Shift:
    """Move every pixel towards the other class by `size`, whatever the ball says."""

    size: float
    transfer: bool = False
    value: float = 0.0

    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        model(images)
        away = torch.where(labels == 0, 1.0, -1.0)[:, None, None, None]
        return images + self.size * away + self.value

    def for_transfer(self) -> "Shift":
        return replace(self, transfer=True)


class SlotToy(nn.Module):
    """A slot defense that answers its slot, as the paper's does; the slot is the brightness class."""

    classes = 2
    transfer_knowledge = frozenset({"fixed-slots"})

    def __init__(self, *, repeats: bool = True) -> None:
        super().__init__()
        self.selector, self.repeats = Brightness(), repeats

    def forward(self, images: Images) -> torch.Tensor:
        return self.classify_with_slots(images, self.selector(images).argmax(1))

    def classify_with_slots(self, images: Images, slots: Labels) -> torch.Tensor:
        if self.repeats:
            return 5.0 * nn.functional.one_hot(slots, 2).float() + 0.0 * images.flatten(1)[:, :1]
        return self.selector(images)

    def surrogates(self) -> Mapping[str, Any]:
        frozen = self

        class Fixed:
            def bind(self, clean: Images) -> Classifier:
                slots = frozen.selector(clean).argmax(1)
                return _Rows(frozen, slots)

        return {"fixed-slots": Fixed(), "selector": self.selector}

    def reconstruct_all(self, images: Images) -> torch.Tensor:
        return images[:, None].expand(-1, 2, -1, -1, -1)

    def trace(self, images: Images) -> Any:
        slots = self.selector(images).argmax(1)

        @dataclass(frozen=True)
        class Trace:
            slots: Labels
            attention: torch.Tensor

        return Trace(slots, nn.functional.one_hot(slots, 2).float())

    def diagnostics(self, images: Images, labels: Labels) -> Mapping[str, float]:
        return {"shrink sparsity": 0.0, "non-target gradient share": 0.5}


@dataclass(frozen=True)
class _Rows:
    defense: SlotToy
    slots: Labels

    def __call__(self, images: Images) -> torch.Tensor:
        return self.defense.classify_with_slots(images, self.slots)

    def rows(self, index: torch.Tensor) -> "_Rows":
        return _Rows(self.defense, self.slots[index])


class Front(nn.Module):
    """A network of five classes; `front` changes the images before it, `back` the logits behind it."""

    def __init__(
        self,
        front: Callable[[torch.Tensor], torch.Tensor] = lambda images: images,
        back: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits,
    ) -> None:
        super().__init__()
        self.network, self.front, self.back = five_classes(), front, back

    def forward(self, images: Images) -> torch.Tensor:
        return self.back(self.network(self.front(images)))


def five_classes() -> nn.Sequential:
    """A fixed random network, images (B, 1, 8, 8) to logits (B, 5), that spreads `some_images` over its classes."""
    state = torch.random.get_rng_state()
    torch.manual_seed(3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 5)).requires_grad_(False)
    torch.random.set_rng_state(state)
    network[3].bias -= network(some_images()).mean(0)
    return network


def some_images() -> Images:
    """64 random images (64, 1, 8, 8)."""
    return torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def some_labels() -> Labels:
    """What `five_classes` says about them, so that its clean accuracy is 1."""
    return five_classes()(some_images()).argmax(1)
