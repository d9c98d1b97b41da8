"""The one training loop. It knows no method by name: what is minimised is an `Objective`.

Every random number comes from (seed, epoch, image) or (seed, step), so that a run killed at any moment and
resumed ends bit-identical on a CPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor, nn

from memory_defense.contracts import Batch, Losses, Objective, Progress, Stateful
from memory_defense.data.augmentation import Augmentation
from memory_defense.data.images import ImageSet, batches
from memory_defense.randomness import ImageDraws, seeded
from memory_defense.tensorfiles import read_tensors, write_tensors
from memory_defense.training.average import Average
from memory_defense.training.checkpoint import fingerprint, pack, pack_optimizer, unpack, unpack_optimizer
from memory_defense.training.optimizer import OptimizerConfig
from memory_defense.training.precision import Precision, autocast, lay_out, resolve

Validate = Callable[[nn.Module], float]
"""Scores a model on held-out images; larger is better."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How long and how to train; what to train is the objective's affair."""

    epochs: int
    """Passes over the training images."""
    batch_size: int = 128
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    averaging: float = 0.0
    """Decay of the exponential moving average of the weights for each step; 0 turns it off."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: Precision = "auto"
    """float32, bfloat16 (autocast), or auto: bfloat16 where the processor has it in hardware."""
    validate_every: int = 1
    """Epochs between two scores on held-out images."""
    checkpoint_every: int = 400
    """Steps between two writes of the training state."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "validate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but it must be at least 1")
        if not 0 <= self.averaging < 1:
            raise ValueError(f"averaging is {self.averaging}, but the decay must be in [0, 1)")


@dataclass(frozen=True)
class EpochLog:
    """What one epoch did."""

    epoch: int
    losses: dict[str, float]
    """Named parts of the objective at the epoch's last step."""
    score: float | None
    """The held-out score, where it was taken."""


@dataclass(frozen=True)
class FitResult:
    """What training did; the model holds the weights of the best score."""

    history: tuple[EpochLog, ...]
    best_epoch: int
    best_score: float | None


class _Quiet:
    """A `Progress` that says nothing."""

    def begin(self, what: str, total: int) -> None:
        pass

    def advance(self, steps: int, text: str = "") -> None:
        pass

    def note(self, text: str) -> None:
        pass


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
        Minimised; where it is `Stateful`, its state is checkpointed too.
    images
        Training images, resident on the model's device.
    config
        See `FitConfig`.
    seed
        Of every draw in this run.
    validate
        Scores the averaged model; without it the last weights are kept.
    state
        Where the training state is written. A state that exists is continued.
    progress
        Told about every step; its `advance` may raise KeyboardInterrupt to stop after a whole step.

    Raises
    ------
    ValueError
        When `state` was made under another configuration or seed, or there are fewer images than one batch.
    """
    run = _Run(model, objective, images, config, seed, state)
    return run.train(validate, progress or _Quiet())


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
                f"there are {len(images)} training images but batch_size is {config.batch_size}; lower batch_size"
            )
        self.config, self.objective, self.images, self.seed, self.state = config, objective, images, seed, state
        self.device = images.images.device
        self.precision = resolve(config.precision, self.device)
        self.model = lay_out(model.to(self.device), self.device)
        self.average = Average(self.model, config.averaging)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = config.optimizer.build(self.parameters)
        self.steps_in_epoch = len(images) // config.batch_size
        self.total = self.steps_in_epoch * config.epochs
        self.step = 0
        self.stop: KeyboardInterrupt | None = None
        self.history: list[EpochLog] = []
        self.best: tuple[int, float] | None = None
        self.best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        if isinstance(objective, Stateful):
            objective.restore({})  # a recipe's objective may have been used before
        if state is not None and state.exists():
            self._restore(state)

    def train(self, validate: Validate | None, progress: Progress) -> FitResult:
        progress.begin("training", self.total)
        progress.advance(self.step)
        while self.step < self.total:
            epoch = self.step // self.steps_in_epoch
            losses = self._epoch(epoch, progress)
            last = epoch + 1 == self.config.epochs
            score = None
            if validate is not None and (last or (epoch + 1) % self.config.validate_every == 0):
                score = self._score(validate)
            if score is None and validate is None:
                self._keep(epoch, float(epoch))
            elif score is not None and (self.best is None or score > self.best[1]):
                self._keep(epoch, score)
            self.history.append(EpochLog(epoch, losses, score))
            self._save()
            if self.stop:
                raise self.stop
            said = " ".join(f"{name} {value:.4g}" for name, value in losses.items())
            progress.note(f"epoch {epoch + 1}/{self.config.epochs}: {said}" + _score_text(score))
        self.model.load_state_dict(self.best_weights)
        self.model.eval()
        assert self.best is not None
        return FitResult(tuple(self.history), self.best[0], self.best[1] if validate else None)

    def _epoch(self, epoch: int, progress: Progress) -> dict[str, float]:
        self.model.train()
        start = self.step % self.steps_in_epoch
        losses = None
        for stored, labels, ids in batches(
            self.images, self.config.batch_size, seed=self.seed, epoch=epoch, drop_last=True, start=start
        ):
            draws = ImageDraws.of(self.seed, f"epoch {epoch}", ids, self.device)
            images = self.config.augmentation(stored, draws.child("augmentation"))
            batch = Batch(images, labels, ids, draws.child("objective"), self.step / self.total)
            with seeded(self.seed, "step", self.step):
                losses = self._update(batch)
            self.step += 1
            try:
                progress.advance(1)
            except KeyboardInterrupt as stop:
                if self.step % self.steps_in_epoch:
                    self._save()
                    raise
                self.stop = stop  # the epoch is whole: score and save it first
            if self.step % self.config.checkpoint_every == 0 and self.step % self.steps_in_epoch:
                self._save()
        assert losses is not None
        return dict(losses.parts())

    def _update(self, batch: Batch) -> Losses:
        self.config.optimizer.schedule_step(self.optimizer, batch.progress)
        with autocast(self.precision, self.device):
            losses = self.objective(self.model, batch)
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        self.optimizer.step()
        self.average.update(self.step)
        return losses

    def _score(self, validate: Validate) -> float:
        model = self.average.model
        model.eval()
        with autocast(self.precision, self.device):
            return validate(model)

    def _keep(self, epoch: int, score: float) -> None:
        self.best = (epoch, score)
        self.best_weights = {name: tensor.clone() for name, tensor in self.average.model.state_dict().items()}

    def _fingerprint(self) -> str:
        configuration = asdict(self.config) | {"seed": self.seed, "images": len(self.images)}
        return fingerprint(configuration | {"objective": repr(self.objective), "precision": self.precision})

    def _save(self) -> None:
        if self.state is None:
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
        write_tensors(self.state, pack(groups), {"run": json.dumps(metadata)})

    def _restore(self, path: Path) -> None:
        tensors, header = read_tensors(path)
        run = json.loads(header.get("run", "{}"))
        if run.get("made_by") != self._fingerprint():
            raise ValueError(
                f"{path} was made with another configuration, seed or data; "
                "resume with the same ones, or delete it to start again"
            )
        self.model.load_state_dict(unpack(tensors, "model"))
        if self.config.averaging:
            self.average.model.load_state_dict(unpack(tensors, "average"))
        self.best_weights = unpack(tensors, "best")
        unpack_optimizer(self.optimizer, unpack(tensors, "optimizer"))
        if isinstance(self.objective, Stateful):
            self.objective.restore(unpack(tensors, "objective"))
        self.step = int(run["step"])
        self.best = (int(run["best"][0]), float(run["best"][1])) if run["best"] else None
        self.history = [EpochLog(**log) for log in run["history"]]


def _score_text(score: float | None) -> str:
    return "" if score is None else f", held-out score {score:.4g}"
