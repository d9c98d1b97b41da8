"""The target classes of multi-targeted attacks, their losses, and runs towards several of them at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from memory_defense.attacks.engine import Victim
from memory_defense.contracts import Images, Labels, Logits, PerImage, Rows
from memory_defense.wrappers import rows_of


class Siblings:
    """Copies of some images, one for each of a few targets, as a set of its own that is attacked together.

    Copies with the first rank come first, then those with the next. An image needs only the copies up to the first
    target that succeeds, as if its targets ran one after the other; passes of later ones are not counted.

    Parameters
    ----------
    victim
        The model and the labels of the whole set.
    rows
        (n,) the images that are still attacked, as rows of the victim's set.
    ranks
        The targets that run together: 0 is the likeliest wrong class.
    """

    def __init__(self, victim: Victim, rows: Rows, ranks: range) -> None:
        self.rows, self.ranks = rows, ranks
        self.index = rows.repeat(len(ranks))
        """(n * ranks,) the row of every copy in the victim's set."""
        self.rank = torch.tensor(list(ranks), device=rows.device).repeat_interleave(len(rows))
        """(n * ranks,) the target of every copy."""
        self.victim = Victim(
            rows_of(victim.model, self.index), victim.labels[self.index], victim.micro_batch, victim.exact
        )
        self._first = rows.new_full((len(rows),), ranks.stop)
        self._forward, self._backward = torch.zeros_like(self.index), torch.zeros_like(self.index)

    def seen(self, copies: Rows, forward: int, backward: int) -> None:
        """Count passes of these copies."""
        self._forward[copies] += forward
        self._backward[copies] += backward

    def settle(self, copies: Rows) -> None:
        """Mark copies that succeeded, so that their images' later targets are no longer needed."""
        if len(copies):
            at = copies % len(self.rows)
            self._first.scatter_reduce_(0, at, self.rank[copies], "amin")

    def needed(self, copies: Rows) -> PerImage:
        """Return which of these copies have no sibling that succeeded with an earlier target; bool."""
        return self.rank[copies] <= self._first[copies % len(self.rows)]

    def by_rank(self) -> Iterator[tuple[Rows, Rows]]:
        """Yield for each target the rows of the victim's set that needed it, and their copies."""
        count = len(self.rows)
        copies = torch.arange(len(self.index), device=self.index.device)
        for start in range(0, len(self.index), count):
            own = copies[start : start + count]
            own = own[self.needed(own)]
            yield self.index[own], own

    def discount(self) -> None:
        """Subtract the passes of copies that were not needed from the count."""
        spare = ~self.needed(torch.arange(len(self.index), device=self.index.device))
        self.victim.discount(int(self._forward[spare].sum()), int(self._backward[spare].sum()))


def together(victim: Victim, images: int, rank: int, targets: int) -> range:
    """Return the ranks from `rank` on that run together: as many as fit into one micro-batch, at least one."""
    return range(rank, min(rank + max(victim.micro_batch // max(images, 1), 1), targets))


def likeliest_others(logits: Logits, labels: Labels, count: int) -> Labels:
    """Return (B, T) the `count` highest classes other than the label, or all of them if there are fewer."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.topk(min(count, logits.shape[1] - 1), dim=1).indices


def nearest_if_linear(victim: Victim, images: Images, rows: Rows, likely: Labels, norm: str) -> Labels:
    """Return these classes (N, T), those first that a linear model would reach with the least change.

    Such a model needs a change of length ``(z_y - z_t) / ||grad(z_t - z_y)||``, in the norm that is dual to the
    ball's: the order of MALT (Melamed et al. 2024, arXiv 2407.02240). It costs a forward and a backward pass for
    each class.

    Parameters
    ----------
    victim
        The model and the labels of the whole set.
    images
        (N, C, H, W) clean.
    rows
        (n,) the images whose classes are ordered; the others keep their order.
    likely
        (N, T) classes other than the label.
    norm
        ``linf`` or ``l2``, of the ball.
    """
    ordered = likely.clone()
    for part in victim.parts(rows):
        points, lengths = images.index_select(0, part), list[PerImage]()
        for targets in likely.index_select(0, part).unbind(1):
            seen = victim.gradient(points, part, lambda logits, own, at=targets: lead_of(logits, own, at))
            flat = seen.gradient.flatten(1)
            slope = flat.abs().sum(1) if norm == "linf" else flat.square().sum(1).sqrt()
            lengths.append(-seen.losses / slope)  # infinite where there is no slope
        order = torch.stack(lengths, 1).sort(dim=1, stable=True).indices
        ordered[part] = likely.index_select(0, part).gather(1, order)
    return ordered


def lead_of(logits: Logits, labels: Labels, targets: Labels) -> PerImage:
    """Return (B,) ``z_t - z_y``, the lead of each image's target class t, (B,) like the labels, over its label."""
    pair = logits.gather(1, torch.stack([targets, labels], 1))  # (B, 2)
    return pair[:, 0] - pair[:, 1]


def targeted_difference_of_logits_ratio(logits: Logits, labels: Labels, targets: Labels) -> PerImage:
    """Return (B,) the targeted DLR loss, ``(z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2)`` (Croce & Hein, Eq. 7).

    z_(i) is the i-th largest logit. It grows as the target class t, (B,) like the labels, overtakes the label y.

    Raises
    ------
    ValueError
        For fewer than 4 classes.
    """
    if logits.shape[1] < 4:
        raise ValueError(
            f"the targeted DLR loss needs at least 4 classes, the model has {logits.shape[1]}; use lead_of"
        )
    ordered = logits.topk(4, dim=1).values
    scale = ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + 1e-12
    return lead_of(logits, labels, targets) / scale
