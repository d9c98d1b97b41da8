"""Checkpoints: round trips, and every way a file can be wrong."""

import pickle

import pytest
import torch
from torch import nn

from memory_defense.tensorfiles import read_tensors, write_tensors
from memory_defense.training.checkpoint import (
    load_weights,
    pack,
    pack_optimizer,
    save_weights,
    unpack,
    unpack_optimizer,
)


def network(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width, 2))


def test_weights_round_trip(tmp_path) -> None:
    one, other = network(), network()
    save_weights(tmp_path / "w.safetensors", one.to(memory_format=torch.channels_last), {"recipe": "r"})
    assert load_weights(tmp_path / "w.safetensors", other) == {"recipe": "r"}
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


def test_optimizer_round_trip() -> None:
    one, other = network(), network()
    other.load_state_dict(one.state_dict())
    optimizers = [torch.optim.AdamW(model.parameters(), 1e-2) for model in (one, other)]

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(torch.linspace(0, 1, 18).view(2, 1, 3, 3)).square().sum().backward()
        optimizer.step()

    step(one, optimizers[0])
    other.load_state_dict(one.state_dict())
    unpack_optimizer(optimizers[1], {k: v.clone() for k, v in pack_optimizer(optimizers[0]).items()})
    for model, optimizer in zip((one, other), optimizers, strict=True):
        step(model, optimizer)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_groups_do_not_mix() -> None:
    packed = pack({"a": {"x": torch.ones(1)}, "ab": {"x": torch.zeros(1)}, "none": {}})
    assert unpack(packed, "a")["x"] == 1
    assert unpack(packed, "ab")["x"] == 0
    assert unpack(packed, "none") == {}


def test_a_pickle_is_refused_whatever_its_name(tmp_path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(pickle.dumps({"weight": 1}))
    with pytest.raises(ValueError, match=r"is a pickle.*run code"):
        read_tensors(path)
    torch.save(network().state_dict(), path)
    with pytest.raises(ValueError, match="is a pickle"):
        read_tensors(path)


def test_other_wrong_files(tmp_path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(ValueError, match="does not exist"):
        read_tensors(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        read_tensors(path)
    path.write_text("<!DOCTYPE html><html>quota exceeded</html>")
    with pytest.raises(ValueError, match="web page"):
        read_tensors(path)


@pytest.mark.parametrize("keep", [4, 8, 40, 200, -1])
def test_truncated_files(tmp_path, keep) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, network())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        read_tensors(path)


def test_weights_of_another_model(tmp_path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, network(width=4))
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"of another shape \(first: 0.bias\).*\(4,\).*\(3,\)"):
        load_weights(path, model)
    write_tensors(path, {"extra": torch.ones(1)})
    with pytest.raises(ValueError, match=r"missing .*unexpected \(first: extra\)"):
        load_weights(path, model)
    for name, tensor in before.items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, network())
    before = path.read_bytes()

    def full_disk(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_weights(path, network())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
