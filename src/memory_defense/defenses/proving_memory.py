"""A memory that proves: the nearest of K x M items answers, and how far its answer holds is a distance.

    z = encoder(x), 1-Lipschitz;   score of item m = z . m;   answer = the class of the item with the largest score

There is no selector: what the memory matches is what the defense answers, in one pass and without a draw. The items
have unit length, so the best one has the largest cosine. The certificate is that of nearest prototypes
(arXiv:2207.07208) behind a 1-Lipschitz encoder (see `networks.lipschitz`):

    radius(x) = max over items a of the answered class, min over items b of all others, of
                z . (m_a - m_b) / |m_a - m_b|

which is the distance of z to the plane between a and b, 0 where that is negative. Proof: let x' be closer to x than
that, and a the item at which the maximum is reached. Then ``|z' - z| <= |x' - x|``, so for every b of another class
``z' . (m_a - m_b) >= z . (m_a - m_b) - |z' - z| |m_a - m_b| > 0``: item a still beats all of them. Whichever item
is best at x', it scores at least as much as a, so it is of a's class, and the answer is the same.

A decoder shows what was matched. It is trained beside the rest, on codes and items that it cannot move, and has no
part in the answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.checks import check_at_least
from memory_defense.contracts import Batch, Certificates, Classifier, Images, Labels, Logits, PerImage
from memory_defense.defenses.losses import LossTerms
from memory_defense.names import check_name
from memory_defense.networks.layers import ImageShape, check_network
from memory_defense.networks.lipschitz import LipschitzEncoder, LipschitzPlan
from memory_defense.wrappers import exact_float32

ROUNDING = 2.0**-17
"""What float32 may do to the lead of one item over another, as a share of ``|z| + sqrt(C H W)``, at an image and at
one around it together: 128 roundings of numbers of that size, many times what is measured."""

SPREAD = 0.3
"""How far the items of a class lie from their centre at first, as a share of its length. Near ones all learn from
the first step on and part where that helps; of items that begin anywhere, one of each class wins at once."""

_SMALLEST_SQUARE = 1e-6
"""Least squared distance of two items in training, whose root has a gradient there."""

_SMALLEST = 1e-24
"""Least squared distance of two items in a proof: by no lead over an item that is the same is anything proven."""

_SMALLEST_SHARE = 1e-12
"""Least share whose logarithm is taken."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ProvingLosses(LossTerms):
    """The terms of `ProvingObjective`."""

    margin: Tensor
    """Smooth hinge on the certified radius, in pixel units."""
    reconstruction: Tensor
    """Mean squared error per pixel of what the decoder makes of codes and of matched items, before its factor."""
    idle_items: Tensor
    """How unevenly the items of a slot are used, in [0, 1], before its factor; 0 where all are used alike."""


@dataclass(frozen=True, kw_only=True)
class ProvingObjective:
    """Pushes the certified radius of the true class beyond `margin`, as an objective on a `ProvingMemory`.

        t log(1 + exp((margin - R) / t)),   R = t log sum_a exp(R_a / t),
        R_a = -t log sum_b exp(-(z . (m_a - m_b)) / (|m_a - m_b| t))

    a runs over the items of the true class, b over those of all others: R is the radius with a smooth maximum
    and minimum, negative where the answer is wrong. With one item a class this is the cross-entropy with
    temperature and margin of Prach & Lampert (2022), on distances in place of logits.

    Raises
    ------
    ValueError
        For a temperature that is not positive, or a negative number elsewhere.
    """

    margin: float = 0.8
    """Radius in pixel units; a larger one costs accuracy and buys larger radii."""
    temperature: float = 0.25
    """t, in pixel units; a larger one also moves images whose radius is large enough."""
    reconstruction: float = 1.0
    """Factor of the decoder's error. The decoder alone learns from it."""
    idle_items: float = 0.1
    """Factor that keeps all items of a slot in use."""

    def __post_init__(self) -> None:
        check_at_least(0, margin=self.margin, reconstruction=self.reconstruction, idle_items=self.idle_items)
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}, but it must be above 0")

    def __call__(self, model: ProvingMemory, batch: Batch) -> ProvingLosses:
        """Return the losses of one batch."""
        codes = model.encoder(batch.images).float()  # (B, D)
        items, scores = model.unit_items(), model.scores_of(codes)  # (K, M, D), (B, K, M)
        rows = torch.arange(len(codes), device=codes.device)
        own, t = scores[rows, batch.labels], self.temperature  # (B, M)
        with torch.autocast(codes.device.type, enabled=False):
            radius = soft_radius(scores, batch.labels, item_distances(items), t)
            margin = (t * F.softplus((self.margin - radius) / t)).mean()
            idle = idleness((own / t).softmax(1), batch.labels, model.classes)
        matched = items[batch.labels, own.argmax(1)].detach()  # (B, D)
        shown = model.decoder(torch.cat([F.normalize(codes.detach(), dim=1), matched])).float()
        error = (shown - batch.images.repeat(2, 1, 1, 1)).square().mean()
        return ProvingLosses(
            total=margin + self.reconstruction * error + self.idle_items * idle,
            margin=margin,
            reconstruction=error,
            idle_items=idle,
        )


def item_distances(items: Tensor) -> Tensor:
    """Return (K M, K M) the distances of unit items (K, M, D), at least a thousandth, with a gradient."""
    flat = items.flatten(0, 1)
    return (2 - 2 * flat @ flat.T).clamp_min(_SMALLEST_SQUARE).sqrt()


def soft_radius(scores: Tensor, labels: Labels, distances: Tensor, temperature: float) -> PerImage:
    """Return (B,) the smooth radius R of `ProvingObjective` from scores (B, K, M) and `item_distances`."""
    leads = _leads(scores, labels) / distances.reshape(*scores.shape[1:], -1)[labels]  # (B, M, K M)
    others = ~_of_class(labels, *scores.shape[1:])[:, None]
    each = -temperature * (-leads / temperature).masked_fill(~others, -torch.inf).logsumexp(2)  # (B, M)
    return temperature * (each / temperature).logsumexp(1)


def _leads(scores: Tensor, labels: Labels) -> Tensor:
    """Return (B, M, K M) how far each item of the class scores above every item, from scores (B, K, M)."""
    own = scores[torch.arange(len(scores), device=scores.device), labels]  # (B, M)
    return own[:, :, None] - scores.flatten(1)[:, None]


def _of_class(labels: Labels, classes: int, each: int) -> Tensor:
    """Return (B, K M) bool: the item is of the image's class."""
    return F.one_hot(labels, classes).bool().repeat_interleave(each, 1)


def idleness(shares: Tensor, labels: Labels, classes: int) -> Tensor:
    """Return how far the items of a slot are from being used alike, in [0, 1]: 1 - entropy / log M.

    Parameters
    ----------
    shares
        (B, M) of the items of each image's own class; rows sum to 1. Their mean over the images of a class is what
        the entropy is taken of, and the mean over the classes that are there is what is returned; 0 for M = 1.
    labels
        (B,).
    classes
        K.
    """
    if shares.shape[1] == 1:
        return shares.new_zeros(())
    of_class = F.one_hot(labels, classes).to(shares)  # (B, K)
    counts = of_class.sum(0)
    mean = (of_class.T @ shares) / counts.clamp_min(1)[:, None]  # (K, M)
    entropy = -(mean * mean.clamp_min(_SMALLEST_SHARE).log()).sum(1) / math.log(shares.shape[1])  # (K,)
    return 1 - (entropy * (counts > 0)).sum() / (counts > 0).sum()


class ProvingMemory(nn.Module):
    """Images (B, C, H, W) in [0, 1] to logits (B, K), the best score of each class's items, with certificates (L2).

    Parameters
    ----------
    encoder
        1-Lipschitz in pixel units.
    classes
        K, at least 2.
    items_per_class
        M, at least 1.
    hidden
        Width of the decoder's hidden layer.

    Raises
    ------
    ValueError
        For a number out of range.
    """

    certified_norm: str = "l2"
    """The norm of the radii."""
    certified_method: str = "nearest items"
    """What records call the proof."""
    transfer_knowledge: frozenset[str] = frozenset()
    """Empty: the only surrogate is the defense itself."""

    def __init__(self, *, encoder: LipschitzEncoder, classes: int, items_per_class: int, hidden: int = 128) -> None:
        super().__init__()
        check_at_least(2, classes=classes)
        check_at_least(1, items_per_class=items_per_class, hidden=hidden)
        plan = encoder.plan
        shape = (plan.channels, plan.size, plan.size)
        self.encoder = encoder
        centres = torch.randn(classes, 1, plan.code_size)
        self.items = nn.Parameter(centres + SPREAD * torch.randn(classes, items_per_class, plan.code_size))
        self.decoder = nn.Sequential(
            nn.Linear(plan.code_size, hidden),
            nn.ReLU(),
            nn.Linear(hidden, math.prod(shape)),
            nn.Sigmoid(),
            nn.Unflatten(1, shape),
        )

    @property
    def classes(self) -> int:
        """K."""
        return self.items.shape[0]

    def unit_items(self) -> Tensor:
        """Return the items (K, M, D), each of length 1."""
        return F.normalize(self.items, dim=2)

    def scores_of(self, codes: Tensor) -> Tensor:
        """Return (B, K, M) the score of every item, from codes (B, D)."""
        with torch.autocast(codes.device.type, enabled=False):
            scores = codes.to(self.items.dtype) @ self.unit_items().flatten(0, 1).T
        return scores.reshape(-1, *self.items.shape[:2])

    def forward(self, images: Images) -> Logits:
        """Return the logits (B, K)."""
        return self.scores_of(self.encoder(images)).amax(2)

    def surrogates(self) -> Mapping[str, Classifier]:
        """Return the defense itself: every step but the choice of the best item is differentiable."""
        return {"end-to-end": self}

    @torch.no_grad()
    def certificates(self, images: Images) -> Certificates:
        """Return the answers to images (B, C, H, W), and the L2 radii within which they are proven to stay.

        One pass in float32, from whose leads `ROUNDING` is taken off, so that the answers of float32 passes are
        covered too. That covers measured errors many times over and is no proof about rounding. An image without
        finite scores gets -1 and 0.

        Raises
        ------
        ValueError
            For images of another shape, or weights of less precision than float32.
        """
        if self.items.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"the weights are {self.items.dtype}, and nothing is proven about numbers as coarse; "
                "convert the defense with .float(), or load it again"
            )
        answers, radii, finite = self._proven(images)
        return Certificates(torch.where(finite, answers, -1), torch.where(finite, radii.clamp_min(0), 0.0))

    def slack(self, images: Images, radius: float) -> PerImage:
        """Return (B,) float64 by how much the certified radius exceeds this one, with a gradient."""
        _, radii, finite = self._proven(images)
        return torch.where(finite, radii, -torch.inf) - radius

    def _proven(self, images: Images) -> tuple[Labels, PerImage, PerImage]:
        """Return answers (B,), radii (B,), negative where nothing is proven, and where scores are finite."""
        with exact_float32(), torch.autocast(images.device.type, enabled=False):
            codes = self.encoder(images)
            scores = self.scores_of(codes)  # (B, K, M)
            items = self.unit_items().flatten(0, 1).double()  # (K M, D)
        answers = scores.amax(2).argmax(1)
        sizes = codes.double().square().sum(1).sqrt() + math.sqrt(math.prod(images.shape[1:]))
        leads = _leads(scores.double(), answers) - ROUNDING * sizes[:, None, None]  # (B, M, K M)
        squares = items.square().sum(1)
        distances = (squares[:, None] + squares - 2 * items @ items.T).clamp_min(_SMALLEST).sqrt()
        to_planes = leads / distances.reshape(*scores.shape[1:], -1)[answers]
        own = _of_class(answers, *scores.shape[1:])[:, None]
        radii = to_planes.masked_fill(own, torch.inf).amin(2).amax(1)
        return answers, radii, scores.isfinite().flatten(1).all(1)

    @torch.no_grad()
    def reconstruct(self, images: Images) -> Images:
        """Return (B, C, H, W) in [0, 1]: what the decoder makes of the images' codes."""
        return self.decoder(F.normalize(self.encoder(images), dim=1))

    @torch.no_grad()
    def reconstruct_all(self, images: Images) -> Tensor:
        """Return (B, K, C, H, W) in [0, 1]: the best item of every class, as `prototypes` shows it."""
        best = self.scores_of(self.encoder(images)).argmax(2)  # (B, K)
        return self.prototypes()[torch.arange(self.classes, device=best.device), best]

    @torch.no_grad()
    def prototypes(self) -> Tensor:
        """Return (K, M, C, H, W) in [0, 1]: what the decoder makes of every item."""
        shown: Images = self.decoder(self.unit_items().flatten(0, 1))
        return shown.reshape(*self.items.shape[:2], *shown.shape[1:])


@dataclass(frozen=True, kw_only=True)
class ProvingPreset:
    """The sizes of a `ProvingMemory`, first for grey images and then for colour images."""

    widths: tuple[tuple[int, int], tuple[int, int]]
    """Channels after each of two halvings of the sides."""
    depths: tuple[int, int]
    dense: tuple[int, ...]
    items_per_class: int


PRESETS: dict[str, ProvingPreset] = {
    "small": ProvingPreset(widths=((16, 64), (24, 96)), depths=(2, 3), dense=(256, 256), items_per_class=4),
    "tiny": ProvingPreset(widths=((4, 16), (12, 48)), depths=(1, 1), dense=(16,), items_per_class=2),
}
"""``small`` is for one processor core, ``tiny`` for tests. See `LipschitzPlan` for the numbers."""


def build_proving_memory(
    *, preset: str = "small", memory_size: int | None = None, **shape: Unpack[ImageShape]
) -> ProvingMemory:
    """Return a freshly initialised proving memory; draws from the global generator.

    Parameters
    ----------
    preset
        Name in `PRESETS`.
    memory_size
        K M, the number of items; None is the preset's.
    shape
        See `ImageShape`; at least 4 pixels. The standard deviation is not used: a scale of the pixels would have to
        be taken off the radii again.

    Raises
    ------
    ValueError
        For an unknown preset, a size out of range, or a number of items that is no multiple of K.
    """
    check_name(preset, PRESETS, "preset of the proving memory")
    check_network(shape["channels"], shape["size"], shape["classes"], shape["mean"], smallest=4)
    chosen, classes = PRESETS[preset], shape["classes"]
    items = chosen.items_per_class * classes if memory_size is None else memory_size
    if items < classes or items % classes:
        below = max(items // classes, 1) * classes
        raise ValueError(
            f"the memory has {items} items for {classes} classes, but every class needs the same number; "
            f"use {below} or {below + classes}"
        )
    plan = LipschitzPlan(
        channels=shape["channels"],
        size=shape["size"],
        widths=chosen.widths[shape["channels"] > 1],
        depths=chosen.depths,
        dense=chosen.dense,
    )
    encoder = LipschitzEncoder(plan, shape["mean"])
    return ProvingMemory(encoder=encoder, classes=classes, items_per_class=items // classes)
