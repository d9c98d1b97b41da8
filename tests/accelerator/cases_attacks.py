"""Every attack finds on an accelerator what it finds on a processor, and waits for it seldom."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from attacks import victims
from contract.test_attack_matrix import ONE_NORM, QUICK
from memory_defense.attacks import ATTACKS, attack
from memory_defense.contracts import Ball
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf
from pretend import Ledger, accelerator

COUNT = 13

BUDGET = {
    "fgsm": 1,
    "rand-fgsm": 1,
    "bim": 1,
    "pgd": 2,  # two restarts
    "pgd-t": 3,  # three targets
    "gama": 1,
    "cw": 2,  # three constants, of which two are searched for in full
    "ddn": 1,
    "fmn": 0,
    "fab-t": 3,
    "apgd": 6,
    "apgd-t": 4,
    "square": 6,
    "nes": 1,
    "hop-skip-jump": 3,
    "autoattack": 16,
}
"""Waits for each further step or query of the settings in `QUICK`."""

BALLS: dict[str, Ball] = {"linf": Linf(0.05), "l2": L2(0.5)}
CASES = [(name, norm) for name, norm in itertools.product(ATTACKS, BALLS) if ONE_NORM.get(name, norm) == norm]


def network() -> nn.Module:
    return victims.mlp()


def steps_of(name: str) -> str | None:
    return next((one for one in ("steps", "queries") if one in QUICK.get(name, {})), None)


def images() -> Tensor:
    return torch.rand(COUNT, 1, victims.SIZE, victims.SIZE, generator=torch.Generator().manual_seed(1))


def run(name: str, norm: str, device: torch.device, **setting: int) -> Tensor:
    model, clean = network().to(device), images().to(device)
    labels = model(clean).argmax(1)
    labels[0] = (labels[0] + 1) % victims.CLASSES  # one that is mistaken as it is
    draws = ImageDraws.of(0, "test", COUNT, device)
    return attack(name, **{**QUICK.get(name, {}), **setting})(model, clean, labels, BALLS[norm], draws).detach()


def waits_of(ledger: Ledger, work: Callable[[], Tensor]) -> tuple[int, Tensor]:
    before = ledger.waits.total()
    found = work()
    return ledger.waits.total() - before, found


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_an_attack(name, norm) -> None:
    expected = run(name, norm, torch.device("cpu"))
    with accelerator() as (device, ledger):
        few, found = waits_of(ledger, lambda: run(name, norm, device))
        torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-6)
        assert ledger.uploads.total() == 0, ledger.uploads
        option = steps_of(name)
        if option is None:
            return
        ledger.waits.clear()
        steps = QUICK[name][option]
        more, _ = waits_of(ledger, lambda: run(name, norm, device, **{option: 2 * steps}))
        assert (more - few) / steps <= BUDGET[name], ledger.told()
