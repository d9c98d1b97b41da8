"""One case tried on a few images: attack, verify what comes back, let the true defense judge it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from memory_defense.checks import NoGradientError
from memory_defense.contracts import (
    Binding,
    Classifier,
    Defense,
    Flagging,
    Images,
    Labels,
    PerImage,
    Rows,
    transfers_of,
)
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.metrics import judged, predict
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.pixels import BLOCK_BYTES
from memory_defense.evaluation.replay import Replay
from memory_defense.evaluation.state import Attempt
from memory_defense.foreign import MemoryShortError, out_of_memory
from memory_defense.noticed import least, noticing, pass_halved
from memory_defense.passes import (
    fixed_pass,
    granule,
    granules_of,
    micro_batch_for,
    micro_batches_of,
    one_pass,
    regular,
    within_memory,
)
from memory_defense.randomness import ImageDraws, derive, seeded
from memory_defense.wrappers import CountingPasses, Passes

_LEVELS = 255
_EXACT = 1e-3
"""Distance from a whole grey level, in levels, that rounding of float32 explains."""

EXACT_KNOWLEDGE = "end-to-end"
"""The knowledge whose surrogate gives the defense's own logits, so that their verdicts must agree."""


@dataclass(frozen=True, kw_only=True)
class CaseRunner:
    """Attacks one defense with one case after another; see `run`."""

    defense: Defense
    options: Options
    """Its seed, repetitions and progress are what an attempt needs."""
    _said: set[str] = field(default_factory=set[str], repr=False)

    def run(
        self, case: Case, surrogate: Classifier | Binding, images: Images, labels: Labels, ids: Rows
    ) -> Attempt:
        """Attack these images, all classified correctly, and let the true defense judge what comes back.

        A gradient attack on a surrogate without gradients is no error here: the attempt says so and breaks
        nothing. Nor is an image without a finite gradient, which is 0 for it, or without a finite answer, which
        counts as broken: the attempt names them. Out of memory, the micro-batch is halved, which is said; see
        `passes` on what that may change.

        Raises
        ------
        ValueError
            For an attack that returns NaN, leaves its ball, or needs more memory than one image's, and
            `foreign.ModelError` for whatever the model's own code raises.
        """
        started, passes = time.perf_counter(), Passes()
        bound = regular(surrogate.bind(images.clone()) if isinstance(surrogate, Binding) else surrogate)
        with noticing() as attacking:
            try:
                attacked = self._attack(case, CountingPasses(bound, passes), images, labels, ids)
            except NoGradientError as error:
                nothing = torch.zeros(len(images), dtype=torch.bool, device=images.device)
                clean = images.clone()
                low = nothing.float() - torch.inf
                seconds = time.perf_counter() - started
                return Attempt(clean, nothing, nothing, low, nothing.float(), passes, seconds, 0, str(error))
        seconds = time.perf_counter() - started
        verify(case, attacked, images)
        with noticing() as judging:
            with seeded(derive(self.options.seed, f"{case.name} {case.knowledge}"), "judge"):
                fooled, lead = judged(self.defense, attacked, labels, self.options.repetitions)
            disagreements = 0
            if case.knowledge == EXACT_KNOWLEDGE:
                # In another order than the judge's, so that a defense whose answers depend on the batch is noticed.
                under_attack = predict(bound, attacked.flip(0)).flip(0) != labels
                disagreements = int((under_attack != fooled).sum())
            rounded = self._at_levels(case, attacked, images, labels, fooled, lead)
            silent = fooled
            if isinstance(self.defense, Flagging) and self.defense.flag_threshold is not None:
                silent = fooled & ~within_memory(self.defense.suspicious, attacked.clone())
        if judging.smallest is not None:
            self._say(f"judging: out of memory, going on with {judging.smallest} images in a pass")
        distance = case.ball.distance(attacked, images)
        return Attempt(
            attacked,
            fooled,
            silent,
            lead,
            distance,
            passes,
            seconds,
            disagreements,
            no_answer=named(judging.no_answer, ids),
            no_gradient=named(attacking.no_gradient, ids),
            followed=attacking.followed,
            smallest=least(attacking.smallest, judging.smallest),
            rounded=rounded,
        )

    def _at_levels(
        self, case: Case, attacked: Images, clean: Images, labels: Labels, fooled: PerImage, lead: PerImage
    ) -> int:
        """Hand in once more, at whole grey levels, what the defense got right; return how many it then gets wrong.

        A file holds nothing else. What is found takes the place of what the attack returned. Only in cascades, for
        images that are at whole levels themselves.
        """
        if case.purpose != "cascade" or not math.isfinite(case.ball.epsilon) or not on_grid(clean):
            return 0
        from memory_defense.evaluation.grid import rounded_inside  # images of files only

        rows = (~fooled).nonzero().squeeze(1)
        blocks: list[tuple[Rows, Images]] = []
        for some in torch.split(rows, max(1, BLOCK_BYTES // (clean[0].numel() * clean.element_size()))):
            block = rounded_inside(case.ball, attacked[some], clean[some])
            moved = (block != attacked[some]).flatten(1).any(1) & case.ball.contains(block, clean[some])
            blocks.append((some[moved], block[moved]))
        rows, found = (torch.cat(one) for one in zip(*blocks, strict=True))
        if len(rows) == 0:
            return 0
        with noticing():
            wrong, ahead = judged(self.defense, found, labels[rows], self.options.repetitions)
        attacked[rows[wrong]], fooled[rows[wrong]] = found[wrong], True
        lead[rows] = torch.maximum(lead[rows], ahead)
        return int(wrong.sum())

    def _attack(self, case: Case, model: Classifier, images: Images, labels: Labels, ids: Rows) -> Images:
        transfers = case.knowledge in transfers_of(self.defense)
        attack = case.attack.for_transfer() if transfers else case.attack
        seed, purpose = self.options.seed, f"{case.name} {case.knowledge}"
        draws = ImageDraws.of(seed, purpose, ids, images.device)

        def made() -> Images:
            with seeded(derive(seed, purpose), "the defense's own draws"):
                if isinstance(attack, Replay):
                    return attack.closest(images, ids, case.ball)
                return attack(model, images, labels, case.ball, draws)

        return with_room(made, case.name, images.device, self._say)

    def _say(self, text: str) -> None:
        if self.options.progress and text not in self._said:
            self._said.add(text)
            self.options.progress.note(text)


def with_room(
    work: Callable[[], Images], name: str, device: torch.device, say: Callable[[str], None] = lambda _: None
) -> Images:
    """Return what an attack makes, in micro-batches that are halved as often as memory is short.

    Parameters
    ----------
    work
        The attack, begun anew for each size.
    name
        Its name in what is said.
    device
        Of the images.
    say
        Told the size after each halving.

    Raises
    ------
    MemoryShortError
        If not even one image fits.
    """
    size, filled = micro_batch_for(device), granule()
    while True:
        try:
            with granules_of(filled), micro_batches_of(size):
                return work()
        except Exception as error:  # begun anew below, where nothing holds on to what filled the memory
            if not out_of_memory(error):
                raise
            if size == 1 or fixed_pass() is not None:
                raise MemoryShortError(
                    f"{name} runs out of memory even with {one_pass()} in a pass; use a smaller network, or a "
                    "device with more memory"
                ) from error
        size //= 2
        filled = min(filled, size)
        pass_halved(size)
        say(f"{name}: out of memory, going on with {size} images in a pass")


def named(rows: set[int], ids: Rows) -> tuple[int, ...]:
    """Return the ids of these rows, in order."""
    return tuple(sorted(int(ids[row]) for row in rows))


def verify(case: Case, attacked: Images, clean: Images) -> None:
    """Raise ValueError unless every image is finite, inside the ball and inside [0, 1]."""
    if attacked.shape != clean.shape:
        raise ValueError(f"{case.name} returned shape {tuple(attacked.shape)} for images {tuple(clean.shape)}")
    outside = ~case.ball.contains(attacked, clean)
    if len(clean) and outside.any():
        worst = float(case.ball.distance(attacked, clean)[outside].nan_to_num(torch.inf).max())
        raise ValueError(
            f"{case.name} returned {int(outside.sum())} of {len(clean)} images outside its "
            f"{case.ball.norm} ball of radius {case.ball.epsilon:.4g} or outside [0, 1] "
            f"(largest distance {worst:.4g}); its result is refused: fix the attack's projection"
        )


def on_grid(images: Images) -> bool:
    """Whether every pixel is at a whole grey level, as in images read from files of eight bits."""
    levels = images * _LEVELS
    return bool(((levels - levels.round()).abs() <= _EXACT).all())
