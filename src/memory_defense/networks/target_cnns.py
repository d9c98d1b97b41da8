"""The four target classifiers A to D of Defense-GAN (Samangouei et al. 2018), which Defense-VAE is tested with too.

Where a stride of 2 keeps the image's borders (``same``), the padding is TensorFlow's for an even side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from memory_defense.contracts import Images, Logits
from memory_defense.networks.layers import Normalize, check_network, features_of


class TargetCNN(nn.Module):
    """Normalisation, a trunk and a head; made by `cnn_a`, `cnn_b`, `cnn_c` and `mlp_d`.

    Parameters
    ----------
    channels, size, classes
        C, H = W (at most 128) and K.
    mean, std
        For `Normalize`.
    trunk
        Images (B, C, H, W) to features (B, F).
    head
        Makes the rest out of F and K.
    smallest
        The smallest side that the trunk takes.

    Raises
    ------
    ValueError
        For a size out of range.
    """

    def __init__(
        self,
        *,
        channels: int,
        size: int,
        classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        trunk: nn.Sequential,
        head: Callable[[int, int], nn.Sequential],
        smallest: int,
    ) -> None:
        super().__init__()
        check_network(channels, size, classes, mean, smallest=smallest)
        self.normalize = Normalize(mean, std)
        self.trunk = trunk
        self.head = head(features_of(trunk, channels, size), classes)

    def forward(self, images: Images) -> Logits:
        """Return logits (B, K)."""
        return self.head(self.trunk(self.normalize(images)))


def _hidden_128(features: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(0.25), nn.Linear(features, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, classes)
    )


def _output_alone(features: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(0.5), nn.Linear(features, classes))


def _two_of_200(features: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(features, 200),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(200, 200),
        nn.ReLU(),
        nn.Linear(200, classes),
    )


def cnn_a(*, channels: int, size: int, classes: int, mean: Sequence[float], std: Sequence[float]) -> TargetCNN:
    """Return network A: 64 x 5x5 same, 64 x 5x5 stride 2, hidden layer of 128; at least 5 pixels."""
    trunk = nn.Sequential(
        nn.Conv2d(channels, 64, 5, padding=2), nn.ReLU(), nn.Conv2d(64, 64, 5, stride=2), nn.ReLU(), nn.Flatten()
    )
    shape = {"channels": channels, "size": size, "classes": classes}
    return TargetCNN(**shape, mean=mean, std=std, trunk=trunk, head=_hidden_128, smallest=5)


def cnn_b(*, channels: int, size: int, classes: int, mean: Sequence[float], std: Sequence[float]) -> TargetCNN:
    """Return network B: 64 x 8x8 stride 2 same, 128 x 6x6 stride 2, 128 x 5x5; at least 28 pixels."""
    trunk = nn.Sequential(
        nn.Dropout(0.2),
        nn.Conv2d(channels, 64, 8, stride=2, padding=3),
        nn.ReLU(),
        nn.Conv2d(64, 128, 6, stride=2),
        nn.ReLU(),
        nn.Conv2d(128, 128, 5),
        nn.ReLU(),
        nn.Flatten(),
    )
    shape = {"channels": channels, "size": size, "classes": classes}
    return TargetCNN(**shape, mean=mean, std=std, trunk=trunk, head=_output_alone, smallest=28)


def cnn_c(*, channels: int, size: int, classes: int, mean: Sequence[float], std: Sequence[float]) -> TargetCNN:
    """Return network C: 128 x 3x3 same, 64 x 5x5 stride 2, hidden layer of 128; at least 5 pixels."""
    trunk = nn.Sequential(
        nn.Conv2d(channels, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 64, 5, stride=2), nn.ReLU(), nn.Flatten()
    )
    shape = {"channels": channels, "size": size, "classes": classes}
    return TargetCNN(**shape, mean=mean, std=std, trunk=trunk, head=_hidden_128, smallest=5)


def mlp_d(*, channels: int, size: int, classes: int, mean: Sequence[float], std: Sequence[float]) -> TargetCNN:
    """Return network D: two hidden layers of 200."""
    shape = {"channels": channels, "size": size, "classes": classes}
    return TargetCNN(**shape, mean=mean, std=std, trunk=nn.Sequential(nn.Flatten()), head=_two_of_200, smallest=1)
