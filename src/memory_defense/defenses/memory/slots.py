"""The memory and its masked attention: Eqs. 8 to 11 of section 3.2.

Axes: B images, K classes, M memory items, S = M / K items in one slot, D numbers in a code. Items are
assigned to slots in order: slot k holds items k S to (k + 1) S - 1 (section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.contracts import Labels

SMALLEST_NORM = 1e-8
SMALLEST_SUM = 1e-12
SAMPLED = 64
"""Stride at which an item's numbers are sampled to see whether the items have changed."""


def inverse_norms(vectors: Tensor) -> Tensor:
    """Return (N,) the inverse Euclidean length of each row of (N, D); a zero row counts as 1e-8 long."""
    lengths = cast("Tensor", torch.linalg.vector_norm(vectors, dim=1))  # its stub names no return type
    return lengths.clamp_min(SMALLEST_NORM).reciprocal()


def cosine_logits(codes: Tensor, items: Tensor, scale: Tensor | None = None) -> Tensor:
    """Return Eq. 8: the cosine of each code and each memory item, (B, D) and (M, D) to (B, M) in [-1, 1].

    As printed the equation divides by the larger of the two lengths; the intended similarity is the cosine
    (reading A1). `scale` is (M,) the items' `inverse_norms`, where they are known already.
    """
    scale = inverse_norms(items) if scale is None else scale
    return (codes @ items.T) * inverse_norms(codes)[:, None] * scale


def attention(logits: Tensor) -> Tensor:
    """Return Eq. 9: the softmax over all M items (reading A2), (B, M) to (B, M)."""
    return logits.softmax(1)


def class_mask(slots: Labels, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return one row for each image with a 1 at its slot, (B,) to (B, K)."""
    return F.one_hot(slots, classes).to(dtype)


def item_mask(mask: Tensor, items: int) -> Tensor:
    """Return Eq. 10's mask: every item gets its slot's value, (B, K) to (B, M). Values may be real."""
    return mask.repeat_interleave(items // mask.shape[1], dim=1)


def hard_shrink(weights: Tensor, threshold: float, *, classes: int, keep_one: bool) -> Tensor:
    """Return weights with those up to `threshold` set to 0 (section 3.3), (B, M) to (B, M).

    With `keep_one` the largest item of each slot stays, so that no slot is ever empty.
    """
    keep = weights > threshold
    if keep_one:
        slots = weights.reshape(-1, classes, weights.shape[1] // classes)  # (B, K, S)
        keep = keep | (slots == slots.amax(2, keepdim=True)).flatten(1)
    return weights * keep


def masked(weights: Tensor, mask: Tensor) -> Tensor:
    """Return Eq. 10, ``weights * mask``, renormalised to sum to 1 (reading A6), (B, M) to (B, M).

    The complement is ``masked(weights, 1 - mask)``. A row that is 0 everywhere stays 0.
    """
    weights = weights * mask
    return weights / weights.sum(1, keepdim=True).clamp_min(SMALLEST_SUM)


def read(weights: Tensor, items: Tensor) -> Tensor:
    """Return Eq. 11: the weighted sum of the items, (B, M) and (M, D) to (B, D)."""
    return weights @ items


def removed_share(weights: Tensor, slots: Labels, classes: int) -> float:
    """Return the share of the chosen slots' weights (B, M) that are exactly 0: what hard shrink removed."""
    by_slot = weights.reshape(len(weights), classes, -1)  # (B, K, S)
    chosen = by_slot[torch.arange(len(slots), device=slots.device), slots]  # (B, S)
    return float((chosen == 0).float().mean())


class Addressing(NamedTuple):
    """The attention weights of a batch."""

    raw: Tensor
    """(B, M) Eq. 9, before shrinking and masking; sums to 1."""
    target: Tensor
    """(B, M) w of Eq. 10: the chosen slot's, renormalised."""
    complement: Tensor
    """(B, M) w-hat of Eq. 10: all other slots', renormalised."""


class _KnownScale(NamedTuple):
    """The scale that `SlotMemory.scale` remembers, and what tells which items it belongs to."""

    key: tuple[object, ...]
    sample: Tensor
    scale: Tensor


class SlotMemory(nn.Module):
    """M learned items of length D, the same number for each class.

    Parameters
    ----------
    items
        M, a multiple of `classes`.
    code_size
        D.
    classes
        K, the number of slots.
    shrink_threshold
        phi of section 3.3. A cosine softmax weight is never under ``exp(-2) / M``, so smaller thresholds
        remove nothing; see `shrinks`.
    keep_one
        Keep at least the largest item of a slot.

    Raises
    ------
    ValueError
        If M is no multiple of K, or the threshold is out of range.
    """

    def __init__(
        self, *, items: int, code_size: int, classes: int, shrink_threshold: float, keep_one: bool
    ) -> None:
        super().__init__()
        _check_memory(items, classes, shrink_threshold, keep_one)
        self.classes, self.shrink_threshold, self.keep_one = classes, shrink_threshold, keep_one
        self.items = nn.Parameter(torch.empty(items, code_size))
        nn.init.kaiming_uniform_(self.items)
        self._known_scale: _KnownScale | None = None

    @property
    def shrinks(self) -> bool:
        """Whether hard shrink can remove anything: cosines lie in [-1, 1], so weights in exp(-+2) / M."""
        return self.shrink_threshold > math.exp(-2) / len(self.items) * (1 - 1e-5)

    def scale(self) -> Tensor:
        """Return (M,) the items' `inverse_norms`, remembered in eval mode on a CPU until the items change.

        A change is seen by the parameter's address and version and, since some writes leave both as they are
        (a fused optimiser's, those through ``items.data``), by a sample of the items themselves.
        """
        items = self.items
        differentiated = torch.is_grad_enabled() and items.requires_grad
        if self.training or differentiated or items.is_inference() or items.device.type != "cpu":
            return inverse_norms(items)
        key = (items.data_ptr(), items._version, items.dtype)  # pyright: ignore[reportPrivateUsage]
        sample = items.detach()[:, ::SAMPLED]
        known = self._known_scale
        if known is None or known.key != key or not torch.equal(known.sample, sample):
            with torch.inference_mode(False), torch.no_grad():
                known = self._known_scale = _KnownScale(key, sample.clone(), inverse_norms(items))
        return known.scale

    def raw_attention(self, codes: Tensor) -> Tensor:
        """Return Eqs. 8 and 9, (B, D) to (B, M)."""
        with full_precision(codes):
            return attention(cosine_logits(codes.to(self.items.dtype), self.items, self.scale()))

    def address(self, codes: Tensor, mask: Tensor) -> Addressing:
        """Return the weights of codes (B, D) under a class mask (B, K), 0/1 or real.

        Shrinking comes before masking, as in section 3.3; for a 0/1 mask the order makes no difference
        (reading A4), and a real-valued mask keeps its gradient also where it is 0.
        """
        with full_precision(codes):
            raw = self.raw_attention(codes)
            shrunk = hard_shrink(raw, self.shrink_threshold, classes=self.classes, keep_one=self.keep_one)
            mask = item_mask(mask.to(raw.dtype), len(self.items))
            return Addressing(raw, masked(shrunk, mask), masked(shrunk, 1 - mask))

    def read(self, weights: Tensor) -> Tensor:
        """Return Eq. 11, (B, M) to (B, D)."""
        with full_precision(weights):
            return read(weights, self.items)

    def read_slot(self, codes: Tensor, slots: Labels) -> Tensor:
        """Return ``read(address(codes, one-hot slots).target)``, (B, D).

        On a CPU, images are multiplied with their own slot's S items only. Values agree with the dense path up to
        rounding.
        """
        with full_precision(codes):
            codes = codes.to(self.items.dtype)
            if codes.device.type != "cpu" or not len(codes):  # grouping would wait for an accelerator
                return self.read(self.address(codes, class_mask(slots, self.classes, codes.dtype)).target)
            return _read_blocks(
                codes,
                slots,
                self._blocks(),
                code_scale=inverse_norms(codes),
                item_scale=self.scale().reshape(self.classes, -1),  # (K, S)
                shrink=self._shrink_blocks if self.shrinks else None,
            )

    def read_every_slot(self, codes: Tensor) -> Tensor:
        """Return the read of each of the K slots, (B, D) to (B, K, D)."""
        with full_precision(codes):
            shrunk = hard_shrink(
                self.raw_attention(codes), self.shrink_threshold, classes=self.classes, keep_one=self.keep_one
            )
            slots = shrunk.reshape(len(codes), self.classes, -1).transpose(0, 1)  # (K, B, S)
            weights = slots / slots.sum(2, keepdim=True).clamp_min(SMALLEST_SUM)
            return (weights @ self._blocks()).transpose(0, 1)  # (B, K, D)

    def _blocks(self) -> Tensor:
        """Return the items slot by slot, a view (K, S, D)."""
        return self.items.view(self.classes, -1, self.items.shape[1])

    def _shrink_blocks(self, weights: Tensor) -> Tensor:
        """Return the chosen slots' weights (B, S), shrunk and renormalised."""
        shrunk = hard_shrink(weights, self.shrink_threshold, classes=1, keep_one=self.keep_one)
        return shrunk / shrunk.sum(1, keepdim=True).clamp_min(SMALLEST_SUM)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self._known_scale = None
        return super()._apply(fn, recurse)  # pyright: ignore[reportUnknownVariableType]

    def train(self, mode: bool = True) -> SlotMemory:
        """Switch the mode and forget the remembered scale."""
        self._known_scale = None
        return super().train(mode)

    def extra_repr(self) -> str:
        """Return the sizes for ``repr``."""
        items, code_size = self.items.shape
        return f"items={items}, code_size={code_size}, classes={self.classes}, shrink={self.shrink_threshold:g}"


def full_precision(tensor: Tensor) -> AbstractContextManager[Any]:
    """Return a context without autocast: bfloat16 hardly resolves weights around 1 / M."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _read_blocks(
    codes: Tensor,
    slots: Labels,
    blocks: Tensor,
    *,
    code_scale: Tensor,
    item_scale: Tensor,
    shrink: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """Return each image's read of its own slot, (B, D): Eqs. 8 to 11 with a one-hot mask, without zeros.

    An image needs the S items of its own slot and no others; only hard shrink also needs the softmax denominator
    over all M. Images are grouped by slot, so that a slot's items are read once for all of them and nothing of
    size B x S x D is ever made.

    Parameters
    ----------
    codes
        (B, D).
    slots
        (B,) the slot of each image.
    blocks
        (K, S, D) the memory items, slot by slot.
    code_scale, item_scale
        (B,) and (K, S): the inverse lengths of the codes and of the items.
    shrink
        Maps the slot's share (B, S) of the softmax over all items to final weights; None if nothing can be
        shrunk: then masking and renormalising that softmax is the softmax over the slot.
    """
    chosen = cast("list[int]", slots.tolist())
    members: list[list[int]] = [[] for _ in range(len(blocks))]
    for image, slot in enumerate(chosen):
        members[slot].append(image)
    used = [slot for slot, images in enumerate(members) if images]
    counts = [len(members[slot]) for slot in used]
    by_slot = [image for slot in used for image in members[slot]]
    rows = [0] * len(by_slot)
    for row, image in enumerate(by_slot):
        rows[image] = row
    order, back = torch.tensor([by_slot, rows]).unbind(0)  # (B,) images sorted by slot, and where each went
    views = blocks.unbind(0)
    items = [views[slot] for slot in used]

    if shrink is None:
        products = _by_group(codes.index_select(0, order), counts, [block.T for block in items])  # (B, S)
        scale = item_scale.index_select(0, slots.index_select(0, order))  # (B, S)
        weights = (products * code_scale.index_select(0, order)[:, None] * scale).softmax(1)
    else:
        logits = (codes @ blocks.flatten(0, 1).T) * code_scale[:, None] * item_scale.flatten()  # (B, M)
        shares = logits.softmax(1).reshape(-1, blocks.shape[1])  # (B K, S)
        weights = shrink(shares.index_select(0, order * len(blocks) + slots.index_select(0, order)))  # (B, S)
    return _by_group(weights, counts, items).index_select(0, back)  # (B, D)


def _by_group(rows: Tensor, counts: Sequence[int], matrices: Sequence[Tensor]) -> Tensor:
    """Return each group of rows multiplied with its own matrix."""
    groups = torch.split(rows, list(counts))
    return torch.cat([group @ matrix for group, matrix in zip(groups, matrices, strict=True)])


def _check_memory(items: int, classes: int, threshold: float, keep_one: bool) -> None:
    if classes < 2:
        raise ValueError(f"classes is {classes}, but a memory with slots needs at least 2")
    if items < classes or items % classes:
        below = max(items // classes, 1) * classes
        raise ValueError(
            f"the memory has {items} items for {classes} classes, but every class needs the same number; "
            f"use {below} or {below + classes}"
        )
    if not 0 <= threshold < 1:
        raise ValueError(
            f"shrink_threshold is {threshold}, but attention weights lie in [0, 1); 1/M is {1 / items:g}"
        )
    if not keep_one and threshold >= math.exp(2) / items:
        raise ValueError(
            f"shrink_threshold is {threshold}, above every weight a memory of {items} items can have "
            f"({math.exp(2) / items:.3g}): nothing is ever read; use keep_one or a threshold near {1 / items:g}"
        )
