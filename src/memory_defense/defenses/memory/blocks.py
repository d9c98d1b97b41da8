"""The masked read of the memory, computed for the chosen slots alone.

Eqs. 8 to 11 with a one-hot mask need, for each image, the S items of its own slot and no others; only hard
shrink also needs the softmax denominator over all M. Images are grouped by slot, so that a slot's items are
read once for all of them and nothing of size B x S x D is ever made.

Axes: B images, K slots, S items in a slot, D numbers in a code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from memory_defense.contracts import Labels


def read_blocks(
    directions: Tensor,
    slots: Labels,
    blocks: Tensor,
    scale: Tensor,
    shrink: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """Return each image's read of its own slot, (B, D).

    Parameters
    ----------
    directions
        (B, D) codes divided by their length.
    slots
        (B,) the slot of each image.
    blocks
        (K, S, D) the memory items, slot by slot.
    scale
        (K, S) the items' inverse lengths.
    shrink
        Maps the slot's share (B, S) of the softmax over all items to final weights; None where nothing can
        be shrunk: then masking and renormalising that softmax is the softmax over the slot.
    """
    chosen = slots.tolist()
    members: list[list[int]] = [[] for _ in range(len(blocks))]
    for image, slot in enumerate(chosen):
        members[slot].append(image)
    used = [slot for slot, images in enumerate(members) if images]
    counts = [len(members[slot]) for slot in used]
    order = torch.tensor([image for slot in used for image in members[slot]])
    views = blocks.unbind(0)
    items = [views[slot] for slot in used]

    if shrink is None:
        products = _by_group(directions[order], counts, [block.T for block in items])  # (B, S)
        weights = (products * scale[slots[order]]).softmax(1)
    else:
        logits = (directions @ blocks.flatten(0, 1).T) * scale.flatten()  # (B, M)
        shares = logits.softmax(1).unflatten(1, scale.shape)[order, slots[order]]  # (B, S)
        weights = shrink(shares)
    read = _by_group(weights, counts, items)  # (B, D)
    return torch.empty_like(read).index_copy(0, order, read)


def _by_group(rows: Tensor, counts: Sequence[int], matrices: Sequence[Tensor]) -> Tensor:
    """Return each group of rows multiplied with its own matrix."""
    groups = rows.split(list(counts))
    return torch.cat([group @ matrix for group, matrix in zip(groups, matrices, strict=True)])
