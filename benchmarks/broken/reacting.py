"""Defenses that react to the image that they are given: by moving it, or by refusing to answer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from broken.byhand import Climb, lead
from broken.parts import Broken, Kit, Trial, straight_through
from memory_defense.contracts import Images, Labels, Logits, PerImage
from memory_defense.defenses.flagging import FlaggingModule


class AntiAdversary(nn.Module):
    """Moves the image down the loss of its own answer before it answers."""

    def __init__(self, network: nn.Module, steps: int = 2, size: float = 0.15) -> None:
        super().__init__()
        self.network, self.steps, self.size = network, steps, size

    def moved(self, images: Images) -> Images:
        """Return how far each image is moved, (B, C, H, W)."""
        with torch.enable_grad():
            clean = images.detach()
            own, shift = self.network(clean).argmax(1), torch.zeros_like(clean)
            for _ in range(self.steps):
                leaf = (clean + shift).requires_grad_()
                (gradient,) = torch.autograd.grad(F.cross_entropy(self.network(leaf), own, reduction="sum"), leaf)
                shift = shift - self.size * gradient.sign()
        return shift

    def forward(self, images: Images) -> Logits:
        """Return logits (B, K)."""
        return self.network(images + self.moved(images))


def anti_adversary(kit: Kit) -> Trial:
    """An anti-adversary before an undefended net."""
    model = AntiAdversary(kit.plain()).eval()
    return Trial(
        model,
        Climb(on=model, steps=10, step=0.25),
        {
            "the network behind it": Climb(on=kit.plain(), loss=lead, steps=60, ranks=3),
            "gradients": Climb(on=model, loss=lead, steps=60),
        },
    )


def median(images: Images) -> Images:
    """Return the median of 3 x 3 pixels around each, (B, C, H, W)."""
    batch, channels, height, width = images.shape
    near = F.unfold(F.pad(images.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="reflect"), 3)
    return near.median(1).values.view(batch, channels, height, width)


class Squeezing(FlaggingModule):
    """Flags an image whose answer changes much when it is rounded or smoothed."""

    flag_score = "squeezing"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Images) -> Logits:
        """Return logits (B, K) of the image as it is."""
        return self.network(images)

    def surrogates(self) -> Mapping[str, nn.Module]:
        """Return the defense itself."""
        return {"end-to-end": self}

    def versions(self, images: Images) -> Tensor:
        """Return (3, B, K) the logits of the image as it is, rounded (straight through) and smoothed."""
        rounded = straight_through((images * 3).round() / 3, images)
        return torch.stack([self.network(one) for one in (images, rounded, median(images))])

    def scores(self, images: Images) -> Mapping[str, PerImage]:
        """Return (B,) the largest distance of the probabilities from those of a squeezed image."""
        own, *squeezed = self.versions(images).softmax(2)
        return {"squeezing": torch.stack([(own - one).abs().sum(1) for one in squeezed]).amax(0)}


def squeezing(kit: Kit) -> Trial:
    """Detection by a threshold: 5 % of held-out images exceed it."""
    model = Squeezing(kit.plain()).eval()
    with torch.no_grad():
        known = model.scores(kit.held_out.first(min(2000, len(kit.held_out))).floats())["squeezing"]
    model.flag_threshold = float(known.quantile(0.95))

    def answers(images: Images) -> Tensor:
        return torch.cat([model(images), model.excess(images)[:, None]], 1)

    def together(images: Images) -> Logits:
        return model.versions(images).log_softmax(2).sum(0)

    return Trial(
        model.eval(),
        Climb(on=model, steps=10, step=0.25),
        {
            "all versions of the image towards one class": Climb(on=together, loss=lead, steps=60, ranks=3),
            "the margin minus twice the score of the flag": Climb(on=answers, loss=_unseen, steps=60, starts=2),
        },
    )


def _unseen(answers: Tensor, labels: Labels) -> PerImage:
    """Return (B,) the lead, up to where it is safe, less what the flag (in the last column) sees."""
    return lead(answers[:, :-1], labels).clamp(max=2.0) - 2 * answers[:, -1].relu()


REACTING = {
    "anti-adversary": Broken(
        "an anti-adversary",
        "Alfarra et al. 2022",
        "Croce et al. 2022: no better than the network behind it",
        "PGD, 10 steps of epsilon / 4, through the layer",
        "the layer moves the image to where its gradient is small and points elsewhere",
        anti_adversary,
    ),
    "squeezing": Broken(
        "detection by a threshold (feature squeezing)",
        "Xu et al. 2018",
        "He et al. 2017: an adversary who knows of the flag gets past it (MNIST, CIFAR-10)",
        "PGD, 10 steps of epsilon / 4, on the answer alone",
        "the attack does not take the flag into account",
        squeezing,
    ),
}
"""By name."""
