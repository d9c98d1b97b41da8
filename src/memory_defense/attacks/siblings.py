"""Several targets for one image in the same pass, where few images are left.

An attack with targets runs once towards each, and each run works on what the earlier ones did not fool. A pass of
fifty images costs nearly that of two hundred, so where all fit into one micro-batch, every image is copied and its
copies follow different targets together. A copy whose sibling with an earlier target succeeds could not have
started, and is dropped. The outcome is that of one target after the other.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from memory_defense.attacks.engine import Victim
from memory_defense.contracts import PerImage, Rows
from memory_defense.wrappers import rows_of


class Siblings:
    """Copies of some images, one for each of a few targets, as a set of its own that is attacked together.

    Parameters
    ----------
    victim
        What is attacked.
    rows
        (n,) the images that are still attacked, as rows of the victim's set.
    ranks
        The targets that run together, by rank; their copies follow each other rank by rank.
    """

    def __init__(self, victim: Victim, rows: Rows, ranks: range) -> None:
        self.rows, self.ranks = rows, ranks
        self.index = rows.repeat(len(ranks))
        """(n * ranks,) the row of every copy in the victim's set."""
        self.rank = torch.tensor(list(ranks), device=rows.device).repeat_interleave(len(rows))
        """(n * ranks,) the target of every copy."""
        self.victim = Victim(rows_of(victim.model, self.index), victim.labels[self.index], victim.micro_batch)
        self._first = rows.new_full((len(rows),), ranks.stop)
        self._forward, self._backward = torch.zeros_like(self.index), torch.zeros_like(self.index)

    def seen(self, copies: Rows, forward: int, backward: int) -> None:
        """Note the passes of these copies."""
        self._forward[copies] += forward
        self._backward[copies] += backward

    def settle(self, copies: Rows) -> None:
        """Note the copies which succeeded, so that nothing is left to do for their image with a later target."""
        if len(copies):
            at = copies % len(self.rows)
            self._first.scatter_reduce_(0, at, self.rank[copies], "amin")

    def needed(self, copies: Rows) -> PerImage:
        """Return which of these copies have no sibling that succeeded with an earlier target; bool."""
        return self.rank[copies] <= self._first[copies % len(self.rows)]

    def by_rank(self) -> Iterator[tuple[Rows, Rows]]:
        """Yield, target by target, the rows of the victim's set that it had to run on, and their copies."""
        count = len(self.rows)
        copies = torch.arange(len(self.index), device=self.index.device)
        for start in range(0, len(self.index), count):
            own = copies[start : start + count]
            own = own[self.needed(own)]
            yield self.index[own], own

    def discount(self) -> None:
        """Take back the count of the passes of copies that could not have started."""
        spare = ~self.needed(torch.arange(len(self.index), device=self.index.device))
        self.victim.discount(int(self._forward[spare].sum()), int(self._backward[spare].sum()))


def together(victim: Victim, images: int, rank: int, targets: int) -> range:
    """Return the ranks from `rank` on that run together: as many as fit into one micro-batch, at least one."""
    return range(rank, min(rank + max(victim.micro_batch // max(images, 1), 1), targets))
