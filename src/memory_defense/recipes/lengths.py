"""How long to train on images whose number nobody knows beforehand."""

from __future__ import annotations

import math


def batch_size(images: int, most: int = 128) -> int:
    """Return a batch size for so many images: at most an eighth of them, and at least 2 (or all, if fewer)."""
    return min(most, max(min(2, images), images // 8))


def epochs_for(images: int, seen: int, *, least: int, most: int) -> int:
    """Return the epochs in which `images` training images are seen about `seen` times in all, within two limits."""
    return min(most, max(least, math.ceil(seen / images)))
