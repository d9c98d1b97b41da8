"""Checkpoints of torch as safetensors: what is peeled off, what is left out, and what never runs."""

from __future__ import annotations

import collections
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from faults.helpers_faults import memdef, refused
from memory_defense.systems.convert import convert, peeled
from memory_defense.systems.own_model import build_user_model
from memory_defense.tensorfiles import read_tensors

STATE = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).state_dict()


def named(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: one for name, one in STATE.items()}


CHECKPOINTS = {
    "plain": (STATE, 0),
    "parallel": (named("module."), 1),
    "compiled and parallel": (named("_orig_mod.module."), 2),
    "state_dict": ({"state_dict": named("module."), "epoch": 3, "lr": 0.1}, 2),
    "model_state_dict": ({"model_state_dict": STATE, "optimizer": {"state": {}}}, 1),
    "model": ({"model": STATE}, 1),
    "a number in it": ({**STATE, "epoch": 7}, 1),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_the_weights_come_out_under_the_names_of_the_model(kind, legacy, tmp_path) -> None:
    content, said = CHECKPOINTS[kind]
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    done = convert(tmp_path / "w.pth", tmp_path / "w.safetensors")
    assert len(done.notes) == said, done.notes
    found, _ = read_tensors(tmp_path / "w.safetensors")
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], one) for name, one in STATE.items())


def test_a_prefix_that_one_name_lacks_stays_and_names_can_be_kept() -> None:
    mixed = {**named("module."), "head.bias": torch.zeros(1)}
    assert peeled(mixed).tensors.keys() == mixed.keys()
    assert peeled(named("module."), keep=True).tensors.keys() == named("module.").keys()


def test_weights_that_share_memory_are_written_each(tmp_path) -> None:
    torch.save({"a": STATE["1.weight"], "b": STATE["1.weight"]}, tmp_path / "w.pth")
    convert(tmp_path / "w.pth", tmp_path / "w.safetensors")
    assert read_tensors(tmp_path / "w.safetensors")[0].keys() == {"a", "b"}


class Runs:
    """What would make a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"w": torch.zeros(2), "args": Runs()}, "would run code when it is read, so it is not"),
        ({"model": nn.Linear(2, 2)}, "would run code when it is read, so it is not"),
        ({"epoch": 3}, "holds no tensor (left out, since it is not a tensor: epoch)"),
        ([1, 2], "holds no tensor (a list)"),
        (collections.OrderedDict(), "holds no tensor (it is empty)"),
    ],
)
def test_what_is_more_or_less_than_weights_is_refused_and_nothing_written(
    content, says, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, "w.pth")
    refused(memdef("convert", "w.pth", "w.safetensors"), says)
    assert not Path("w.safetensors").exists()
    assert not Path("ran").exists()


def test_a_script_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.script(nn.Linear(2, 2)).save("w.pt")
    refused(memdef("convert", "w.pt", "w.safetensors"), "is not a checkpoint that torch")


def test_the_command_says_what_it_did_and_replaces_nothing_unasked(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": named("module."), "epoch": 1}, "w.ckpt")
    done = memdef("convert", "w.ckpt", "w.safetensors")
    assert "the weights are those of 'state_dict'; left out: epoch" in done.out
    assert "'module.' is taken off every name" in done.out
    assert "converted: w.safetensors, 2 tensors of 39 numbers" in done.out
    refused(memdef("convert", "w.ckpt", "w.safetensors"), "give --force to replace it")
    assert memdef("convert", "w.ckpt", "w.safetensors", "--force").status == 0
    refused(memdef("convert", "w.ckpt", "w.pt"), "write w.safetensors")
    refused(memdef("convert", "nowhere.pth", "x.safetensors"), "does not exist")


def test_pickled_weights_and_targets_are_refused_with_the_command_that_converts_them(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("converted_net.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))\n"
    )
    torch.save(named("module."), "w.pth")
    Path("old.pkl").write_bytes(pickle.dumps({"w": 1}))
    asked = ("--data", tmp_path, "--epsilon", "0.1")
    for given in (("converted_net:build", "--weights", "w.pth"), ("w.pth",)):
        refused(memdef("evaluate", *given, *asked), "memdef convert w.pth w.safetensors")
    refused(memdef("evaluate", "old.pkl", *asked), "memdef convert old.pkl old.safetensors")
    assert memdef("convert", "w.pth", "w.safetensors").status == 0
    built = build_user_model("converted_net:build", classes=3, channels=3, size=2, weights="w.safetensors")
    assert torch.equal(built.state_dict()["1.weight"], STATE["1.weight"])
