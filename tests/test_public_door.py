"""What `import memory_defense` gives, what its examples say, and how little of the house it brings along."""

from __future__ import annotations

import doctest
import inspect
import json
import subprocess
import sys
from dataclasses import fields

import pytest
import torch
from torch import nn

import memory_defense
from memory_defense import Options
from memory_defense.evaluation import options
from memory_defense.evaluation.place import state_path
from memory_defense.workflows import evaluate as workflow

MOST_MODULES = 75

SCRIPT = """
import json, sys
import memory_defense
def ours():
    return sorted(name for name in sys.modules if name.partition(".")[0] == "memory_defense")
bare = ours()
memory_defense.evaluate
asked = ours()
import torch
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4))
images = torch.rand(8, 1, 4, 4)
memory_defense.evaluate(net, images, net(images).argmax(1), epsilon=0.1)
print(json.dumps([bare, asked, ours()]))
"""


def test_evaluate_brings_little_of_the_house_along() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True, timeout=300)
    bare, asked, after = json.loads(done.stdout)
    assert bare == ["memory_defense", "memory_defense.version"]
    assert len(asked) <= MOST_MODULES
    assert len(after) <= MOST_MODULES
    rooms = {name.split(".")[1] for name in after if name.count(".")}
    assert not rooms & {"cli", "studio", "paper", "recipes", "systems", "reporting", "training", "networks", "data"}


def test_every_name_is_there_and_explained() -> None:
    assert set(memory_defense.__all__) <= set(dir(memory_defense))
    for name in set(memory_defense.__all__) - {"__version__"}:
        assert name in (memory_defense.__doc__ or ""), name
        assert (inspect.getdoc(getattr(memory_defense, name)) or "").count(" ") > 3
    with pytest.raises(AttributeError, match="Settings"):
        _ = memory_defense.Settings  # pyright: ignore


@pytest.mark.parametrize("module", [options, workflow])
def test_the_examples_run(module) -> None:
    found = doctest.testmod(module)
    assert (found.failed, found.attempted > 0) == (0, True)


def test_options_are_checked_and_spelled_out() -> None:
    assert Options(submissions=3).repetitions.count == 3
    for wrong, message in (
        ({"batch_size": 0}, "batch_size is 0"),
        ({"chunk": 0}, "chunk is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"submissions": 0}, "submissions is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Options(**wrong)
    source = inspect.getsource(Options)
    assert source.count('    """') >= len(fields(Options)), "every option says what it does"


def test_a_device_is_used_and_the_model_comes_back() -> None:
    moves: list[str] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 4)

        def to(self, place):  # pyright: ignore
            moves.append(str(place))
            return super().to(place)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert moves in ([], ["cpu:0"]), "asked before it was moved, or after it was brought back"
            return self.linear(images.flatten(1))

    net, images = Watched(), torch.rand(8, 1, 4, 4)
    labels = net(images).argmax(1)
    chosen = Options(device="cpu:0")
    memory_defense.evaluate(net, images, labels, epsilon=0.1, attacks="fgsm", options=chosen)
    assert moves == ["cpu:0", "cpu"]
    moves.clear()
    with pytest.raises(ValueError, match="labels"):
        memory_defense.evaluate(net, images, labels[:3], epsilon=0.1, attacks="fgsm", options=chosen)
    assert moves == ["cpu:0", "cpu"], "an error brings it back, too"


def test_without_resume_a_stopped_evaluation_starts_anew(tmp_path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    images = torch.rand(8, 1, 4, 4)
    labels = net(images).argmax(1)
    out = tmp_path / "record.json"
    state = state_path(out)
    state.write_bytes(b"what another evaluation left")
    with pytest.raises(ValueError, match="not a log of this version"):
        memory_defense.evaluate(net, images, labels, epsilon=0.1, attacks="fgsm", out=out)
    anew = Options(resume=False)
    memory_defense.evaluate(net, images, labels, epsilon=0.1, attacks="fgsm", out=out, options=anew)
    assert out.is_file()
    assert not state.exists()
