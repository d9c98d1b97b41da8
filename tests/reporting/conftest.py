"""Synthetic records and galleries: the numbers are made up, their relations are those of real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from memory_defense.evaluation.metrics import accuracy
from memory_defense.evaluation.record import (
    Accuracy,
    AttackResult,
    AuditLine,
    Provenance,
    Record,
    WorstCase,
)

EPSILON = 25 / 255


def spread(value: float) -> dict[str, Any]:
    """An accuracy near this value, of a whole number of the 1000 images, with its interval."""
    return accuracy(round(1000 * value), 1000).model_dump()


def attack(
    knowledge: str,
    share: float,
    name: str = "pgd",
    norm: str = "linf",
    epsilon: float = EPSILON,
    **parameters: Any,
) -> AttackResult:
    return AttackResult(
        attack=name,
        knowledge=knowledge,
        norm=norm,
        epsilon=epsilon,
        median_distance=min(0.0975, epsilon),
        forward_passes=41_000,
        backward_passes=40_000,
        seconds=12.34,
        parameters={"steps": 40, **parameters},
        **spread(share),
    )


def make_record(**changes: Any) -> Record:
    curve = [
        attack(knowledge, 0.931 - slope * epsilon, epsilon=epsilon, steps=10, purpose="curve")
        for knowledge, slope in (("fixed-slots", 1.0), ("selector", 8.0))
        for epsilon in (2 / 255, 8 / 255, EPSILON)
    ]
    table = [
        attack("fixed-slots", 0.834),
        attack("selector", 0.013),
        attack("end-to-end", 0.047),
        attack("selector", 0.127, name="fgsm", steps=1),
        attack("selector", 0.213, norm="l2", epsilon=1.5),
    ]
    worst = [("linf", 2 / 255, 0.861), ("linf", 8 / 255, 0.652), ("linf", EPSILON, 0.011), ("l2", 1.5, 0.206)]
    values: dict[str, Any] = {
        "defense": "memory-defense",
        "recipe": "fashion-mnist/demo",
        "dataset": "fashion-mnist",
        "images": 1000,
        "clean": Accuracy(**spread(0.931)),
        "attacks": (*table, *curve),
        "worst_case": tuple(WorstCase(norm=n, epsilon=e, **spread(a)) for n, e, a in worst),
        "audit": (
            AuditLine(check="gradients", verdict="pass", value=0.0, meaning="All flow.", remedy=""),
            AuditLine(check="square", verdict="not run", value=None, meaning="Unknown.", remedy="Run it."),
            AuditLine(
                check="slot-following", verdict="fail", value=1.0, meaning="Slot decides.", remedy="Attack it."
            ),
        ),
        "provenance": Provenance(
            version="0.1.0", git="abc1234", seed=7, device="cpu", torch="2.13.0", recipe_sha256="0f" * 32
        ),
    }
    return Record(**{**values, **changes})


@pytest.fixture(scope="session")
def shared_record() -> Record:
    return make_record()


@pytest.fixture
def record(shared_record) -> Record:
    return shared_record


@pytest.fixture
def bare() -> Record:
    """A record that was never attacked nor audited."""
    return make_record(attacks=(), worst_case=(), audit=())


def gallery_parts(channels: int = 1) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Two images of 4 x 4 pixels, three classes, six memory items."""
    images = torch.linspace(0.2, 0.8, 2 * channels * 16).view(2, channels, 4, 4)
    adversarial = images.clone()
    adversarial[:, :, 0, 0] += 0.1
    adversarial[:, :, 3, 3] -= 0.05
    tensors = {
        "images": images,
        "adversarial": adversarial,
        "reconstructions": images[:, None].repeat(1, 3, 1, 1, 1) * 1.7 - 0.2,
        "attention_clean": torch.tensor([[0.5, 0.3, 0.1, 0.1, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.5, 0.5]]),
        "attention_adversarial": torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.2, 0.8], [0.1, 0.1, 0.2, 0.2, 0.2, 0.2]]),
        "labels": torch.tensor([0, 2]),
        "slots_clean": torch.tensor([0, 2]),
        "slots_adversarial": torch.tensor([2, 2]),
        "predictions_clean": torch.tensor([0, 2]),
        "predictions_adversarial": torch.tensor([2, 2]),
    }
    header = {
        "classes": json.dumps(["coat", "bag", "shoe"]),
        "attack": "PGD-40",
        "knowledge": "selector",
        "norm": "linf",
        "epsilon": "0.1",
        "defense": "memory-defense",
    }
    return tensors, header


@pytest.fixture(scope="session")
def save_gallery() -> Callable[..., Path]:
    """Write a gallery with some tensors replaced (None removes) and some header entries replaced likewise."""

    def write(
        path: Path, tensors: dict[str, Any] | None = None, header: dict[str, Any] | None = None, channels: int = 1
    ) -> Path:
        parts, words = gallery_parts(channels)
        kept = {k: v.contiguous() for k, v in {**parts, **(tensors or {})}.items() if v is not None}
        save_file(kept, path, metadata={k: v for k, v in {**words, **(header or {})}.items() if v is not None})
        return path

    return write


@pytest.fixture
def write_gallery(tmp_path: Path, save_gallery) -> Callable[..., Path]:
    return partial(save_gallery, tmp_path / "gallery.safetensors")


@pytest.fixture
def factory() -> Callable[..., Record]:
    return make_record


@pytest.fixture
def attacked() -> Callable[..., AttackResult]:
    return attack
