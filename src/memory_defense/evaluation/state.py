"""What an evaluation knows about every image so far: enough to go on exactly, and to merge several processes.

Everything is a tensor with one entry for each image, or a number, but the pixels: clean ones lie where the caller
has them, broken ones as changes in a log (`evaluation.log`), which a stopped evaluation goes on from
(`evaluation.store`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from memory_defense.contracts import Ball, Images, Labels, PerImage, Rows
from memory_defense.evaluation.broken_images import BrokenImages
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.log import Log
from memory_defense.evaluation.pixels import Pictures, Pixels
from memory_defense.noticed import least
from memory_defense.wrappers import Passes

VERDICTS = ("robust", "breaker", "distance", "lead")
"""What is known of every image in a ball, by the names of the fields of `Broken`."""


class ByRow(Protocol):
    """Images that are read by their rows."""

    def __getitem__(self, rows: Rows | slice) -> Images:
        """Return the images (n, C, H, W) at these positions."""
        ...


@dataclass(frozen=True)
class Attempt:
    """What one case did to some images; every field but the counts has them as its first axis."""

    images: Images
    fooled: PerImage
    """(B,) bool: the defense errs."""
    silent: PerImage
    """(B,) bool: it errs and does not flag the image; the same as `fooled` for a defense without a flag."""
    lead: PerImage
    """(B,) of the best wrong class over the right one, in the defense's logits."""
    distance: PerImage
    passes: Passes
    seconds: float
    disagreements: int
    """Images whose verdict under the attack was another than the judge's; always 0 but for exact knowledge."""
    failure: str = ""
    """Why the attack could not run; nothing is fooled then."""
    no_answer: tuple[int, ...] = ()
    """Ids of the images for whose attacked form the defense has no finite answer; they count as fooled."""
    no_gradient: tuple[int, ...] = ()
    """Ids of the images whose gradient was not finite at least once, and counted as 0 there."""
    followed: bool = False
    """Whether some image had a finite gradient."""
    smallest: int | None = None
    """Images in the smallest pass that a shortage of memory led to; None if there was room."""
    rounded: int = 0
    """Images that the defense got right as the attack returned them, and wrong at whole grey levels."""


@dataclass
class CaseState:
    """Outcome of one case so far, for every image."""

    done: PerImage
    """(N,) bool: the case was tried on this image, whether or not it could run."""
    fooled: PerImage
    silent: PerImage
    """(N,) bool: fooled, and not flagged."""
    distance: PerImage
    """(N,) of the returned image to the clean one, in the ball's norm; 0 where nothing was tried."""
    before: PerImage
    """(N,) what the leads were when a cascade first came to this case; NaN before that, -inf where not standing."""
    ran: int = 0
    """Number of images on which the attack could run."""
    forward: int = 0
    backward: int = 0
    disagreements: int = 0
    seconds: float = 0.0
    rounded: int = 0
    """As in `Attempt`, of all attempts so far."""
    pilot_cost: int = 0
    """Forward passes' worth of the pilot; 0 before it is done."""
    note: str = ""
    """Why the case could not run or was not carried on."""
    no_answer: tuple[int, ...] = ()
    no_gradient: tuple[int, ...] = ()
    followed: bool = False
    smallest: int | None = None
    """These four as in `Attempt`, of all attempts so far."""

    @classmethod
    def fresh(cls, images: int, device: torch.device) -> CaseState:
        """Return the state of a case that was not tried yet."""
        no = torch.zeros(images, dtype=torch.bool, device=device)
        return cls(no, no.clone(), no.clone(), no.float(), no.float() + torch.nan)

    def add(self, rows: Rows, attempt: Attempt) -> None:
        """Take in what was tried on these rows."""
        self.done[rows] = True
        self.fooled[rows] = attempt.fooled
        self.silent[rows] = attempt.silent
        self.distance[rows] = attempt.distance
        self.ran += 0 if attempt.failure else len(rows)
        self.forward += attempt.passes.forward
        self.backward += attempt.passes.backward
        self.disagreements += attempt.disagreements
        self.rounded += attempt.rounded
        self.seconds += attempt.seconds
        self.note = self.note or attempt.failure
        self.notice(attempt)

    def notice(self, other: Attempt | CaseState) -> None:
        """Take over which images had no answer or no gradient, and how small passes had to be."""
        self.no_answer = tuple(sorted({*self.no_answer, *other.no_answer}))
        self.no_gradient = tuple(sorted({*self.no_gradient, *other.no_gradient}))
        self.followed |= other.followed
        self.smallest = least(self.smallest, other.smallest)


@dataclass
class Broken:
    """The images that some case broke inside one ball, as first found."""

    ball: Ball
    robust: PerImage
    """(N,) bool: classified correctly, and no case broke it."""
    images: ByRow
    """By rows (n,): the breaking image, or the clean one where there is none (NaN where a file does not have it).
    By rows (n,): the breaking image, or the clean one where there is none (NaN where a file does not have it)."""
    place: Rows
    """(N,) on the CPU: where the breaking image is in the log or file, -1 where there is none."""
    breaker: Labels
    """(N,) position of the first case that broke it, -1 where none did."""
    distance: PerImage
    """(N,) of the breaking image to the clean one, 0 where there is none."""
    lead: PerImage
    """(N,) the largest lead of a wrong class that any image inside the ball had so far, the clean one included."""

    @classmethod
    def fresh(cls, ball: Ball, images: ByRow, place: Rows, device: torch.device) -> Broken:
        """Return what is known before anything was judged: no image is classified correctly, none is broken."""
        nobody = torch.full((len(place),), -1, device=device)
        zero = torch.zeros(len(place), device=device)
        return cls(ball, nobody >= 0, images, place, nobody, zero, zero - torch.inf)

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Return everything but images for a file or another process."""
        return {f"{prefix} {name}": getattr(self, name) for name in VERDICTS}

    def take_over(self, tensors: Mapping[str, Tensor], prefix: str, rows: Rows) -> None:
        """Write what `tensors` returned for these rows; raise KeyError where something is missing."""
        rows = rows.to(self.breaker.device)
        for name in VERDICTS:
            getattr(self, name)[rows] = tensors[f"{prefix} {name}"].to(self.breaker.device)

    def inside(self, ball: Ball, attempt: Attempt) -> PerImage:
        """Return (B,) bool: what was found in `ball` counts here, as does all of a smaller one of the norm."""
        if ball.norm != self.ball.norm:
            return torch.zeros_like(attempt.fooled)
        return (attempt.distance <= self.ball.epsilon) | (ball.epsilon <= self.ball.epsilon)

    def newly(self, ball: Ball, rows: Rows, attempt: Attempt) -> PerImage:
        """Return (B,) bool: an attack in `ball` broke the image in this one, and no other did before."""
        return self.inside(ball, attempt) & attempt.fooled & self.robust[rows]

    def add(self, ball: Ball, position: int, rows: Rows, attempt: Attempt, places: Rows) -> None:
        """Take in what a case broke in its `ball`, if it counts in this one.

        Its images are at these places (B,) of the log.
        """
        if ball.norm != self.ball.norm:
            return
        inside, fresh = self.inside(ball, attempt), self.newly(ball, rows, attempt)
        self.robust[rows[fresh]] = False
        self.place[rows[fresh].cpu()] = places[fresh.cpu()]
        self.breaker[rows[fresh]] = position
        self.distance[rows[fresh]] = attempt.distance[fresh]
        self.lead[rows[inside]] = torch.maximum(self.lead[rows], attempt.lead)[inside]


@dataclass
class State:
    """Everything an evaluation knows about one set of images."""

    images: Pixels
    labels: Labels
    ids: Rows
    """(N,) positions in the dataset; they name the images' random draws."""
    predictions: Labels
    """(N,) the defense's answers to the clean images."""
    correct: PerImage
    """(N,) bool: judged classified correctly when clean."""
    answers: Tensor
    """(N, 2) the defense's logits for the clean images, in short (`answers`)."""
    cases: list[CaseState]
    balls: tuple[Ball, ...]
    """Of each case."""
    broken: list[Broken]
    logs: list[Log]
    """Where broken images are: row i's in the one at i modulo their number, as ranks share the images."""

    @classmethod
    def blank(cls, images: Pictures, labels: Labels, ids: Rows, cases: Sequence[Case]) -> State:
        """Return the state of a set of images before anything was asked."""
        nothing = torch.zeros_like(labels, dtype=torch.bool)
        balls = {(case.ball.norm, case.ball.epsilon): case.ball for case in cases if case.purpose != "curve"}
        pixels, device, logs = Pixels.of(images), labels.device, [Log()]

        def fresh(one: Ball) -> Broken:
            place = torch.full((len(labels),), -1)
            return Broken.fresh(one, BrokenImages(pixels, place, logs), place, device)

        return cls(
            pixels,
            labels,
            ids.to(labels.device),
            labels.clone(),
            nothing,
            torch.zeros(len(labels), 2, device=labels.device),
            [CaseState.fresh(len(labels), device) for _ in cases],
            tuple(case.ball for case in cases),
            [fresh(balls[key]) for key in sorted(balls)],
            logs,
        )

    def start(self, correct: PerImage, lead: PerImage) -> None:
        """Take in the clean verdicts (N,) bool, and the leads (N,) of the best wrong class."""
        self.correct = correct
        for broken in self.broken:
            broken.robust, broken.lead = correct.clone(), lead.clone()

    def newly_broken(self, position: int, rows: Rows, attempt: Attempt) -> PerImage:
        """Return (B,) bool: the case at this position broke the image in some ball in which it stood."""
        found = torch.zeros_like(attempt.fooled)
        for broken in self.broken:
            found = found | broken.newly(self.balls[position], rows, attempt)
        return found

    def add(self, position: int, rows: Rows, attempt: Attempt, places: Rows) -> None:
        """Take in what the case at this position did to these rows.

        Parameters
        ----------
        position, rows, attempt
            As it was tried.
        places
            (B,) on the CPU: where the images that `newly_broken` marks are in the log; others are not looked at.
        """
        self.cases[position].add(rows, attempt)
        for broken in self.broken:
            broken.add(self.balls[position], position, rows, attempt, places)

    def inside(self, ball: Ball) -> Broken:
        """Return what is known inside this ball."""
        return next(one for one in self.broken if (one.ball.norm, one.ball.epsilon) == (ball.norm, ball.epsilon))
