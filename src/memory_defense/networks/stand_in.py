"""A small convolutional network from images to images that imitates a purifier without a gradient."""

from __future__ import annotations

from torch import nn

from memory_defense.contracts import Images


class StandIn(nn.Module):
    """Images (B, C, H, W) plus a learned change that depends on 9 x 9 pixels around each; the identity at first.

    Parameters
    ----------
    channels
        C.
    filters
        Channels of the three hidden layers.
    """

    def __init__(self, channels: int, filters: int = 32) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Conv2d(channels, filters, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(filters, filters, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(filters, filters, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(filters, channels, 3, padding=1),
        )
        for parameter in self.change[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, images: Images) -> Images:
        """Return (B, C, H, W); values may leave [0, 1] a little."""
        return images + self.change(images)
