"""Random numbers as pure functions of (seed, purpose, image): nothing here reads a clock or global state.

`ImageDraws` gives each image its own stream, so that batch size, order, sharding and resuming never change
an outcome. The generator is SplitMix64 (Steele, Lea & Flood 2014) used as a counter-based hash, written in
wrapping int64 tensor arithmetic.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from memory_defense.contracts import Rows

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def derive(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for this purpose, independent of every other purpose's."""
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator for one purpose (a batch order, say)."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


@contextmanager
def seeded(seed: int, *purpose: str | int) -> Generator[None]:
    """Run a block whose global draws (weight initialisation, dropout) come from this purpose alone.

    The state outside, the accelerator's included, is as before afterwards.
    """
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, *purpose))
        yield


def _shift(bits: Tensor, by: int) -> Tensor:
    """Shift int64 right as if it were unsigned."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _mix(bits: Tensor) -> Tensor:
    """Finalise SplitMix64: every output bit depends on every input bit."""
    bits = (bits ^ _shift(bits, 30)) * _MIX_1
    bits = (bits ^ _shift(bits, 27)) * _MIX_2
    return bits ^ _shift(bits, 31)


def _mix_(bits: Tensor) -> Tensor:
    """Do what `_mix` does in place, for tensors that nobody else holds."""
    for by, factor in ((30, _MIX_1), (27, _MIX_2)):
        bits.bitwise_xor_((bits >> by).bitwise_and_((1 << (64 - by)) - 1)).mul_(factor)
    return bits.bitwise_xor_((bits >> 31).bitwise_and_((1 << 33) - 1))


DRAWS = 2
"""Version of the numbers that `ImageDraws` gives: 2 makes two numbers of each hash, 1 made one. What was begun with
another version is not gone on with."""


@dataclass(frozen=True)
class ImageDraws:
    """Counter-based draws for a batch of images; see `contracts.Draws`.

    Parameters
    ----------
    keys
        (B,) int64, one stream key for each image; make them with `ImageDraws.of`.
    """

    keys: Tensor

    @classmethod
    def of(cls, seed: int, purpose: str, images: int | Tensor, device: torch.device | str = "cpu") -> ImageDraws:
        """Return draws for images numbered 0..n-1, or for the given ids (B,) int64, positions in a dataset."""
        ids = images.to(device) if isinstance(images, Tensor) else torch.arange(images, device=device)
        return cls(_mix(_mix(ids * _GOLDEN + derive(seed, purpose))))

    def child(self, *purpose: str | int) -> ImageDraws:
        """Return an independent stream for each image."""
        return ImageDraws(_mix(self.keys ^ derive(0, *purpose)))

    def rows(self, index: Rows) -> ImageDraws:
        """Return the draws of these rows, wherever their positions are."""
        return ImageDraws(self.keys[index.to(self.keys.device)])

    def _halves(self, count: int) -> Tensor:
        """Return (B, count) int32: the low and the high half of each hash, one after the other."""
        if len(self.keys) == 0:  # an empty sum may have strides that no other type is seen through
            return self.keys.new_empty((0, count), dtype=torch.int32)
        hashes = torch.arange(1, count // 2 + count % 2 + 1, device=self.keys.device).mul_(_GOLDEN)
        return _mix_(self.keys[:, None] + hashes).view(torch.int32)[:, :count]

    def uniform(self, *shape: int) -> Tensor:
        """Return (B, *shape) float32 in [0, 1), 24 bits each."""
        return _unit(self._halves(math.prod(shape))).view(-1, *shape)

    def normal(self, *shape: int) -> Tensor:
        """Return (B, *shape) float32, standard normal (Box & Muller 1958): two of each pair of uniform numbers."""
        count = math.prod(shape)
        pairs = _unit(self.child("normal")._halves(count + count % 2)).view(len(self.keys), (count + 1) // 2, 2)
        radius = (1 - pairs[..., 0]).log_().mul_(-2).sqrt_()
        angle = pairs[..., 1] * (2 * math.pi)
        both = torch.stack([angle.cos().mul_(radius), angle.sin().mul_(radius)], 2)  # (B, count / 2, 2)
        return both.flatten(1)[:, :count].view(-1, *shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Return (B, *shape) int64 in [0, high); `high` below 2**24 keeps the bias under 1e-7 x high."""
        return (((self._halves(math.prod(shape)).long() & 0xFFFFFFFF) * high) >> 32).view(-1, *shape)


def _unit(halves: Tensor) -> Tensor:
    """Return int32 as float32 in [0, 1), by their upper 24 bits."""
    return (halves >> 8).bitwise_and_(0xFFFFFF).float().mul_(2.0**-24)
