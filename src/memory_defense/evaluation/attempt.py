"""One case tried on a few images: attack, verify what comes back, let the true defense judge it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from memory_defense.checks import NoGradientError
from memory_defense.contracts import Binding, Classifier, Defense, Flagging, Images, Labels, Rows, transfers_of
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.metrics import judged, predict
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.replay import Replay
from memory_defense.evaluation.state import Attempt
from memory_defense.passes import micro_batch_for, micro_batches_of, regular
from memory_defense.randomness import ImageDraws, derive, seeded
from memory_defense.wrappers import CountingPasses, Passes

EXACT_KNOWLEDGE = "end-to-end"
"""The knowledge whose surrogate gives the defense's own logits, so that their verdicts must agree."""


@dataclass(frozen=True, kw_only=True)
class CaseRunner:
    """Attacks one defense with one case after another; see `run`."""

    defense: Defense
    options: Options
    """Its seed, repetitions and progress are what an attempt needs."""

    def run(
        self, case: Case, surrogate: Classifier | Binding, images: Images, labels: Labels, ids: Rows
    ) -> Attempt:
        """Attack these images, all classified correctly, and let the true defense judge what comes back.

        A gradient attack on a surrogate without gradients is no error here: the attempt says so and breaks
        nothing. Out of memory, the micro-batch is halved, which is said; see `passes` on what that may change.

        Raises
        ------
        ValueError
            For an attack that returns NaN, leaves its ball, or needs more memory than one image's.
        """
        started, passes = time.perf_counter(), Passes()
        bound = regular(surrogate.bind(images.clone()) if isinstance(surrogate, Binding) else surrogate)
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
        with seeded(derive(self.options.seed, f"{case.name} {case.knowledge}"), "judge"):
            fooled, lead = judged(self.defense, attacked, labels, self.options.repetitions)
        silent = fooled
        if isinstance(self.defense, Flagging) and self.defense.flag_threshold is not None:
            silent = fooled & ~self.defense.suspicious(attacked.clone())
        disagreements = 0
        if case.knowledge == EXACT_KNOWLEDGE:
            # In another order than the judge's, so that a defense whose answers depend on the batch is noticed.
            under_attack = predict(bound, attacked.flip(0)).flip(0) != labels
            disagreements = int((under_attack != fooled).sum())
        distance = case.ball.distance(attacked, images)
        return Attempt(attacked, fooled, silent, lead, distance, passes, seconds, disagreements)

    def _attack(self, case: Case, model: Classifier, images: Images, labels: Labels, ids: Rows) -> Images:
        transfers = case.knowledge in transfers_of(self.defense)
        attack = case.attack.for_transfer() if transfers else case.attack
        seed, purpose = self.options.seed, f"{case.name} {case.knowledge}"
        draws = ImageDraws.of(seed, purpose, ids, images.device)
        size = micro_batch_for(images.device)
        while True:
            try:
                with micro_batches_of(size), seeded(derive(seed, purpose), "the defense's own draws"):
                    if isinstance(attack, Replay):
                        return attack.closest(images, ids, case.ball)
                    return attack(model, images, labels, case.ball, draws)
            except torch.OutOfMemoryError as error:
                size //= 2
                if size == 0:
                    raise ValueError(
                        f"{case.name} runs out of memory even with one image in a pass; use a smaller network, "
                        "fewer images at a time (chunk), or a device with more memory"
                    ) from error
                if self.options.progress:
                    self.options.progress.note(f"{case.name}: out of memory, going on with {size} images in a pass")


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
            f"(largest distance {worst:.4g}); its result is refused: mend the attack's projection"
        )
