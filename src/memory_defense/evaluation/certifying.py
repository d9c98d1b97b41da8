"""Certifying a set of images: resumable, shared out over ranks, no image's result another's business."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Protocol

import torch
from torch import Tensor

from memory_defense.answers import ANSWERS, answered_otherwise, in_short, made_on
from memory_defense.certificates.smoothing import Smoothing
from memory_defense.contracts import Certifying, Classifier, Images, Labels, PerImage, Progress, Rows
from memory_defense.evaluation.agreement import terms_of
from memory_defense.evaluation.metrics import asked, predicted
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.pixels import Pictures, Pixels
from memory_defense.evaluation.store import SAVE_SECONDS, fingerprint, of_other_company, of_rank, only_writer
from memory_defense.files import remove
from memory_defense.foreign import undisturbed
from memory_defense.passes import regular
from memory_defense.randomness import DRAWS, ImageDraws, seeded
from memory_defense.ranks import Ranks, in_company
from memory_defense.tensorfiles import read_tensors, write_tensors
from memory_defense.wrappers import apart, exact_float32, frozen

_IN_SHORT = f"{ANSWERS} in short"
_OWN_CHUNK = 64
"""Images that a defense certifies at a time by its own means."""


class Method(Protocol):
    """A way to certify."""

    @property
    def name(self) -> str:
        """What records call it."""
        ...

    @property
    def norm(self) -> str:
        """``linf`` or ``l2``."""
        ...

    @property
    def chunk(self) -> int:
        """Images to certify at a time."""
        ...

    @property
    def terms(self) -> str:
        """All that decides the numbers beside model, images and seed."""
        ...

    def certify(self, images: Images, ids: Rows) -> dict[str, Tensor]:
        """Return what `Proofs` has of a chunk: ``guesses``, ``answers``, ``radii``, ``top`` and ``asked``."""
        ...


@dataclass(frozen=True)
class BySmoothing:
    """Randomized smoothing of a classifier; see `certificates.smoothing`."""

    model: Classifier
    smoothing: Smoothing
    seed: int
    wanted: tuple[float, ...] = ()
    """Radii that somebody asks about; see `Smoothing.count`."""
    name: str = field(default="smoothing", init=False)
    norm: str = field(default="l2", init=False)
    chunk: int = field(default=1, init=False)

    @property
    def terms(self) -> str:
        """The smoothing, and the radii that are asked about."""
        return f"{self.smoothing!r} {self.wanted}"

    def certify(self, images: Images, ids: Rows) -> dict[str, Tensor]:
        """Return answers, radii, and what was counted, of a chunk."""
        draws = ImageDraws.of(self.seed, "smoothing", ids, images.device)
        asking = regular(self.model)
        found = [
            self.smoothing.count(asking, image, draws.rows(torch.tensor([row])), wanted=self.wanted)
            for row, image in enumerate(images)
        ]
        return {
            "guesses": torch.tensor([one.guess for one in found]),
            "answers": torch.tensor([one.label for one in found]),
            "radii": torch.tensor([one.radius for one in found], dtype=torch.float64),
            "top": torch.tensor([one.top for one in found]),
            "asked": torch.tensor([one.asked for one in found]),
        }


@dataclass(frozen=True)
class ByItself:
    """The certificate that a defense publishes."""

    defense: Certifying
    radii: tuple[float, ...] = ()
    """Those that are asked about: a defense may look for these alone."""
    chunk: int = _OWN_CHUNK

    @property
    def name(self) -> str:
        """What the defense calls it."""
        return self.defense.certified_method

    @property
    def norm(self) -> str:
        """The norm of the defense's certificate."""
        return self.defense.certified_norm

    @property
    def terms(self) -> str:
        """What the defense calls its proof, and the radii."""
        return f"{self.name} {self.norm} {self.radii}"

    def certify(self, images: Images, ids: Rows) -> dict[str, Tensor]:
        """Return answers and radii of a chunk."""
        del ids
        found = self.defense.certificates(images)
        nothing = torch.zeros(len(images), dtype=torch.int64)
        guesses = {"guesses": found.labels, "answers": found.labels}
        return {**guesses, "radii": found.radii.double(), "top": nothing, "asked": nothing}


@dataclass(frozen=True)
class Proofs:
    """The certificates of a set of images, all on the CPU."""

    labels: Labels
    """(N,) true classes."""
    ids: Rows
    clean: PerImage
    """(N,) bool: the classifier itself, without noise, is right."""
    guesses: Labels
    """(N,) answers, proven or not."""
    answers: Labels
    """(N,) the same where something is proven, -1 elsewhere."""
    radii: PerImage
    """(N,) float64."""
    top: Labels
    asked: Labels
    """(N,) noisy copies that got the class, and that were asked; 0 where none were needed."""
    seconds: float

    @property
    def right(self) -> PerImage:
        """(N,) bool: the certified answer is the true class."""
        return self.answers == self.labels

    def tensors(self) -> dict[str, Tensor]:
        """Return what the file of every image holds."""
        names = ("labels", "ids", "clean", "guesses", "answers", "radii", "top", "asked")
        return {name: getattr(self, name) for name in names}


def certify_all(
    model: Classifier,
    images: Pictures,
    labels: Labels,
    method: Method,
    options: Options,
    *,
    state_file: Path | None = None,
) -> Proofs:
    """Certify every image; under ``torchrun`` every rank certifies its share and returns the whole.

    Parameters
    ----------
    model
        The classifier that the certificate is about, for the clean answers and for telling whose file this is.
    images, labels
        (N, C, H, W) in [0, 1] and (N,), the same on every rank.
    method
        How.
    options
        `seed`, `ids`, `progress`, `resume` and `alone` count here.
    state_file
        File to save to and to go on from, which whoever writes the record removes; None keeps nothing.

    Raises
    ------
    ValueError
        For a file to go on from that belongs to something else.
    """
    company = in_company("memory_defense.certify", alone=options.alone)
    with (
        company as ranks,
        undisturbed(),
        apart(model),
        exact_float32(),
        frozen(model),
        only_writer(state_file, ranks),
    ):
        ids = options.numbers(len(images))
        mine = ranks.rows(len(images))
        if ranks.world > 1:
            ranks.agree_on(terms_of(model, images, labels, ids, (), options) | {"how to certify": method.terms})
        run = _Run(model, Pixels.of(images).take(mine), labels[mine], ids[mine], method, options, ranks, state_file)
        found = run.go()
        whole = {name: tensor.new_empty((len(images), *tensor.shape[1:])) for name, tensor in found.items()}
        seconds = run.seconds
        told = {**found, "seconds": torch.tensor([run.seconds], dtype=torch.float64)}
        for rank, tensors in enumerate(ranks.gather(told)):
            seconds = max(seconds, float(tensors.pop("seconds")))
            for name, tensor in tensors.items():
                whole[name][Ranks(rank, ranks.world).rows(len(images))] = tensor.cpu()
    return Proofs(labels=labels.cpu(), ids=ids, seconds=seconds, **whole)


@dataclass
class _Run:
    """One rank's share."""

    model: Classifier
    images: Pixels
    labels: Labels
    ids: Rows
    method: Method
    options: Options
    ranks: Ranks
    state_file: Path | None
    seconds: float = 0.0

    def go(self) -> dict[str, Tensor]:
        """Return what `Proofs` has of this share, labels and ids aside."""
        count = len(self.images)
        with seeded(self.options.seed, "clean judge"):
            logits = asked(self.model, self.images) if count else torch.zeros(0, 1)
        self.answers = in_short(logits).cpu()
        done = torch.zeros(count, dtype=torch.bool)
        found = {
            "clean": (predicted(logits) == self.labels).cpu() if count else done.clone(),
            "guesses": torch.full((count,), -1),
            "answers": torch.full((count,), -1),
            "radii": torch.zeros(count, dtype=torch.float64),
            "top": torch.zeros(count, dtype=torch.int64),
            "asked": torch.zeros(count, dtype=torch.int64),
        }
        path = None if self.state_file is None else of_rank(self.state_file, self.ranks)
        fault = ""
        try:
            if path is not None:
                self._resume(path, found, done)
        except ValueError as error:
            fault = str(error)
        self.ranks.agree(fault)
        progress = self.options.progress
        if progress is not None:
            progress.begin(f"certifying by {self.method.name}", count)
            _tell(progress, int(done.sum()), found, self.labels, done)
        saved, began, before = monotonic(), time.monotonic(), self.seconds
        try:
            for rows in torch.split((~done).nonzero().squeeze(1), self.method.chunk):
                if not len(rows):  # nothing was left to do
                    break
                with torch.no_grad(), seeded(self.options.seed, "certificates"):
                    one = self.method.certify(self.images[rows], self.ids[rows])
                for name, tensor in one.items():
                    found[name][rows] = tensor.cpu()
                done[rows] = True
                self.seconds = before + time.monotonic() - began
                if path is not None and monotonic() - saved >= SAVE_SECONDS:
                    self._save(path, found, done)
                    saved = monotonic()
                _tell(progress, len(rows), found, self.labels, done)
        except (Exception, KeyboardInterrupt):
            if path is not None:
                self._save(path, found, done)
            raise
        if path is not None:
            self._save(path, found, done)
        return found

    def _fingerprint(self) -> str:
        terms = f"{self.method.terms} {self.options.seed} {self.ranks.world} {DRAWS}"
        return fingerprint(self.model, self.images, self.labels, self.ids, (), terms)

    def _save(self, path: Path, found: dict[str, Tensor], done: Tensor) -> None:
        tensors = {**found, "done": done, _IN_SHORT: self.answers}
        metadata = {"fingerprint": self._fingerprint(), "made_on": made_on(self.images.device)}
        write_tensors(path, tensors, {**metadata, "seconds": f"{self.seconds:.3f}"})

    def _resume(self, path: Path, found: dict[str, Tensor], done: Tensor) -> None:
        """Bring `found` to where the file stands; raise ValueError where it is another's, or damaged."""
        others = of_other_company(self.state_file, self.ranks)
        if not self.options.resume:
            for one in (path, *others) if self.ranks.leads else (path,):
                remove(one)
        elif others:
            raise ValueError(
                f"{others[0]} was left by another number of processes; go on in as many, or remove it to start over"
            )
        if not path.exists():
            return
        tensors, metadata = read_tensors(path)
        if metadata.get("fingerprint") != self._fingerprint():
            raise ValueError(
                f"{path} belongs to something else (other weights, images, options or seed); remove it to start "
                "over, or write to another place"
            )
        try:
            here = metadata["made_on"] == made_on(self.images.device)
            otherwise = answered_otherwise(self.answers, tensors[_IN_SHORT], here=here)
            if not otherwise:
                for name, tensor in (*found.items(), ("done", done)):
                    tensor.copy_(tensors[name])
                self.seconds = float(metadata["seconds"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}); remove it to start over") from error
        if otherwise:
            raise ValueError(
                f"{path} belongs to something else: the classifier gives other answers now; remove it to start "
                "over, or write to another place"
            )


def _tell(progress: Progress | None, steps: int, found: dict[str, Tensor], labels: Labels, done: Tensor) -> None:
    if progress is None:
        return
    right = (found["answers"] == labels.cpu()) & done
    share = 100 * float(right.sum()) / max(1, int(done.sum()))
    middle = float(found["radii"][right].median()) if right.any() else 0.0
    progress.advance(steps, f"{share:.1f} % right, median radius {middle:.3f}")
