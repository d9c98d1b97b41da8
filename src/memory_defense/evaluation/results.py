"""States to results: the entries of a record, and the file of every image beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from memory_defense.answers import ANSWERS
from memory_defense.contracts import Attack, Images, Labels, PerImage, Rows
from memory_defense.evaluation.broken_images import FiledImages
from memory_defense.evaluation.cases import Case, parameters_of
from memory_defense.evaluation.metrics import Submissions, accuracy
from memory_defense.evaluation.odd import noted
from memory_defense.evaluation.pixels import Pixels
from memory_defense.evaluation.record import (
    Accuracy,
    AttackResult,
    AuditLine,
    BatchInvariance,
    CascadeRecord,
    CascadeStage,
    WorstCase,
)
from memory_defense.evaluation.state import Broken, CaseState, State
from memory_defense.passes import GRANULE
from memory_defense.tensorfiles import checksum_of, read_tensors, write_streamed
from memory_defense.threat import ball


@dataclass(frozen=True)
class Outcome:
    """What one case did to every image."""

    case: Case
    robust: PerImage
    """(B,) bool: still classified correctly (images misclassified when clean are not robust)."""
    result: AttackResult


def outcome(state: State, case: Case, one: CaseState, attack: Attack) -> Outcome:
    """Return what a table or curve case did, `attack` being the object that ran."""
    robust = state.correct & ~one.fooled
    result = AttackResult(
        attack=case.name,
        knowledge=case.knowledge,
        norm=case.ball.norm,
        epsilon=case.ball.epsilon,
        median_distance=float(one.distance[one.fooled].median()) if one.fooled.any() else None,
        forward_passes=one.forward,
        backward_passes=one.backward,
        seconds=round(one.seconds, 3),
        parameters=parameters_of(attack) | ({} if case.purpose == "table" else {"purpose": case.purpose}),
        disagreements=one.disagreements,
        note=_note(case, one),
        tried=one.ran,
        **accuracy(robust).model_dump(),
    )
    return Outcome(case, robust, result)


def cascade_record(state: State, cases: Sequence[Case], order: Sequence[int]) -> CascadeRecord:
    """Return the course of a cascade: what each case tried, broke and cost, in the order taken."""
    inside = state.inside(cases[order[0]].ball)
    stages = [
        CascadeStage(
            attack=cases[position].name,
            knowledge=cases[position].knowledge,
            role=cases[position].role,
            tried=one.ran,
            fooled=int(one.fooled.sum()),
            first=int((inside.breaker == position).sum()),
            disagreements=one.disagreements,
            forward_passes=one.forward,
            backward_passes=one.backward,
            seconds=round(one.seconds, 3),
            parameters=parameters_of(cases[position].attack),
            note=_note(cases[position], one),
        )
        for position in order
        for one in [state.cases[position]]
    ]
    return CascadeRecord(norm=inside.ball.norm, epsilon=inside.ball.epsilon, stages=tuple(stages))


def _note(case: Case, one: CaseState) -> str:
    return "; ".join(filter(None, (case.note, noted(one))))


def worst_case(state: State, cases: Sequence[Case], broken: Broken, *, flags: bool) -> WorstCase:
    """Return the worst case in one ball; with `flags` also the share that is right or flagged throughout.

    Where no attack ran on a correctly classified image, there is none.
    """
    tried = tried_in(state, cases, broken)
    undetected = None
    if flags and tried:
        evaded = torch.zeros_like(state.correct)
        for case, one in zip(cases, state.cases, strict=True):
            inside = (one.distance <= broken.ball.epsilon) | (case.ball.epsilon <= broken.ball.epsilon)
            if case.ball.norm == broken.ball.norm:
                evaded |= one.silent & inside
        undetected = accuracy(state.correct & ~evaded)
    found = accuracy(broken.robust)
    return WorstCase(
        accuracy=found.accuracy if tried else None,
        ci95=found.ci95 if tried else None,
        norm=broken.ball.norm,
        epsilon=broken.ball.epsilon,
        undetected=undetected,
        tried=tried,
    )


def untried(found: Sequence[WorstCase]) -> list[str]:
    """Return one line for each ball in which no attack ran on a correctly classified image."""
    return [
        f"{one.norm} {one.epsilon:.4g}: no attack ran on a correctly classified image, so no worst case is known"
        for one in found
        if one.measured is None
    ]


def tried_in(state: State, cases: Sequence[Case], broken: Broken) -> int:
    """Return how many correctly classified images an attack in this ball ran on, or one in a smaller ball broke."""
    tried = broken.breaker >= 0
    for case, one in zip(cases, state.cases, strict=True):
        if one.ran and (case.ball.norm, case.ball.epsilon) == (broken.ball.norm, broken.ball.epsilon):
            tried = tried | one.done
    return int((state.correct & tried).sum())


@dataclass(frozen=True)
class Evaluation:
    """All outcomes on one set of images."""

    state: State
    cases: tuple[Case, ...]
    outcomes: tuple[Outcome, ...]
    """Outcomes of the table and curve cases, in order."""
    cascades: tuple[CascadeRecord, ...]
    submissions: Submissions
    flags: bool
    """Whether the defense flags images."""
    batch_invariance: BatchInvariance
    bfloat16: bool = False
    """Whether the attacks computed their gradients in bfloat16."""
    asked: dict[str, AuditLine] = field(default_factory=dict[str, AuditLine], repr=False, compare=False)
    """Checks of the audit that were asked before it began, by their names there."""

    @property
    def images(self) -> Pixels:
        """(N, C, H, W) clean, by reference."""
        return self.state.images

    @property
    def labels(self) -> Labels:
        """(N,) true classes."""
        return self.state.labels

    @property
    def correct(self) -> PerImage:
        """(N,) bool: the clean verdicts."""
        return self.state.correct

    @property
    def broken(self) -> list[Broken]:
        """What was broken in each ball, L-inf before L2, small before large."""
        return self.state.broken

    @property
    def granule(self) -> int:
        """What the images in every pass were a multiple of."""
        return self.batch_invariance.granule or GRANULE

    @property
    def clean(self) -> Accuracy:
        """Clean accuracy."""
        return accuracy(self.correct)

    def worst_cases(self) -> tuple[WorstCase, ...]:
        """Return the worst case of every ball."""
        return tuple(worst_case(self.state, self.cases, one, flags=self.flags) for one in self.broken)


def _never(found: Evaluation) -> str:
    del found
    return ""


class Reserve(NamedTuple):
    """Cases of cascades that wait for what the others find."""

    cases: tuple[Case, ...] = ()
    wanted: Callable[[Evaluation], str] = _never
    """From what the others found to why these follow, in one line for the record; empty where they do not.

    It is asked again where a stopped evaluation goes on, and must say the same. Where nothing stands it is not.
    """


@dataclass(frozen=True)
class PerImageResults:
    """What an earlier evaluation found for each image, read from the file beside its record."""

    ids: Rows
    """(N,) positions in the dataset."""
    labels: Labels
    predictions: Labels
    """(N,) the defense's answers to the clean images."""
    broken: tuple[Broken, ...]
    """One for each ball; its `images` are NaN where nothing broke one."""
    breakers: tuple[str, ...]
    """What the numbers in `Broken.breaker` stand for: attack, knowledge, and their ball."""
    answers: Tensor | None = None
    """(N, 2) the defense's logits for the clean images, in short (`answers`); files of earlier versions
    have none."""
    checksum: str = ""
    """The file's; files of earlier versions have none."""


def write_per_image(path: Path, state: State, cases: Sequence[Case]) -> str:
    """Write every image's verdict, first breaker, distance and adversarial image; return the file's checksum.

    `read_per_image` reads it. An image that counts in several balls is there once. Images are written one after the
    other, with the grey levels of the clean one (`coded`), so that they can be read without the dataset.
    """
    from memory_defense.evaluation import filed  # an evaluation that writes nothing needs none

    tensors = {"ids": state.ids, "labels": state.labels, "predictions": state.predictions, ANSWERS: state.answers}
    kept, numbers = filed.numbered(state)
    for number, (broken, its) in enumerate(zip(state.broken, numbers, strict=True)):
        tensors |= broken.tensors(f"ball {number}") | {f"ball {number} {filed.NUMBERS}": its}
    header = {
        "balls": json.dumps([[one.ball.norm, one.ball.epsilon] for one in state.broken]),
        "breakers": json.dumps([f"{case.name}, {case.knowledge}, {case.ball!r}" for case in cases]),
        "size": json.dumps(list(state.images.shape[1:])),
        filed.COUNT: str(len(kept)),
    }
    return write_streamed(path, tensors, header, filed.BYTES, filed.blocks(state, kept))


def read_per_image(path: Path) -> PerImageResults:
    """Return what `write_per_image` wrote; raise ValueError for a file that is damaged or something else.

    Images stay in the file until somebody asks for one; a file of an earlier version has them as float32, and they
    are read at once.
    """
    from memory_defense.evaluation import filed

    tensors, header = read_tensors(path, lambda name: name != filed.BYTES)
    try:
        broken: list[Broken] = []
        balls, shape, size = json.loads(header["balls"]), json.loads(header["size"]), len(tensors["labels"])
        if len(shape) != 3 or not all(isinstance(one, int) and one > 0 for one in shape):
            raise ValueError(f"images {shape}")
        image = filed.Filed(path, int(header[filed.COUNT]), shape) if filed.COUNT in header else None
        for number, (norm, epsilon) in enumerate(balls):
            place, kept = torch.full((size,), -1), tensors[f"ball {number} breaker"] >= 0
            if image is None:
                its, found = filed.earlier(tensors[f"ball {number} images"], shape)
            else:
                its, found = tensors[f"ball {number} {filed.NUMBERS}"], image
                if its.dtype != torch.int64 or (
                    len(its) and not 0 <= int(its.min()) <= int(its.max()) < image.count
                ):
                    raise ValueError(f"the ball {number} names other images than there are")
            place[kept] = its
            one = Broken.fresh(ball(norm, epsilon), FiledImages(tuple(shape), place, found), place, place.device)
            one.take_over(tensors, f"ball {number}", torch.arange(size))
            broken.append(one)
        breakers = tuple(str(one) for one in json.loads(header["breakers"]))
        kept = tensors.get(ANSWERS)
        if kept is not None and kept.shape != (size, 2):
            raise ValueError(f"{ANSWERS} are {tuple(kept.shape)}, not {(size, 2)}")
        return PerImageResults(
            tensors["ids"],
            tensors["labels"],
            tensors["predictions"],
            tuple(broken),
            breakers,
            kept,
            checksum_of(path),
        )
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(f"{path} is not a file of per-image results ({error}); write it again") from error


def images_of(results: PerImageResults, ids: Rows, norm: str) -> list[tuple[Rows, Images]]:
    """Return the adversarial images of one norm, those of small balls first, for images with these ids.

    Each entry holds positions in `ids` (n,) and the images (n, C, H, W) found for them.
    """
    order = results.ids.argsort()
    place = torch.searchsorted(results.ids[order], ids).clamp(max=len(order) - 1)
    position = order[place]  # (n,) of each id in the file, if it is there
    there = results.ids[position] == ids
    found: list[tuple[Rows, Images]] = []
    for broken in results.broken:
        rows = (there & (broken.breaker[position] >= 0)).nonzero().squeeze(1)
        if broken.ball.norm == norm and len(rows):
            found.append((rows, broken.images[position[rows]]))
    return found
