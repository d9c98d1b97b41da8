"""Encoder and decoder of Table 4: Eq. 7 and Eq. 12.

The table's two columns are read as plans: ``16 x (1,1) x 2`` is channels x kernel x stride (reading A14) and
``64 x 2 x 1`` is channels x stride x padding with a 3x3 kernel (A15). Every layer halves the image, is
batch-normalised and followed by LeakyReLU of slope 1/4, except that the code goes through a sigmoid and the
output is linear (A19).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from memory_defense.networks.layers import MAX_SIZE, check_input, check_side

SLOPE = 0.25
SMALLEST_SIZE, LARGEST_SIZE = 4, 1024

Stem = Literal[1, 3]


@dataclass(frozen=True, kw_only=True)
class AutoencoderPlan:
    """The architecture that one column of Table 4 describes."""

    channels: int
    """C of the images."""
    size: int
    """H = W of the images."""
    encoder: tuple[int, ...]
    """Output channels of the encoder's layers."""
    decoder: tuple[int, ...]
    """Output channels of the decoder's layers but the last, which makes C."""
    stem: Stem = 3
    """Kernel of the first layer. With 1, as printed for Fashion-MNIST, it sees only every second row and column:
    three quarters of the pixels have no influence (reading A17)."""

    @property
    def sides(self) -> tuple[int, ...]:
        """H = W of the code's feature map and of every decoder layer's output, the image's last."""
        sides = [self.size]
        for _ in self.encoder:
            sides.append((sides[-1] + 1) // 2)
        return tuple(reversed(sides))

    @property
    def code_shape(self) -> tuple[int, int, int]:
        """Shape (F, h, w) of the code's feature map."""
        return self.encoder[-1], self.sides[0], self.sides[0]

    @property
    def code_size(self) -> int:
        """D, the length of a code."""
        features, height, width = self.code_shape
        return features * height * width


def plan_for(channels: int, size: int, stem: Stem = 3) -> AutoencoderPlan:
    """Return the Fashion-MNIST column for grey images of 28 pixels, the CIFAR-10 column for all others.

    Parameters
    ----------
    channels, size
        C and H = W, 4 to 1024; both columns give D = 1024 at their own dataset's size. Above 128 pixels, which the
        table does not speak of, further layers of the column's last width halve the image until the code's map has
        at most 8 pixels a side, as at 128.
    stem
        See `AutoencoderPlan.stem`; only the Fashion-MNIST column has a 1x1 form, elsewhere it is 3.

    Raises
    ------
    ValueError
        For a size out of range.
    """
    check_side(size, "the autoencoder", SMALLEST_SIZE, LARGEST_SIZE)
    if (channels, size) == (1, 28):
        return AutoencoderPlan(channels=1, size=28, encoder=(16, 32, 64), decoder=(32, 16), stem=stem)
    more = max(0, math.ceil(math.log2(size / MAX_SIZE)))
    return AutoencoderPlan(
        channels=channels,
        size=size,
        encoder=(64, 128, 128, 256, *[256] * more),
        decoder=(*[256] * more, 256, 128, 128),
        stem=3,
    )


class Encoder(nn.Module):
    """E of Eq. 7: normalised images (B, C, H, W) to codes (B, D) in (0, 1)."""

    def __init__(self, plan: AutoencoderPlan) -> None:
        super().__init__()
        self.image_shape = (plan.channels, plan.size)
        layers: list[nn.Module] = []
        inputs = plan.channels
        for number, outputs in enumerate(plan.encoder):
            kernel = plan.stem if number == 0 else 3
            last = number == len(plan.encoder) - 1
            layers += [
                nn.Conv2d(inputs, outputs, kernel, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.Sigmoid() if last else nn.LeakyReLU(SLOPE),
            ]
            inputs = outputs
        self.layers = nn.Sequential(*layers)

    def forward(self, normalised: Tensor) -> Tensor:
        """Return codes z (B, D); raise ValueError for images of another size."""
        check_input(normalised, "the autoencoder", *self.image_shape)
        return self.layers(normalised).flatten(1)


class Decoder(nn.Module):
    """D of Eq. 12: codes (B, D) to normalised images (B, C, H, W)."""

    def __init__(self, plan: AutoencoderPlan) -> None:
        super().__init__()
        self.code_shape = plan.code_shape
        layers: list[nn.Module] = []
        inputs, side = plan.code_shape[:2]
        widths = (*plan.decoder, plan.channels)
        for number, (outputs, target) in enumerate(zip(widths, plan.sides[1:], strict=True)):
            last = number == len(plan.decoder)
            extra = target - (2 * side - 1)  # 0 or 1: an odd or an even side was halved
            layers.append(
                nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=extra, bias=last)
            )
            if not last:
                layers += [nn.BatchNorm2d(outputs), nn.LeakyReLU(SLOPE)]
            inputs, side = outputs, target
        self.layers = nn.Sequential(*layers)

    def forward(self, codes: Tensor) -> Tensor:
        """Return the reconstruction in normalised space (B, C, H, W)."""
        return self.layers(codes.reshape(-1, *self.code_shape))  # (B, F, h, w) inside
