"""The one training loop. It knows no method by name: what is minimised is an `Objective`.

Every random number comes from (seed, epoch, image) or (seed, step), so that a run killed at any moment and
resumed ends bit-identical on a CPU. Under ``torch.distributed`` each rank takes a part of every batch (see `team`);
the first one writes the state, with everything in it, and any number of ranks can go on from it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from memory_defense.answers import answered_otherwise, in_short, made_on
from memory_defense.checks import vouched
from memory_defense.contracts import Batch, Defense, FineProgress, Losses, Objective, Progress, Rows, Stateful
from memory_defense.data.augmentation import LATER as ADDED
from memory_defense.data.augmentation import Augmentation
from memory_defense.data.images import ImageSet, batch_rows
from memory_defense.model_spec import entry
from memory_defense.progress import Seldom, between, heard
from memory_defense.randomness import DRAWS, ImageDraws, seeded
from memory_defense.ranks import current
from memory_defense.tensorfiles import content_sha256, write_tensors
from memory_defense.training.average import Average
from memory_defense.training.checkpoint import (
    damage,
    fingerprint,
    pack,
    pack_optimizer,
    read_state,
    restore_weights,
    same_kind,
    unpack,
    unpack_optimizer,
)
from memory_defense.training.config import LATER, FitConfig
from memory_defense.training.partial import chosen, train_only
from memory_defense.training.precision import (
    autocast,
    compiled,
    lay_out,
    lay_out_images,
    resolve,
    tuned,
    untuned,
)
from memory_defense.training.speed import Speed
from memory_defense.training.synchronised import synchronised
from memory_defense.training.team import Team
from memory_defense.training.validate import Counted, Counting, Validate
from memory_defense.wrappers import frozen, modules_known, restored

SAVE_SECONDS = 60.0
"""Seconds of work that a killed training may lose."""

_WORTH_SECONDS = 5.0
"""Seconds of work that are saved before something longer begins."""

_ASKED = 8
"""Images that a model is asked about before its training goes on: whether it is still the same code."""


@dataclass(frozen=True)
class EpochLog:
    """The losses and the score of one epoch."""

    epoch: int
    losses: dict[str, float]
    """Named parts of the objective at the epoch's last step."""
    score: float | None
    """The score on held-out images; None if it was not taken."""


@dataclass(frozen=True)
class FitResult:
    """The history of a run; the model holds the weights of the best epoch."""

    history: tuple[EpochLog, ...]
    best_epoch: int
    best_score: float | None
    seconds: float = field(compare=False)
    """Time that it took, scoring included; of a run that was stopped, all parts up to what was last saved."""


def fit(
    model: nn.Module,
    objective: Objective,
    images: ImageSet,
    config: FitConfig,
    *,
    seed: int,
    validate: Validate | None = None,
    state: Path | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Train `model` in place and leave it with the best held-out weights, in eval mode.

    Parameters
    ----------
    model
        Only parameters that require gradients are trained.
    objective
        What is minimised; if it is `Stateful`, its state is checkpointed too.
    images
        Training images; the model is moved to their device.
    config
        See `FitConfig`.
    seed
        Seed of every draw in this run.
    validate
        Scores the averaged model; without it the last weights are kept.
    state
        File of the training state. A state that exists is continued.
    progress
        Advanced at every step; `advance` may raise KeyboardInterrupt to stop after a whole step (with several
        ranks, after the next one, together).

    Raises
    ------
    ValueError
        If `state` was made under another configuration or seed, there are fewer images than one batch, or
        images that come with clean counterparts are to be erased or made noisy.
    """
    run = _Run(model, objective, images, config, seed, state)
    with synchronised(run.model, run.team.ranks), tuned(run.device), modules_known(run.model, run.called):
        return run.train(validate, progress)


class _Run:
    """The mutable state of one call of `fit`."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        images: ImageSet,
        config: FitConfig,
        seed: int,
        state: Path | None,
    ) -> None:
        if len(images) < config.batch_size:
            raise ValueError(
                f"there are {len(images)} training images, but a batch has {config.batch_size}; train on at least "
                f"{config.batch_size} (--train-images {config.batch_size}, into a new directory), or lower "
                f"batch_size to {len(images)}"
            )
        if images.clean is not None:
            _check_pairs(config.augmentation)
        self.config, self.objective, self.images, self.seed, self.state = config, objective, images, seed, state
        self.device = images.images.device
        self.team = Team(current(), config.batch_size, objective)
        if config.accumulate > 1 and self.team.ranks.world > 1:
            raise ValueError(
                f"accumulate is {config.accumulate}, but {self.team.ranks.world} processes share each batch "
                "already; leave it out"
            )
        self.precision = resolve(config.precision, self.device)
        self.model = lay_out(model.to(self.device), self.device)
        partial = config.train_last is not None or config.train_only
        self.resting = train_only(model, chosen(model, config.train_last, config.train_only)) if partial else []
        self.average = Average(self.model, config.averaging)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = config.optimizer.build(self.parameters)
        self.data = "" if state is None else _sha256(images)
        self.steps_in_epoch = len(images) // config.batch_size
        self.total = self.steps_in_epoch * config.epochs
        self.step, self.seconds = 0, 0.0
        self.pressed: KeyboardInterrupt | None = None
        self.doing = ""
        self.speed: Speed | None = None
        self.history: list[EpochLog] = []
        self.best: tuple[int, float] | None = None
        self.unscored: dict[str, float] | None = None
        self.counts: list[int] = []
        self.best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        if isinstance(objective, Stateful):
            objective.restore({})  # a recipe's objective may have been used before
        if state is not None:
            self._restore(state)
        self.team.ranks.copy_([*self.model.state_dict().values(), *self.average.model.state_dict().values()])
        # What trains a whole system calls its parts, of which a translation of the system would know nothing.
        choice = False if config.compile == "auto" and isinstance(self.model, Defense) else config.compile
        self.called = compiled(self.model, choice, self.device, self.total - self.step)
        self.saved = -math.inf
        self.entered = self.before_step = time.monotonic()
        self.begun = self.entered - self.seconds

    def train(self, validate: Validate | None, progress: Progress | None) -> FitResult:
        with heard(self._listener(progress)):
            return self._train(validate, progress)

    def _listener(self, progress: Progress | None) -> Callable[[int], None] | None:
        """Return what hears passes inside a step or a score; a wish to stop waits for the whole step."""
        if not isinstance(progress, FineProgress):
            return None
        seldom = Seldom(progress)

        def told() -> tuple[str, None]:
            return self.doing, None

        def listen(images: int) -> None:
            del images
            try:
                if self.doing:
                    seldom(told)
            except KeyboardInterrupt as pressed:
                self.pressed = pressed

        return listen

    def _train(self, validate: Validate | None, progress: Progress | None) -> FitResult:
        if progress:
            progress.begin("training", self.total)
            progress.advance(self.step)
            self.speed = Speed(self.device, self.precision, self.config.batch_size, self.team.ranks.world)
        while self.step < self.total or self.unscored is not None:
            epoch = self.step // self.steps_in_epoch - (self.unscored is not None)
            losses, stop = (self.unscored, False) if self.unscored is not None else self._epoch(epoch, progress)
            last = epoch + 1 == self.config.epochs
            score = None
            if validate is not None and (last or (epoch + 1) % self.config.validate_every == 0):
                self.unscored = losses
                if self._unsaved() > _WORTH_SECONDS:
                    self._save()
                score = self._score(validate)
            self.unscored, self.counts = None, []
            if score is None and validate is None:
                self._keep(epoch, float(epoch))
            elif score is not None and (self.best is None or score > self.best[1]):
                self._keep(epoch, score)
            self.history.append(EpochLog(epoch, losses, score))
            if stop or last or self._is_time():
                self._save()
            if stop:
                raise self.pressed or KeyboardInterrupt
            if progress:
                said = " ".join(f"{name} {value:.4g}" for name, value in losses.items())
                scored = "" if score is None else f", held-out score {score:.4g}"
                progress.note(f"epoch {epoch + 1}/{self.config.epochs}: {said}{scored}")
        between(progress)
        self.model.load_state_dict(self.best_weights)
        self.model.eval()
        assert self.best is not None
        score = self.best[1] if validate else None
        return FitResult(tuple(self.history), self.best[0], score, time.monotonic() - self.begun)

    def _epoch(self, epoch: int, progress: Progress | None) -> tuple[dict[str, float], bool]:
        """Return the last step's losses, and whether to stop, now that the epoch is whole."""
        self.model.train()
        for module in self.resting:
            module.eval()
        start = self.step % self.steps_in_epoch
        losses = None
        for rows in batch_rows(
            self.images, self.config.batch_size, seed=self.seed, epoch=epoch, drop_last=True, start=start
        ):
            with (
                seeded(self.seed, "step", self.step, *self.team.own_seed()),
                self.team.step(self.seed, self.step, self.device),
            ):
                losses, stop = self._update(epoch, self.team.own(rows))
            self.step += 1
            try:
                if progress:
                    progress.advance(1, self.speed.step() if self.speed else "")
            except KeyboardInterrupt as pressed:
                self.pressed = pressed
            if self.step % self.steps_in_epoch == 0:
                break
            if stop or (self.pressed and self.team.ranks.world == 1):
                self._save()
                raise self.pressed or KeyboardInterrupt
            due = self.step % self.config.checkpoint_every == 0 and self._is_time()
            if due or self._unsaved() + time.monotonic() - self.before_step >= SAVE_SECONDS:
                self._save()
            self.before_step = time.monotonic()
        assert losses is not None
        self.team.ranks.copy_([*self.model.buffers(), *self.average.model.buffers()])
        (pressed,) = self.team.ranks.total(int(self.pressed is not None))
        return self.team.mean(_mean(losses)), pressed > 0

    def _batch(self, epoch: int, rows: Rows) -> Batch:
        ids = self.images.ids[rows]
        draws = ImageDraws.of(self.seed, f"epoch {epoch}", ids, self.device)
        drawn = draws.child("augmentation")
        images = lay_out_images(self.config.augmentation(self.images.floats(rows), drawn))
        clean = None
        if self.images.clean is not None:
            clean = lay_out_images(self.config.augmentation(self.images.clean_floats(rows), drawn))
        progress = self.step / self.total
        return Batch(images, self.images.labels[rows], ids, draws.child("objective"), progress, clean)

    def _update(self, epoch: int, rows: Rows) -> tuple[list[tuple[float, Losses]], bool]:
        """Return the losses of one step's parts, each with its share, and whether some rank wants to stop."""
        self.config.optimizer.schedule_step(self.optimizer, self.step / self.total)
        losses: list[tuple[float, Losses]] = []
        for part in torch.tensor_split(rows, self.config.accumulate):
            share = len(part) / len(rows)
            losses.append((share, self._differentiate(self._batch(epoch, part), share, first=not losses)))
        stop = self.team.add_gradients(self.parameters, self.pressed is not None)
        self.config.optimizer.limit(self.parameters)
        self.team.exchange(self.images.ids[rows])
        self.optimizer.step()
        self.average.update(self.step)
        return losses, stop

    def _differentiate(self, batch: Batch, share: float, *, first: bool) -> Losses:
        """Add up the gradients of this share of a step."""
        counting = self.speed is not None and not self.speed.counted
        with self.speed.first() if self.speed else nullcontext():
            with (
                autocast(self.precision, self.device),
                vouched(self.step > 0),
            ):  # the first step looks at everything
                losses = self.objective(self.model if counting else self.called, batch)
            if first:
                self.optimizer.zero_grad(set_to_none=True)
            self.team.backward(losses, share)
        return losses

    def _score(self, validate: Validate) -> float:
        model = self.average.model
        model.eval()
        self.doing = "scoring the held-out images"
        if isinstance(validate, Counted):
            validate.counted = Counting(self.counts, self._counted)
        with autocast(self.precision, self.device), untuned():
            score = self.team.first(validate(model))
        self.doing = ""
        return score

    def _counted(self) -> None:
        """Hear that more held-out images were scored."""
        stop = self.pressed is not None and self.team.ranks.world == 1
        if stop or self._unsaved() > _WORTH_SECONDS:
            self._save()
        if stop:
            raise self.pressed or KeyboardInterrupt

    def _keep(self, epoch: int, score: float) -> None:
        self.best = (epoch, score)
        self.best_weights = {name: tensor.clone() for name, tensor in self.average.model.state_dict().items()}

    def _fingerprint(self) -> str:
        optimizer = self.config.optimizer.settings()
        configuration = entry(self.config, *LATER) | {
            "optimizer": optimizer,
            "augmentation": entry(self.config.augmentation, *ADDED),
            "seed": self.seed,
            "images": len(self.images),
        }
        del configuration["compile"]
        return fingerprint(
            configuration | {"objective": repr(self.objective), "precision": self.precision, "draws": DRAWS}
        )

    def _is_time(self) -> bool:
        """Whether to save: on an accelerator, which would stand still meanwhile, not sooner than `SAVE_SECONDS`."""
        return self.device.type == "cpu" or time.monotonic() - self.saved >= SAVE_SECONDS

    def _unsaved(self) -> float:
        """Return the seconds of work that a kill would lose now."""
        return time.monotonic() - max(self.saved, self.entered)

    def _save(self) -> None:
        self.saved = time.monotonic()
        if self.state is None or not self.team.ranks.leads:
            return
        groups: dict[str, Mapping[str, Tensor]] = {
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict() if self.config.averaging else {},
            "best": self.best_weights,
            "optimizer": pack_optimizer(self.optimizer),
            "objective": self.objective.state() if isinstance(self.objective, Stateful) else {},
        }
        history = [asdict(log) for log in self.history]
        metadata = {"step": self.step, "best": self.best, "history": history, "made_by": self._fingerprint()}
        answers = self._answers()
        metadata |= {"data": self.data, "made_on": made_on(self.device)}
        metadata |= {"seconds": round(time.monotonic() - self.begun, 1)}
        metadata |= {"answers": None if answers is None else answers.tolist()}
        metadata |= {"unscored": self.unscored, "counts": self.counts}
        write_tensors(self.state, pack(groups), {"run": json.dumps(metadata)})

    def _restore(self, path: Path) -> None:
        tensors, run = self.team.ranks.lead(lambda: read_state(path) if path.exists() else ({}, None))
        if run is None:
            return
        if run.get("made_by") != self._fingerprint():
            raise ValueError(
                f"{path} was made with another configuration, seed or data; "
                "resume with those, or delete it to start again"
            )
        if run.get("data", self.data) != self.data:
            raise ValueError(
                f"{path} was made with other training images; resume with the same ones, or delete it to start "
                "again"
            )
        with damage(path):
            restore_weights(self.model, unpack(tensors, "model"))
            if self.config.averaging:
                restore_weights(self.average.model, unpack(tensors, "average"))
            self.best_weights = same_kind(unpack(tensors, "best"), self.model.state_dict())
            unpack_optimizer(self.optimizer, unpack(tensors, "optimizer"))
            if isinstance(self.objective, Stateful):
                self.objective.restore(unpack(tensors, "objective"))
            self.step, self.seconds = int(run["step"]), float(run.get("seconds", 0))
            self.best = (int(run["best"][0]), float(run["best"][1])) if run["best"] else None
            self.history = [EpochLog(**log) for log in run["history"]]
            self.unscored, self.counts = run.get("unscored"), [int(one) for one in run.get("counts", ())]
            if not 0 <= self.step <= self.total:
                raise ValueError(f"step {self.step} of {self.total}")
            then, now = run.get("answers"), self._answers()
            here = run.get("made_on") == made_on(self.device)
            other = then is not None and now is not None and answered_otherwise(now, torch.tensor(then), here=here)
        self.team.ranks.agree(
            f"{path} was made with another model: with the same weights it gives other answers now; bring back the "
            "code that it was made with, or delete it to start again"
            if other
            else ""
        )

    @torch.no_grad()
    def _answers(self) -> Tensor | None:
        """Return the model's answers to a few images, in short; None for a defense, some of which take seconds."""
        if isinstance(self.model, Defense):
            return None
        rows = torch.arange(min(_ASKED, len(self.images)), device=self.images.labels.device)
        exact = torch.autocast(self.device.type, enabled=False)  # as everywhere, also where a score is saved within
        with exact, frozen(self.model), restored(self.model), seeded(self.seed, "answers"):
            logits: object = self.model(self.images.floats(rows))
        usual = isinstance(logits, Tensor) and logits.dim() == 2 and bool(logits.isfinite().all())
        return in_short(cast("Tensor", logits)).cpu() if usual else None


def _mean(losses: Sequence[tuple[float, Losses]]) -> dict[str, float]:
    """Return the named terms of a step, from those of its parts and their shares."""
    found: dict[str, float] = {}
    for share, one in losses:
        found = {name: found.get(name, 0.0) + share * value for name, value in one.parts().items()}
    return found


def _sha256(images: ImageSet) -> str:
    """Return a hash of everything in a set of images."""
    clean = () if images.clean is None else (images.clean,)
    return content_sha256((images.images, images.labels, images.ids, *clean))


def _check_pairs(augmentation: Augmentation) -> None:
    """Raise ValueError if an augmentation would paint over the clean counterparts as well."""
    names = [name for name in ("erase_probability", "noise_std") if getattr(augmentation, name)]
    if names:
        raise ValueError(
            f"the images come with clean counterparts, but the augmentation's {' and '.join(names)} would paint "
            "over those as well; set them to 0 (crops and flips move both alike), or leave the counterparts out"
        )
