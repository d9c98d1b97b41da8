"""Residual networks (He et al. 2016, arXiv:1512.03385) with a stem for small images.

The bottleneck is the v1.5 form: the stride sits on the 3x3 convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, Unpack

from torch import Tensor, nn

from memory_defense.contracts import Images, Logits
from memory_defense.networks.layers import Activation, ImageClassifier, ImageShape, Sum, activation_layer

WIDTHS = (64, 128, 256, 512)

PLANS: dict[int, tuple[bool, tuple[int, int, int, int]]] = {18: (False, (2, 2, 2, 2)), 50: (True, (3, 4, 6, 3))}
"""Number of layers -> (bottleneck blocks, blocks in each of the four stages)."""


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Return a convolution that keeps the size (up to its stride) and its batch normalisation."""
    padding = kernel // 2
    return [
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class Block(nn.Module):
    """One residual block: ``activation(branch(x) + shortcut(x))``.

    Parameters
    ----------
    inputs
        Channels that come in.
    width
        Channels inside; ``width * expansion`` come out.
    stride
        1, or 2 to halve the size.
    bottleneck
        1x1, 3x3, 1x1 with expansion 4, instead of 3x3, 3x3 with expansion 1.
    activation
        ``relu`` or ``silu``.
    """

    def __init__(self, inputs: int, width: int, *, stride: int, bottleneck: bool, activation: Activation) -> None:
        super().__init__()
        self.outputs = width * (4 if bottleneck else 1)
        if bottleneck:
            plan = [(inputs, width, 1, 1), (width, width, 3, stride), (width, self.outputs, 1, 1)]
        else:
            plan = [(inputs, width, 3, stride), (width, width, 3, 1)]
        layers: list[nn.Module] = []
        for step in plan:
            layers += [*_convolution(*step), activation_layer(activation)]
        self.branch = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != self.outputs:
            self.shortcut = nn.Sequential(*_convolution(inputs, self.outputs, 1, stride))
        self.activation = activation_layer(activation)

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, outputs, H / stride, W / stride)."""
        return self.activation(self.branch(features) + self.shortcut(features))

    def layers(self) -> Sequence[nn.Module]:
        """Return what `forward` amounts to (`published.Layered`)."""
        return Sum(self.branch, self.shortcut), self.activation


class ResNet(ImageClassifier):
    """A residual network for images of any size; classifier-A of the paper is the 50-layer one.

    Parameters
    ----------
    layers
        18 or 50; see `PLANS`.
    stem_pool
        Follow the 3x3 stem by 3x3 max-pooling of stride 2, as the paper's selector does. It saves three
        quarters of the work and costs accuracy on small images.
    activation
        ``relu`` or ``silu``.
    shape
        See `ImageShape`.
    """

    def __init__(
        self,
        *,
        layers: Literal[18, 50],
        stem_pool: bool,
        activation: Activation = "relu",
        **shape: Unpack[ImageShape],
    ) -> None:
        super().__init__(**shape)
        if layers not in PLANS:
            raise ValueError(f"there is no ResNet of {layers} layers here; known: {', '.join(map(str, PLANS))}")
        bottleneck, depths = PLANS[layers]
        stem = [*_convolution(shape["channels"], WIDTHS[0], 3), activation_layer(activation)]
        self.stem = nn.Sequential(*stem, *([nn.MaxPool2d(3, stride=2, padding=1)] if stem_pool else []))
        blocks: list[nn.Module] = []
        inputs = WIDTHS[0]
        for stage, (width, depth) in enumerate(zip(WIDTHS, depths, strict=True)):
            for number in range(depth):
                stride = 2 if stage > 0 and number == 0 else 1
                block = Block(inputs, width, stride=stride, bottleneck=bottleneck, activation=activation)
                blocks.append(block)
                inputs = block.outputs
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.output = nn.Linear(inputs, shape["classes"])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Images) -> Logits:
        """Return logits (B, K)."""
        features = self.blocks(self.stem(self.normalize(images)))  # (B, F, h, w)
        return self.output(self.pool(features).flatten(1))

    def layers(self) -> Sequence[nn.Module]:
        """Return what `forward` calls in turn."""
        return self.normalize, self.stem, self.blocks, self.pool, nn.Flatten(), self.output


resnet18 = partial(ResNet, layers=18, stem_pool=False)
"""The 18-layer network that reaches the usual accuracy on small images."""

resnet50 = partial(ResNet, layers=50, stem_pool=True)
"""The selector of the paper's released code."""
