"""The masked read of the memory, computed for the chosen slots alone.

Eqs. 8 to 11 with a one-hot mask need, for each image, the S items of its own slot and no others; only hard
shrink also needs the softmax denominator over all M. Images are grouped by slot, so that a slot's items are
read once for all of them and nothing of size B x S x D is ever made.

Axes: B images, K slots, S items in a slot, D numbers in a code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from memory_defense.contracts import Labels


def read_blocks(
    codes: Tensor,
    slots: Labels,
    blocks: Tensor,
    *,
    code_scale: Tensor,
    item_scale: Tensor,
    shrink: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """Return each image's read of its own slot, (B, D).

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
        Maps the slot's share (B, S) of the softmax over all items to final weights; None where nothing can
        be shrunk: then masking and renormalising that softmax is the softmax over the slot.
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
