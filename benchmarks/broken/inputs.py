"""Defenses that change the image before a net reads it, by a step without a useful gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from broken.byhand import Climb, lead
from broken.parts import Broken, Kit, Trial, small_net, straight_through
from memory_defense.contracts import Images, Logits


class BitDepth(nn.Module):
    """Rounds pixels to a few levels."""

    def __init__(self, network: nn.Module, bits: int = 2) -> None:
        super().__init__()
        self.network, self.levels = network, 2**bits - 1

    def forward(self, images: Images) -> Logits:
        """Return logits (B, K)."""
        return self.network((images * self.levels).round() / self.levels)

    def smooth(self, images: Images) -> Logits:
        """Return the same logits with the gradient of a step that changes nothing."""
        return self.network(straight_through((images * self.levels).round() / self.levels, images))


def bit_depth(kit: Kit) -> Trial:
    """Fewer grey levels before an undefended net."""
    model = BitDepth(kit.plain())
    return Trial(
        model,
        Climb(on=model, steps=10, step=0.25),
        {"straight-through gradient of the rounding": Climb(on=model.smooth, loss=lead, steps=60, ranks=3)},
    )


class Thermometer(nn.Module):
    """Hands the net, for each pixel, which of several thresholds it exceeds."""

    def __init__(self, levels: int = 16) -> None:
        super().__init__()
        self.register_buffer("thresholds", torch.arange(levels).view(1, -1, 1, 1) / levels)
        self.network = small_net(channels=levels)

    def forward(self, images: Images) -> Logits:
        """Return logits (B, K)."""
        return self.network((images > self.thresholds).float())  # (B, L, H, W)

    def smooth(self, images: Images) -> Logits:
        """Return the same logits with the gradient of ramps, each over the whole range of a pixel."""
        ramps = (images - self.thresholds).clamp(0, 1)
        return self.network(straight_through((images > self.thresholds).float(), ramps))


def thermometer(kit: Kit) -> Trial:
    """Thermometer encoding."""
    model = kit.trained("thermometer", Thermometer)
    return Trial(
        model,
        Climb(on=model, steps=10, step=0.25),
        {"through ramps in the place of the thresholds": Climb(on=model.smooth, loss=lead, steps=60, ranks=3)},
    )


LUMINANCE = torch.tensor([
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
]).float()  # fmt: skip
"""Steps of JPEG's example table for luminance (ITU-T T.81, Annex K), quality 50."""


def cosines() -> Tensor:
    """Return (8, 8) the orthonormal cosine transform of 8 numbers."""
    place = torch.arange(8.0)
    found = torch.cos(torch.pi * (2 * place[None] + 1) * place[:, None] / 16) / 2
    found[0] /= 2**0.5
    return found


class Jpeg(nn.Module):
    """Compresses as JPEG does: cosines of 8 x 8 blocks, rounded to multiples of a table."""

    def __init__(self, network: nn.Module, coarser: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("table", LUMINANCE * coarser / 255)
        self.register_buffer("transform", cosines())

    def compressed(self, images: Images) -> Images:
        """Return images (B, C, H, W) as they come back."""
        batch, channels, height, width = images.shape
        more = (-width % 8, -height % 8)
        padded = nn.functional.pad(images, (0, more[0], 0, more[1]), mode="replicate")
        rows, columns = padded.shape[2] // 8, padded.shape[3] // 8
        blocks = padded.view(batch, channels, rows, 8, columns, 8).transpose(3, 4)  # (B, C, R, S, 8, 8)
        found = self.transform @ blocks @ self.transform.T
        blocks = self.transform.T @ ((found / self.table).round() * self.table) @ self.transform
        return blocks.transpose(3, 4).reshape(padded.shape)[..., :height, :width].clamp(0, 1)

    def forward(self, images: Images) -> Logits:
        """Return logits (B, K)."""
        return self.network(self.compressed(images))

    def smooth(self, images: Images) -> Logits:
        """Return the same logits with the gradient of a step that changes nothing."""
        return self.network(straight_through(self.compressed(images), images))


def jpeg(kit: Kit) -> Trial:
    """JPEG before an undefended net."""
    model = Jpeg(kit.plain())
    return Trial(
        model,
        Climb(on=model, steps=10, step=0.25),
        {"straight-through gradient of the compression": Climb(on=model.smooth, loss=lead, steps=60, ranks=3)},
    )


ATHALYE = "Athalye et al. 2018"
THROUGH_ROUNDING = "PGD, 10 steps of epsilon / 4, through the rounding"
NO_GRADIENT = "the gradient of a rounding is 0"

INPUTS = {
    "bit-depth": Broken(
        "bit-depth reduction",
        "Guo et al. 2018, Xu et al. 2018",
        f"{ATHALYE}: 0 % (the transformations of Guo et al., ImageNet); He et al. 2017",
        THROUGH_ROUNDING,
        NO_GRADIENT,
        bit_depth,
    ),
    "thermometer": Broken(
        "thermometer encoding",
        "Buckman et al. 2018",
        f"{ATHALYE}: 0 % (CIFAR-10, 0.031)",
        "PGD, 10 steps of epsilon / 4, through the thresholds",
        "a threshold has no gradient",
        thermometer,
    ),
    "jpeg": Broken(
        "JPEG compression",
        "Guo et al. 2018, Das et al. 2017",
        f"{ATHALYE}: 0 % (the transformations of Guo et al., ImageNet, L2 0.005)",
        THROUGH_ROUNDING,
        NO_GRADIENT,
        jpeg,
    ),
}
"""By name."""
