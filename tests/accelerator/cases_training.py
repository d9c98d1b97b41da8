"""Every objective trains on an accelerator as on a processor, and hardly ever waits for it."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import nn

from memory_defense.attacks import Pgd
from memory_defense.contracts import Objective
from memory_defense.data.augmentation import Augmentation
from memory_defense.data.images import ImageSet
from memory_defense.defenses.autoencoder import AutoencoderObjective, MemAeObjective
from memory_defense.defenses.comdefend import ComDefendObjective
from memory_defense.defenses.defense_vae import DefenseVae, DefenseVaeEndToEnd, DefenseVaeObjective
from memory_defense.defenses.magnet import MagNetObjective
from memory_defense.defenses.memory.objective import MemoryObjective
from memory_defense.defenses.pixeldefend import PixelCnnObjective, StandInObjective
from memory_defense.model_spec import ModelSpec
from memory_defense.systems.build import build_defense
from memory_defense.training import fit as fitting
from memory_defense.training.adversarial import Benign, Online, SingleStep, WarmStart
from memory_defense.training.fit import FitConfig, fit
from memory_defense.training.intervals import IntervalTraining
from memory_defense.training.optimizer import OptimizerConfig
from memory_defense.training.trades import Trades
from memory_defense.training.weight_perturbation import WeightPerturbation
from pretend import accelerator

BATCH = 8
CONFIG = FitConfig(
    epochs=1,
    batch_size=BATCH,
    optimizer=OptimizerConfig(name="sgd", learning_rate=0.1),
    averaging=0.9,
    augmentation=Augmentation(crop_padding=1, horizontal_flip=True, erase_probability=0.5, noise_std=0.01),
    precision="float32",
)
PLAIN = replace(CONFIG, augmentation=Augmentation())

_TRADES = Trades(epsilon=0.1, warm_up=0, steps=3, start="uniform")
CLASSIFIERS: dict[str, tuple[Objective, float]] = {
    "benign": (Benign(), 0),
    "online": (Online(attack=Pgd(steps=5, stop_when_fooled=False), warm_up=0), 0),
    "online, stopping": (Online(attack=Pgd(steps=5), warm_up=0), 7),  # a look at who is left, in each pass
    "online, L2": (Online(attack=Pgd(steps=5, stop_when_fooled=False), norm="l2", epsilon=0.5, warm_up=0), 0),
    "single step": (SingleStep(warm_up=0), 0),
    "warm start": (WarmStart(warm_up=0), 1),  # how many perturbations there are
    "trades": (_TRADES, 0),
    "perturbed weights": (WeightPerturbation(objective=_TRADES), 0),
    "intervals": (IntervalTraining(epsilon=0.02, regularisation=0.5), 0),
    "intervals, CROWN": (IntervalTraining(epsilon=0.02, warm_up=1.0, method="crown-ibp"), 0),
}
"""Each with the waits that a step may cost."""

SYSTEMS: dict[str, tuple[ModelSpec, Objective, float]] = {
    "memory": (
        ModelSpec(dataset="fashion-mnist", preset="sound", selector="linear", memory_size=20),
        MemoryObjective(),
        0,
    ),
    "autoencoder": (
        ModelSpec(dataset="fashion-mnist", defense="autoencoder", preset="paper", selector=""),
        AutoencoderObjective(),
        0,
    ),
    "memae": (
        ModelSpec(dataset="fashion-mnist", defense="memae", preset="paper", selector="", memory_size=20),
        MemAeObjective(),
        0,
    ),
    "magnet": (
        ModelSpec(dataset="fashion-mnist", defense="magnet", preset="paper", selector="linear"),
        MagNetObjective(),
        0,
    ),
    "comdefend": (
        ModelSpec(dataset="fashion-mnist", defense="comdefend", preset="small", selector="linear"),
        ComDefendObjective(),
        0,
    ),
    "defense-vae": (
        ModelSpec(dataset="fashion-mnist", defense="defense-vae", preset="small", selector="linear"),
        DefenseVaeObjective(),
        0,
    ),
    "defense-vae, end to end": (
        ModelSpec(dataset="fashion-mnist", defense="defense-vae", preset="small", selector="linear"),
        DefenseVaeEndToEnd(),
        0,
    ),
    "pixelcnn": (
        ModelSpec(dataset="fashion-mnist", defense="pixeldefend", preset="small", selector="linear"),
        PixelCnnObjective(initial_images=BATCH),
        1,  # whether it is initialised
    ),
}


def network(activation: type[nn.Module] = nn.SiLU) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), activation(), nn.Flatten(), nn.Linear(64, 3)
    )


def images(count: int, size: int, device: torch.device, *, pairs: bool = False) -> ImageSet:
    drawn = torch.randint(0, 256, (2, count, 1, size, size), generator=torch.Generator().manual_seed(1))
    first, second = drawn.to(torch.uint8)
    rows = torch.arange(count, device=device)
    clean = second.to(device) if pairs else None
    return ImageSet(first.to(device), rows % 3, rows, clean)


def assert_same_weights(here: nn.Module, there: nn.Module) -> None:
    """Hold trained weights to the processor's; layouts differ there, and so does the order of sums."""
    expected = here.state_dict()
    for name, tensor in there.state_dict().items():
        torch.testing.assert_close(tensor.cpu(), expected[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifiers_objective(name) -> None:
    objective, budget = CLASSIFIERS[name]
    activation = nn.ReLU if isinstance(objective, IntervalTraining) else nn.SiLU
    here = network(activation)
    fit(here, objective, images(2 * BATCH, 6, torch.device("cpu")), CONFIG, seed=0)
    waits: list[int] = []
    with accelerator() as (device, ledger):
        for steps in (2, 6):
            there, before = network(activation), ledger.waits.total()
            fit(there, objective, images(steps * BATCH, 6, device), CONFIG, seed=0)
            waits.append(ledger.waits.total() - before)
            if steps == 2:
                assert_same_weights(here, there)
        assert (waits[1] - waits[0]) / 4 <= budget, ledger.told()
        assert ledger.uploads.total() == 0, ledger.uploads


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_systems_objective(name) -> None:
    model, objective, budget = SYSTEMS[name]
    pairs = isinstance(objective, (DefenseVaeObjective, DefenseVaeEndToEnd))
    waits: list[int] = []
    with accelerator() as (device, ledger):
        for steps in (1, 3):
            system, before = build_defense(model, 0).to(device), ledger.waits.total()
            if isinstance(objective, DefenseVaeEndToEnd):
                cast("DefenseVae", system).release_classifier()
            fit(system, objective, images(steps * BATCH, 28, device, pairs=pairs), PLAIN, seed=0)
            waits.append(ledger.waits.total() - before)
        assert (waits[1] - waits[0]) / 2 <= budget, ledger.told()
        assert ledger.uploads.total() == 0, ledger.uploads


def test_the_objective_of_a_stand_in(monkeypatch) -> None:
    from memory_defense.defenses import pixeldefend

    monkeypatch.setattr(pixeldefend, "purified_levels", lambda net, levels, radius: levels)  # has tests of its own
    model = ModelSpec(dataset="fashion-mnist", defense="pixeldefend", preset="small", selector="linear")
    with accelerator() as (device, ledger):
        system = build_defense(model, 0).to(device)
        fit(system, StandInObjective(), images(2 * BATCH, 28, device), PLAIN, seed=0)
        assert ledger.uploads.total() == 0, ledger.uploads


def test_the_state_is_written_seldom_there(monkeypatch, tmp_path) -> None:
    written: list[int] = []
    monkeypatch.setattr(fitting, "write_tensors", lambda path, tensors, header: written.append(len(tensors)))
    config = replace(CONFIG, epochs=6, checkpoint_every=2)
    with accelerator() as (device, _):
        fit(network(), Benign(), images(4 * BATCH, 6, device), config, seed=0, state=tmp_path / "state")
        assert len(written) == 2  # the first, as nothing was there, and the last
        monkeypatch.setattr(fitting, "SAVE_SECONDS", 0.0)
        fit(network(), Benign(), images(4 * BATCH, 6, device), config, seed=0, state=tmp_path / "state")
        assert len(written) == 2 + 24  # as if every step took a minute
    written.clear()
    monkeypatch.setattr(fitting, "SAVE_SECONDS", 60.0)
    fit(network(), Benign(), images(4 * BATCH, 6, torch.device("cpu")), config, seed=0, state=tmp_path / "state")
    assert len(written) == 12  # a processor loses nothing by it


def test_values_are_looked_at_in_the_first_step_alone() -> None:
    objective = Online(attack=Pgd(steps=1, stop_when_fooled=False), warm_up=0)
    with accelerator() as (device, _):
        bad = images(2 * BATCH, 6, device)
        bad.labels[:] = 7
        with pytest.raises(ValueError, match="labels go up to 7"):
            fit(network(), objective, bad, CONFIG, seed=0)
