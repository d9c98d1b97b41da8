"""What the audit's checks read, and how a check says what it found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from memory_defense.contracts import (
    Attack,
    Ball,
    Binding,
    Certificates,
    Certifying,
    Classifier,
    Defense,
    Images,
    Labels,
    Logits,
    PerImage,
    Rows,
    needs_gradient,
    parts_of_attack,
    transfers_of,
)
from memory_defense.evaluation.attempt import EXACT_KNOWLEDGE
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.metrics import NO_ANSWER
from memory_defense.evaluation.record import AttackResult, AuditLine, Verdict
from memory_defense.evaluation.replay import EARLIER, Replay
from memory_defense.evaluation.robustness import Evaluation, published
from memory_defense.evaluation.state import CaseState
from memory_defense.passes import granule, regular
from memory_defense.randomness import ImageDraws

HALF_POINT = 0.005
"""Differences below this are not called differences."""

TWO_TENTHS = 0.002
"""A share of all images above which one kind of attack beats another (AutoAttack's threshold, 0.2 points)."""

PROBED = 128
"""The most images that a probe of the defense looks at; one batch of the judge."""

NOT_RUN = "not run: "
"""What stands before the reason for which a check did not run, at the end of its meaning."""

NOTHING = "the evaluation holds nothing for it to look at"
"""The reason where a check has none of its own."""

BRIEF, BACKWARD = 20.0, 2
"""Seconds that a check may always take, and forward passes that a backward pass counts as."""

ASKED_AGAIN = 5
"""Forward passes that are compared to find out whether the defense draws at random."""


LEARNED = 0.01
"""Share of moved images answered otherwise than before the first question, above which it is attacked untouched."""

ROUNDED = 0.02
"""Share of images that only their whole levels break, above which the model is attacked at these."""

TOLD = 0.1
"""Share of images answered otherwise between two levels above which the model tells them apart."""


@dataclass(frozen=True, kw_only=True)
class Doubts:
    """What was found out about a model beside its verdicts."""

    kept: int | None = None
    """Things outside its parameters that its answers changed; None where nobody looked."""
    learned: float = 0.0
    """Share of moved images that it answers otherwise than before its first question."""
    levels: float | None = None
    """Share of images that it answers otherwise between two grey levels; None where images are so themselves."""
    outside: tuple[str, ...] = ()
    """Files written, connections and programs while it was asked about the clean images."""
    labels_only: bool = False
    """Whether its answers tell little more than a label, or its gradient is not theirs."""
    misled: float | None = None
    """Share of images at which the answers do not change as their gradient says; None where nobody looked."""
    abrupt: float | None = None
    """Share of ways between images on which the answer switches abruptly; None where nobody looked."""
    first: tuple[Images, Logits] | None = field(default=None, repr=False, compare=False)
    """Images that were asked about first of all, some of them moved, and what the model answered."""
    rounded: float = 0.0
    """Share of images that were broken at whole grey levels, and not as the attack had them."""


@dataclass(frozen=True)
class Findings:
    """What the checks read.

    Parameters
    ----------
    defense
        In eval mode, no parameter asking for a gradient.
    evaluation
        What was done to it.
    classes
        K, in the data.
    seed
        Seed of the checks' own draws.
    binarisation
        Whether to run the binarisation test; None leaves it to the size of the set.
    """

    defense: Defense
    evaluation: Evaluation
    classes: int
    seed: int
    binarisation: bool | None = field(default=None, kw_only=True)
    doubts: Doubts = field(default_factory=Doubts, kw_only=True)
    """What was found out before the first attack and after the last one."""
    known_proofs: Certificates | None = field(default=None, kw_only=True)
    """What the defense proves of the clean images (`evaluation.proofs.proven`), if it was asked before."""

    @cached_property
    def proofs(self) -> Certificates:
        """What a defense that proves its answers proves of the clean images."""
        if self.known_proofs is not None:
            return self.known_proofs
        assert isinstance(self.defense, Certifying)
        from memory_defense.evaluation.proofs import proven  # few models need it

        return proven(self.defense, self.evaluation)

    @property
    def results(self) -> list[AttackResult]:
        """Every attack's result, of the table and curve cases."""
        return [outcome.result for outcome in self.evaluation.outcomes]

    @property
    def tried(self) -> list[tuple[Case, CaseState]]:
        """Every case that was tried on some image, with what it did there."""
        both = zip(self.evaluation.cases, self.evaluation.state.cases, strict=True)
        return [(case, one) for case, one in both if bool(one.done.any())]

    def too_long(self, forward: int, backward: int = 0) -> str:
        """Return why a check that asks about so many images takes too long; empty where it does not.

        It may take `BRIEF` seconds or a quarter of what the attacks took, by what a pass of theirs took.
        """
        seconds = sum(one.seconds for _, one in self.tried)
        passes = sum(one.forward + BACKWARD * one.backward for _, one in self.tried)
        expected = (forward + BACKWARD * backward) * seconds / passes if passes else 0.0
        if expected <= max(BRIEF, seconds / 4):
            return ""
        return f"it would take about {expected:.0f} s, more than a quarter of the attacks; evaluate more images"

    def transfers(self, case: Case) -> bool:
        """Whether the case's images were made for something else than this defense."""
        elsewhere = transfers_of(self.defense)
        return case.knowledge == EARLIER or case.knowledge in elsewhere or isinstance(case.attack, Replay)

    @cached_property
    def published(self) -> dict[str, Classifier | Binding]:
        """Everything that a case's knowledge may name."""
        return published(self.defense)

    @property
    def white_box(self) -> list[str]:
        """Every knowledge that the defense publishes whose surrogate decides as the defense does."""
        elsewhere = {EARLIER, *transfers_of(self.defense)}
        return [name for name in self.published if name not in elsewhere]

    @property
    def exact(self) -> str:
        """The knowledge that stands for the defense itself; empty where none decides as it does."""
        known = self.white_box
        return EXACT_KNOWLEDGE if EXACT_KNOWLEDGE in known else known[0] if known else ""

    def surrogate(self, knowledge: str, clean: Images) -> Classifier:
        """Return what this knowledge differentiates for these images; the defense itself for an empty name."""
        found = self.published.get(knowledge, self.defense)
        return regular(found.bind(clean.clone()) if isinstance(found, Binding) else found)

    @property
    def probe(self) -> tuple[Images, Labels]:
        """The first images, at most `PROBED`, and their labels; whole granules if possible, so none is padded.

        Images for which the defense has no finite answer are not among them; the record names them.
        """
        rows = self._probed
        return self.evaluation.images[rows], self.evaluation.labels[rows]

    @property
    def probe_ids(self) -> Rows:
        """Positions of the probe's images in the dataset."""
        return self.evaluation.state.ids[self._probed]

    @property
    def _probed(self) -> Rows:
        rows = (self.evaluation.state.predictions != NO_ANSWER).nonzero().squeeze(1)[:PROBED]
        return rows[: len(rows) - (len(rows) % granule() if len(rows) > granule() else 0)]

    def draws(self, purpose: str, count: int) -> ImageDraws:
        """Return the checks' own draws for the first `count` images."""
        return ImageDraws.of(self.seed, f"audit {purpose}", count, self.evaluation.images.device)

    @property
    def balls(self) -> list[Ball]:
        """The largest bounded ball of each norm whose worst case is reported."""
        largest = {one.ball.norm: one.ball for one in self.evaluation.broken if math.isfinite(one.ball.epsilon)}
        return list(largest.values())

    @cached_property
    def spread(self) -> tuple[float, PerImage]:
        """Difference between passes over the same images: logits, relative to their size, and (n,) bool answers.

        The largest difference between the first of `ASKED_AGAIN` passes and the others.
        """
        images, _ = self.probe
        passes = [self.logits(images) for _ in range(ASKED_AGAIN)]
        furthest = max((relative(passes[0], other).max().item() for other in passes[1:]), default=0.0)
        answers = torch.stack([one.argmax(1) for one in passes])
        return furthest, (answers != answers[0]).any(0)

    @property
    def randomised(self) -> bool:
        """Whether the defense draws at random: passes differ by more than rounding."""
        furthest, changed = self.spread
        return furthest > 1e-4 or bool(changed.any())

    @torch.no_grad()
    def logits(self, images: Images) -> Tensor:
        """Return the defense's logits (B, K) for one batch."""
        return regular(self.defense)(images)


def relative(logits: Tensor, others: Tensor) -> PerImage:
    """Return (B,) the Euclidean distance between two answers, in lengths of the first; 1 where not finite."""
    length = logits.square().sum(1).sqrt()
    distance = (logits - others).square().sum(1).sqrt() / length.clamp(min=1e-30)
    return torch.where(distance.isfinite(), distance, 1.0)


def pieces(case: Case) -> Iterator[Attack]:
    """Yield the attacks that a case consists of: those of an attack made of parts, else itself."""
    yield from parts_of_attack(case.attack, case.ball.norm).values()


def gradient_free(case: Case) -> bool:
    """Whether the case's attack never asks for a gradient."""
    return not any(map(needs_gradient, pieces(case)))


def line(
    check: str, failed: bool | None, value: float | None, meaning: str, remedy: str, why: str = ""
) -> AuditLine:
    """Return an audit line; `failed` None means that the check did not run, and `why` says for what reason."""
    verdict: Verdict = "not run" if failed is None else "fail" if failed else "pass"
    if failed is None and NOT_RUN not in meaning:
        meaning = f"{meaning}; {NOT_RUN}{why or NOTHING}"
    return AuditLine(check=check, verdict=verdict, value=value, meaning=meaning, remedy=remedy)


def above(check: str, value: float | None, limit: float, meaning: str, remedy: str, why: str = "") -> AuditLine:
    """Return the line of a check that fails if `value` is above `limit`; None means that it did not run."""
    return line(check, None if value is None else value > limit, value, meaning, remedy, why)


Check = Callable[[Findings], AuditLine]
"""One check; it leaves the defense as it found it."""
