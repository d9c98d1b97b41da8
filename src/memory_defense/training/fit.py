"""The one training loop. It knows no method by name: what is minimised is an `Objective`.

Every random number comes from (seed, epoch, image) or (seed, step), so that a run killed at any moment and
resumed ends bit-identical on a CPU. Under ``torch.distributed`` each rank takes a part of every batch (see `team`);
the first one writes the state, with everything in it, and any number of ranks can go on from it.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from memory_defense.answers import answered_otherwise, in_short, made_on
from memory_defense.checks import check_at_least, vouched
from memory_defense.contracts import Batch, Defense, FineProgress, Losses, Objective, Progress, Rows, Stateful
from memory_defense.data.augmentation import Augmentation
from memory_defense.data.images import ImageSet, batch_rows
from memory_defense.progress import Seldom, between, heard
from memory_defense.randomness import DRAWS, ImageDraws, seeded
from memory_defense.ranks import current
from memory_defense.tensorfiles import content_sha256, write_tensors
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
from memory_defense.training.optimizer import OptimizerConfig
from memory_defense.training.precision import (
    Compile,
    Precision,
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
from memory_defense.wrappers import frozen, modules_known, restored

SAVE_SECONDS = 60.0
"""Seconds of an accelerator's work that a killed training may lose."""

_ASKED = 8
"""Images that a model is asked about before its training goes on: whether it is still the same code."""

Validate = Callable[[nn.Module], float]
"""Scores a model on held-out images; larger is better."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Length and manner of training; the objective says what is minimised."""

    epochs: int
    """Passes over the training images."""
    batch_size: int = 128
    """Images in each step, over all processes."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    averaging: float = 0.0
    """Decay of the exponential moving average of the weights for each step; 0 turns it off."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: Precision = "auto"
    """float32, bfloat16 (autocast), or auto: bfloat16 where the processor has it in hardware."""
    validate_every: int = 1
    """Epochs between two scores on held-out images."""
    checkpoint_every: int = 400
    """Steps between two writes of the training state, besides one after each epoch; an accelerator leaves out those
    within `SAVE_SECONDS` of the last."""
    compile: Compile = field(default="auto", repr=False)
    """Whether torch.compile translates the network; auto: on a GPU, if the run is long enough to pay. It changes
    speed alone, so neither a recipe's hash nor a training state depends on it."""

    def __post_init__(self) -> None:
        check_at_least(1, epochs=self.epochs, batch_size=self.batch_size)
        check_at_least(1, validate_every=self.validate_every, checkpoint_every=self.checkpoint_every)
        if self.compile not in (True, False, "auto"):
            raise ValueError(f"compile is {self.compile!r}, expected True, False or 'auto'")
        if not 0 <= self.averaging < 1:
            raise ValueError(f"averaging is {self.averaging}, but the decay must be in [0, 1)")


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
        self.precision = resolve(config.precision, self.device)
        self.model = lay_out(model.to(self.device), self.device)
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
        self.begun = time.monotonic() - self.seconds

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
        while self.step < self.total:
            epoch = self.step // self.steps_in_epoch
            losses, stop = self._epoch(epoch, progress)
            last = epoch + 1 == self.config.epochs
            score = None
            if validate is not None and (last or (epoch + 1) % self.config.validate_every == 0):
                score = self._score(validate)
            if score is None and validate is None:
                self._keep(epoch, float(epoch))
            elif score is not None and (self.best is None or score > self.best[1]):
                self._keep(epoch, score)
            self.history.append(EpochLog(epoch, losses, score))
            if stop or last:
                self._save()
            else:
                self._save_at_times()
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
        start = self.step % self.steps_in_epoch
        losses = None
        for rows in batch_rows(
            self.images, self.config.batch_size, seed=self.seed, epoch=epoch, drop_last=True, start=start
        ):
            with (
                seeded(self.seed, "step", self.step, *self.team.own_seed()),
                self.team.step(self.seed, self.step, self.device),
            ):
                losses, stop = self._update(self._batch(epoch, self.team.own(rows)))
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
            if self.step % self.config.checkpoint_every == 0:
                self._save_at_times()
        assert losses is not None
        self.team.ranks.copy_([*self.model.buffers(), *self.average.model.buffers()])
        (pressed,) = self.team.ranks.total(int(self.pressed is not None))
        return self.team.mean(losses.parts()), pressed > 0

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

    def _update(self, batch: Batch) -> tuple[Losses, bool]:
        """Return the losses of one step, and whether some rank wants to stop."""
        self.config.optimizer.schedule_step(self.optimizer, batch.progress)
        counting = self.speed is not None and not self.speed.counted
        with self.speed.first() if self.speed else nullcontext():
            with (
                autocast(self.precision, self.device),
                vouched(self.step > 0),
            ):  # the first step looks at everything
                losses = self.objective(self.model if counting else self.called, batch)
            self.optimizer.zero_grad(set_to_none=True)
            self.team.backward(losses)
        stop = self.team.add_gradients(self.parameters, self.pressed is not None)
        self.config.optimizer.limit(self.parameters)
        self.team.exchange(batch.ids)
        self.optimizer.step()
        self.average.update(self.step)
        return losses, stop

    def _score(self, validate: Validate) -> float:
        model = self.average.model
        model.eval()
        self.doing = "scoring the held-out images"
        with autocast(self.precision, self.device), untuned():
            score = self.team.first(validate(model))
        self.doing = ""
        return score

    def _keep(self, epoch: int, score: float) -> None:
        self.best = (epoch, score)
        self.best_weights = {name: tensor.clone() for name, tensor in self.average.model.state_dict().items()}

    def _fingerprint(self) -> str:
        optimizer = self.config.optimizer.settings()
        configuration = asdict(self.config) | {
            "optimizer": optimizer,
            "seed": self.seed,
            "images": len(self.images),
        }
        del configuration["compile"]
        return fingerprint(
            configuration | {"objective": repr(self.objective), "precision": self.precision, "draws": DRAWS}
        )

    def _save_at_times(self) -> None:
        """Save, but on an accelerator, which would stand still meanwhile, not sooner than `SAVE_SECONDS` again."""
        if self.device.type == "cpu" or time.monotonic() - self.saved >= SAVE_SECONDS:
            self._save()

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
        with frozen(self.model), restored(self.model), seeded(self.seed, "answers"):
            logits: object = self.model(self.images.floats(rows))
        usual = isinstance(logits, Tensor) and logits.dim() == 2 and bool(logits.isfinite().all())
        return in_short(cast("Tensor", logits)).cpu() if usual else None


class Average:
    """The exponential moving average of a model's weights, as a second model.

    Parameters
    ----------
    model
        The model that is trained.
    decay
        Weight of the past at each step, warmed up as ``min(decay, (1 + step) / (10 + step))``; at 0 the
        average is the model itself and costs nothing.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.source, self.decay = model, decay
        self.model = copy.deepcopy(model).requires_grad_(False) if decay else model
        self.means, self.values = (list[Tensor](one.parameters()) for one in (self.model, model))
        self.buffers = tuple(list(one.buffers()) for one in (self.model, model))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the trained weights; buffers (batch-norm statistics) are copied."""
        if not self.decay:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        # One call for all of them, where a loop makes three hundred; torch has it under no public name.
        torch._foreach_lerp_(self.means, self.values, 1 - decay)  # pyright: ignore
        for mean, value in zip(*self.buffers, strict=True):
            mean.copy_(value)


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
