"""The pretend accelerator itself: it computes, refuses what CUDA refuses, and counts what CUDA waits for."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from pretend import NAME, accelerator


def test_it_computes_what_the_processor_does() -> None:
    torch.manual_seed(0)
    model, images = (
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3)),
        torch.rand(4, 1, 6, 6),
    )
    twin = copy.deepcopy(model)
    loss = model(images).square().sum()
    loss.backward()
    with accelerator() as (device, ledger):
        twin.to(device)
        other = twin(images.to(device)).square().sum()
        other.backward()
        assert ledger.waits.total() == 0
        assert other.device.type == NAME
        assert other.item() == loss.item()
        assert ledger.waits.total() == 1
        for one, there in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.equal(one.grad, there.grad.cpu())


@pytest.mark.parametrize(
    "mix",
    [
        lambda here, there: here + there,
        lambda here, there: torch.where(there > 0, here, there),
        lambda here, there: here[there.long()],
        lambda here, there: here[there > 0],
        lambda here, there: there.index_copy(0, torch.tensor([0]), there[:1]),
        lambda here, there: there.__setitem__(torch.tensor([0, 1]), here[:2]),
        lambda here, there: torch.cat([here, there]),
    ],
)
def test_tensors_of_two_places_are_refused(mix) -> None:
    with accelerator() as (device, _), pytest.raises(RuntimeError, match="device"):
        mix(torch.ones(3), torch.ones(3, device=device))


def test_numbers_may_come_from_the_processor() -> None:
    with accelerator() as (device, ledger):
        there = torch.arange(3.0, device=device)
        there = torch.where(there > 1, torch.tensor(0.5), there) * torch.tensor(2.0)
        there[1] = 7
        there[there > 5] = 0
        assert ledger.waits.total() == 0
        assert there.tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "wait",
    [
        lambda there: there.sum().item(),
        lambda there: bool(there.all()),
        lambda there: there.nonzero(),
        lambda there: there[there > 0],
        lambda there: there.cpu(),
        lambda there: there.tolist(),
        lambda there: torch.equal(there, there),
        lambda there: torch.zeros(3).copy_(there),
        lambda there: there.__setitem__(there > 0, there + 1),
    ],
)
def test_waits_are_counted(wait) -> None:
    with accelerator() as (device, ledger):
        wait(torch.ones(3, device=device))
        assert ledger.waits.total() == 1, ledger.told()


def test_positions_from_the_processor_are_counted_as_uploads() -> None:
    with accelerator() as (device, ledger):
        there = torch.arange(3, device=device)
        assert there[torch.tensor([2, 0])].tolist() == [2, 0]
        there[[0, 1]] = 5
        assert ledger.uploads.total() == 2


def test_numpy_does_not_see_it() -> None:
    with accelerator() as (device, _), pytest.raises(TypeError, match="numpy"):
        np.asarray(torch.ones(3, device=device).numpy())


def test_outside_everything_is_as_before() -> None:
    made = torch.tensor
    with accelerator():
        assert torch.tensor is not made
    assert torch.tensor is made
    assert torch.ones(2).tolist() == [1.0, 1.0]
