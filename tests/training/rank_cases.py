"""The runs that `test_ranks` compares; as a script, one rank of several that does them all."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from memory_defense.attacks import Pgd
from memory_defense.contracts import Batch, Objective
from memory_defense.data.augmentation import Augmentation
from memory_defense.data.images import ImageSet
from memory_defense.tensorfiles import write_tensors
from memory_defense.threat import Linf
from memory_defense.training.adversarial import (
    Benign,
    ClassificationLosses,
    Online,
    SingleStep,
    WarmStart,
    classify,
)
from memory_defense.training.fit import FitConfig, FitResult, Validate, fit
from memory_defense.training.intervals import IntervalTraining
from memory_defense.training.optimizer import OptimizerConfig
from memory_defense.training.trades import Trades
from memory_defense.training.validate import certified_accuracy, clean_accuracy, robust_accuracy
from memory_defense.training.weight_perturbation import WeightPerturbation

SGD = OptimizerConfig(name="sgd", learning_rate=0.05, schedule="one-cycle")
CONFIG = FitConfig(
    epochs=4,
    batch_size=15,  # 8 rows for one rank, 7 for the other
    optimizer=SGD,
    averaging=0.8,
    augmentation=Augmentation(horizontal_flip=True, noise_std=0.02),
    precision="float32",
    checkpoint_every=2,
)


class SmoothLosses:
    """An objective with a penalty on the images' gradient: batch normalisation is differentiated twice."""

    def __call__(self, model: nn.Module, batch: Batch, /) -> ClassificationLosses:
        images = batch.images.clone().requires_grad_()
        losses = classify(model, images, batch.labels)
        summed = F.cross_entropy(losses.logits, batch.labels, reduction="sum")
        (gradient,) = torch.autograd.grad(summed, images, create_graph=True)
        penalty = gradient.square().sum((1, 2, 3)).mean()
        return replace(losses, total=losses.total + 0.1 * penalty)


def images(count: int = 94, seed: int = 3) -> ImageSet:
    """Noisy images of three brightnesses, so that scores move from epoch to epoch."""
    labels = torch.arange(count) % 3
    noise = torch.randint(0, 170, (count, 1, 6, 6), generator=torch.Generator().manual_seed(seed))
    return ImageSet((noise + 40 * labels[:, None, None, None]).to(torch.uint8), labels, torch.arange(count) + 7)


def network(*, normalised: bool, dropout: bool = True) -> nn.Module:
    """A small network; with batch normalisation and both kinds of dropout, with the first alone, or with neither.

    A bias before batch normalisation has no gradient but rounding, which AdamW would make steps of; there is none.
    """
    torch.manual_seed(0)
    extra = [nn.BatchNorm2d(4), nn.Dropout2d(0.1 * dropout)] if normalised else []
    middle = [nn.BatchNorm1d(8), nn.Dropout(0.2 * dropout)] if normalised else []
    bias = not normalised
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, bias=bias), *extra, nn.ReLU(), nn.Flatten()),
        *(nn.Linear(64, 8, bias=bias), *middle, nn.ReLU(), nn.Linear(8, 3)),
    )


def _clean() -> Validate:
    return clean_accuracy(images(31, seed=4), batch_size=9)


def _robust() -> Validate:
    return robust_accuracy(images(31, seed=4), Pgd(steps=3), Linf(0.05), 0)


def _certified() -> Validate:
    return certified_accuracy(images(31, seed=4), Linf(0.004))


@dataclass(frozen=True)
class Case:
    """One run."""

    objective: type[Objective]
    options: dict[str, object] = field(default_factory=dict)
    normalised: bool = True
    config: FitConfig = CONFIG
    robust: bool = False
    certified: bool = False

    def run(self, **options: object) -> tuple[nn.Module, FitResult]:
        """Return the trained model and what training did."""
        model = network(normalised=self.normalised, dropout=not self.certified)
        validate = _robust() if self.robust else _certified() if self.certified else _clean()
        objective = self.objective(**self.options)
        return model, fit(model, objective, images(), self.config, seed=1, validate=validate, **options)


_PGD = {"attack": Pgd(steps=3, momentum=0, stop_when_fooled=False), "epsilon": 0.05}
CASES = {
    "plain-benign": Case(Benign, normalised=False),
    "plain-online": Case(Online, _PGD, normalised=False, robust=True),
    "norm-benign": Case(Benign),
    "norm-benign-adamw": Case(
        Benign, config=replace(CONFIG, optimizer=OptimizerConfig(name="adamw", learning_rate=1e-2))
    ),
    "norm-online": Case(Online, _PGD, robust=True),
    "norm-single-step": Case(SingleStep, {"epsilon": 0.05}),
    "norm-warm-start": Case(WarmStart, {"epsilon": 0.05}),
    "norm-penalty": Case(SmoothLosses),
    "norm-intervals": Case(
        IntervalTraining,
        {"epsilon": 0.004},
        config=replace(CONFIG, optimizer=replace(SGD, clip=2.0)),
        certified=True,
    ),
    "norm-trades-perturbed": Case(
        WeightPerturbation, {"objective": Trades(epsilon=0.05, steps=2, start="uniform"), "gamma": 0.01}
    ),
}


class StopAt:
    """A progress that raises after some steps, on some ranks only."""

    def __init__(self, steps: int, error: type[BaseException], ranks: tuple[int, ...] = (0, 1)) -> None:
        self.left, self.error = steps, error
        self.here = dist.get_rank() in ranks if dist.is_initialized() else 0 in ranks

    def begin(self, what: str, total: int) -> None:
        pass

    def advance(self, steps: int, text: str = "") -> None:
        self.left -= steps
        if self.here and self.left <= 0:
            raise self.error

    def note(self, text: str) -> None:
        pass


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of everything the model holds."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _work(folder: Path, rank: int) -> None:
    said: dict[str, object] = {}
    tensors: dict[str, torch.Tensor] = {}

    def keep(name: str, model: nn.Module, result: FitResult) -> None:
        tensors.update({f"{name}/{key}": value for key, value in weights(model).items()})
        scores = [log.score for log in result.history]
        said[name] = {"best": result.best_epoch, "scores": scores, "losses": result.history[-1].losses}
        kinds = {type(module).__name__ for module in model.modules()}
        assert not any(kind.startswith("Ranked") for kind in kinds), "layers are what they were"

    for name, case in CASES.items():
        keep(name, *case.run())
    warm = CASES["norm-warm-start"]
    for name, error, ranks in (("killed", RuntimeError, (0, 1)), ("stopped", KeyboardInterrupt, (1,))):
        state = folder / f"{name}.safetensors"
        try:
            warm.run(state=state, progress=StopAt(9, error, ranks))
        except error:
            said[f"{name}-raised"] = True
        dist.barrier()
        if rank == 0:
            (folder / f"{name}.copy").write_bytes(state.read_bytes())
        dist.barrier()
        keep(name, *warm.run(state=state))
    try:
        fit(network(normalised=True), Benign(), images(), replace(CONFIG, batch_size=1), seed=1)
    except ValueError as error:
        said["refused"] = str(error)
    damaged = folder / "damaged.safetensors"
    if rank == 0:
        damaged.write_bytes(b"<html>")
    dist.barrier()
    try:
        warm.run(state=damaged)
    except ValueError as error:
        said["damaged"] = str(error)
    write_tensors(folder / f"rank{rank}.safetensors", tensors)
    (folder / f"rank{rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    place, number, world = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/meeting", rank=number, world_size=world)
    _work(place, number)
    dist.destroy_process_group()
