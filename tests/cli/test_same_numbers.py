"""One command finds what a call of Python finds: every suite on few classes, few folders of many classes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import memory_defense
from faults.helpers_faults import memdef
from memory_defense import Options
from memory_defense.attacks.suites import SUITES
from memory_defense.cli.arguments import radius
from memory_defense.data.own import load_images
from memory_defense.evaluation.record import Record
from memory_defense.evaluation.verdicts import verdicts_of

SIDE, OUTPUTS = 4, 1000
SOURCE = f"""
from torch import nn

def build(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear({3 * SIDE**2}, classes))
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "linear_net", raising=False)
    Path("linear_net.py").write_text(SOURCE)
    return tmp_path


def linear(outputs: int) -> nn.Module:
    """Return a linear classifier whose boundaries meet in the grey image, and save it."""
    random = torch.Generator().manual_seed(outputs)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, outputs))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(net[1].weight.shape, generator=random))
        net[1].bias.copy_(-net[1].weight.sum(1) / 2)
    save_file(net.state_dict(), "w.safetensors")
    return net


def pictures(net: nn.Module, each: int, folders: int) -> None:
    """Write pictures of noise into the folder of the class that a classifier sees, `each` in so many folders."""
    draws, counts = np.random.default_rng(0), dict[int, int]()
    while sum(counts.values()) < each * folders:
        levels = draws.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        with torch.no_grad():
            label = int(net(torch.from_numpy(levels).permute(2, 0, 1)[None] / 255).argmax())
        if counts.get(label, 0) < each and (label in counts or len(counts) < folders):
            counts[label] = counts.get(label, 0) + 1
            home = Path("data", "test", str(label))
            home.mkdir(parents=True, exist_ok=True)
            Image.fromarray(levels).save(home / f"{counts[label]}.png")


def both(net: nn.Module, outputs: int, attacks: str, *, epsilon: str) -> tuple[Record, Record]:
    """Return the records of the command and of the call, written as c.json and p.json."""
    target = ("linear_net:build", "--argument", f"classes={outputs}", "--weights", "w.safetensors")
    asked = ("--data", "data", "--epsilon", epsilon, "--attacks", attacks, "--threads", 1, "--out", "c.json")
    done = memdef("evaluate", *target, *asked)
    assert done.status == 0, done
    data = load_images("data").images
    numbers = torch.tensor(sorted(int(folder.name) for folder in Path("data/test").iterdir()))
    called = memory_defense.evaluate(
        net,
        data.floats(),
        numbers[data.labels],
        epsilon=radius(epsilon),
        attacks=attacks,
        out=Path("p.json"),
        options=Options(ids=data.ids),
    )
    return Record.read(Path("c.json")), called


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_on_few_classes(place, suite, classes) -> None:
    net = linear(classes)
    pictures(net, 6 // classes, classes)
    command, call = both(net, classes, suite, epsilon="12/255")
    assert command.worst_case == call.worst_case
    assert command.clean == call.clean
    assert 0 < command.worst_case[0].accuracy < command.clean.accuracy == 1


@pytest.mark.filterwarnings("ignore:classes. 48")
def test_nineteen_folders_of_a_thousand_classes(place) -> None:
    net = linear(OUTPUTS)
    pictures(net, 1, 19)
    command, call = both(net, OUTPUTS, "pgd", epsilon="2/255")
    one, other = (verdicts_of(record, Path(name)) for record, name in ((command, "c.json"), (call, "p.json")))
    assert len(one.ids) == 19
    assert one == other
    assert 0 < sum(one.balls[0].standing) < 19
