"""The worst case in one ball, as cheaply as it can be had: each case attacks only what is still standing.

    1. Scouts, the cheap cases, are tried on a pilot of the images. The one that breaks most for its passes goes
       first; another follows only if it broke an image of the pilot that those before it did not.
    2. Main cases attack everything that stands, in the order given.
    3. Outward cases begin with the survivors nearest to breaking: those for which a wrong class came closest to the
       right one under all attacks so far. They go on outward, block by block, until a tenth of the survivors, and
       at least a block, was tried without breaking one.
       One without gradients also tries a sample of all survivors first, and then everything if it breaks one that
       stands far off: where gradients are masked, how near a gradient came says nothing.

Pilot and sample are chosen by a hash of each image's id and blocks by leads over all processes, so the course of a
cascade depends neither on the order of the images nor on batches, nor on how many processes share them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from memory_defense.contracts import PerImage, Rows, needs_gradient
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.state import State
from memory_defense.randomness import ImageDraws
from memory_defense.ranks import Ranks

PILOT_IMAGES = 64
"""About how many images the scouts are compared on."""

SAMPLE_IMAGES = 48
"""About how many survivors an outward case without gradients looks at, wherever they stand; at least 1 in 20."""

BLOCK_IMAGES = 32
"""Survivors in a block of an outward case, at least; and at least 1 in `BLOCKS`."""

ACCELERATOR_BLOCK_IMAGES = 512
"""The same on an accelerator, where a pass of fewer takes as long."""

BLOCKS = 20

QUIET = 1 / 10
"""The share of survivors, one after the other, after which an outward case that broke none of them stops."""

NEAR = 1 / 4
"""The share of survivors that count as near; one of them that breaks in a sample is no sign of masked gradients."""

_BACKWARD_COST = 2
"""Forward passes that a backward pass costs."""

Attack = Callable[[int, Rows], None]
"""Try the case at this position on these rows; the state knows the outcome afterwards."""


def _unheard(position: int) -> None:
    del position


@dataclass(frozen=True)
class Cascade:
    """One ball's cascade over the images of one process.

    Parameters
    ----------
    state
        State of these images; cases that are done are not done again.
    cases
        All cases of the evaluation; `positions` are those of this cascade.
    positions
        Cases of one ball and the purpose ``cascade``, in order.
    attack
        Tries one case on some rows.
    ranks
        This process among others.
    seed
        Seed of the hash that chooses pilot and samples.
    ended
        Told of each case, in the order taken, once it will not be tried on any image any more.
    """

    state: State
    cases: Sequence[Case]
    positions: Sequence[int]
    attack: Attack
    ranks: Ranks
    seed: int
    ended: Callable[[int], None] = _unheard

    def run(self) -> tuple[int, ...]:
        """Attack until nothing stands or nothing is left to try; return the positions in the order taken."""
        scouts = [one for one in self.positions if self.cases[one].role == "scout"]
        useful = self._by_strength(scouts) if len(scouts) > 1 else scouts
        order = [*useful, *(one for one in self.positions if one not in useful)]
        left = 1
        for position in order:
            if left:
                (left,) = self.ranks.total(int(self._standing().sum()))
            if left == 0:
                one = self.state.cases[position]
                (tried,) = self.ranks.total(int(one.done.sum()))
                one.note = one.note or ("" if tried else "no image was left standing")
            elif self.cases[position].role == "outward":
                self._outward(position)
            elif position in useful or self.cases[position].role == "main":
                self._try(position, self._standing())
            self.ended(position)
        return tuple(order)

    def _standing(self) -> PerImage:
        return self.state.inside(self.cases[self.positions[0]].ball).robust

    def _try(self, position: int, wanted: PerImage) -> None:
        rows = (wanted & ~self.state.cases[position].done).nonzero().squeeze(1)
        if len(rows):
            self.attack(position, rows)

    def _chosen(self, purpose: str, share: float) -> PerImage:
        """Return (N,) bool: about this share of the images, always the same ones."""
        draws = ImageDraws.of(self.seed, purpose, self.state.ids, self.state.labels.device)
        return draws.uniform() < share

    def _by_strength(self, scouts: Sequence[int]) -> list[int]:
        """Try every scout on the pilot; return those worth going on with, the most broken for its passes first."""
        ball = self.cases[self.positions[0]].ball
        (correct,) = self.ranks.total(int(self.state.correct.sum()))
        pilot = self._chosen(f"pilot {ball.norm} {ball.epsilon!r}", PILOT_IMAGES / max(correct, 1))
        pilot &= self.state.correct
        worth: dict[int, float] = {}
        for position in scouts:
            one = self.state.cases[position]
            if one.pilot_cost == 0:
                self._try(position, pilot)
                one.pilot_cost = one.forward + _BACKWARD_COST * one.backward
            broken, cost = self.ranks.total(int((one.fooled & pilot).sum()), one.pilot_cost)
            worth[position] = broken / max(cost, 1)
        best, *others = sorted(scouts, key=lambda one: (-worth[one], one))
        useful, covered = [best], self.state.cases[best].fooled & pilot
        for position in others:
            one = self.state.cases[position]
            (fresh,) = self.ranks.total(int((one.fooled & pilot & ~covered).sum()))
            if fresh > 0:
                useful.append(position)
                covered |= one.fooled & pilot
            else:
                one.note = one.note or "broke nothing new on the pilot, not carried on"
        return useful

    def _outward(self, position: int) -> None:
        one, inside = self.state.cases[position], self.state.inside(self.cases[position].ball)
        if bool(one.before.isnan().any()):
            one.before = torch.where(inside.robust, inside.lead, -torch.inf)
        leads = torch.cat([part["leads"] for part in self.ranks.gather({"leads": one.before})])
        leads = leads[leads > -torch.inf].sort(descending=True).values
        if len(leads) == 0:
            self._try(
                position, self._standing()
            )  # nothing was tried here yet, so no survivor is nearer than another
            return
        least_block = BLOCK_IMAGES if leads.device.type == "cpu" else ACCELERATOR_BLOCK_IMAGES
        size = max(least_block, math.ceil(len(leads) / BLOCKS))
        blocks = [(float(part[-1]), len(part)) for part in torch.split(leads, size)]
        sampled = self._sampled(position, len(leads), float(leads[int(len(leads) * NEAR)]))
        above, quiet = math.inf, 0
        for least, images in blocks:
            block = (one.before >= least) & (one.before < above)
            self._try(position, block & inside.robust)
            broken = int((one.fooled & block).sum())
            (found,) = self.ranks.total(broken)
            quiet = 0 if found else quiet + images
            if quiet >= QUIET * len(leads) and not sampled:
                break
            above = least
        tried, left = self.ranks.total(int(one.done.sum()), int(inside.robust.sum()))
        if tried < left:
            one.note = one.note or "stopped where it broke none any more"

    def _sampled(self, position: int, standing: int, near: float) -> bool:
        """Try a case without gradients on a sample; return whether it broke one whose lead is below `near`."""
        case, one = self.cases[position], self.state.cases[position]
        if needs_gradient(case.attack):
            return False
        share = max(SAMPLE_IMAGES / standing, 1 / 20)
        sample = (one.before > -torch.inf) & self._chosen(f"sample {case.key}", share)
        self._try(position, sample & self._standing())
        (broken,) = self.ranks.total(int((one.fooled & sample & (one.before < near)).sum()))
        return broken > 0
