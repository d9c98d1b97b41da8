"""The table of systems: a line is all that a system needs, and nothing is imported before it is built."""

from __future__ import annotations

import subprocess
import sys
import types
from dataclasses import replace

import pytest
import torch

from memory_defense import names
from memory_defense.defenses.undefended import Undefended
from memory_defense.recipes.registry import RECIPES
from memory_defense.systems.build import build_defense, classifier_of
from memory_defense.systems.registry import SYSTEMS, System, system_of

TINY = RECIPES["fashion-mnist/tiny/resnet-benign"].model


def test_every_system_that_a_recipe_names_is_there() -> None:
    assert {*names.RECIPES.values()} == {*SYSTEMS}
    assert len({one.title for one in SYSTEMS.values()}) == len(SYSTEMS)


def test_a_line_is_all_that_a_system_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "theirs", types.SimpleNamespace(Halved=Halved))
    monkeypatch.setitem(SYSTEMS, "halved", System("Halved logits", "theirs:Halved", ("classes",), "network"))
    model = replace(TINY, defense="halved")
    built, plain = build_defense(model, seed=4).eval(), build_defense(TINY, seed=4).eval()
    images = torch.rand(3, 1, 28, 28)
    assert torch.equal(built(images), plain(images) / 2)
    assert classifier_of(model, built) is built.network
    assert system_of(model).title == "Halved logits"
    with pytest.raises(ValueError, match="did you mean 'halved'"):
        system_of(replace(TINY, defense="halfed"))


class Halved(Undefended):
    """A system of somebody's own."""

    def __init__(self, network, classes: int) -> None:
        super().__init__(network)
        assert classes == 10

    def forward(self, images):
        return self.network(images) / 2


def test_titles_need_no_torch_and_an_undefended_classifier_no_other_system() -> None:
    code = """
import sys
from memory_defense.systems.registry import SYSTEMS
assert SYSTEMS["magnet"].title == "MagNet"
assert "torch" not in sys.modules
from memory_defense.model_spec import ModelSpec
from memory_defense.systems.build import build_defense
build_defense(ModelSpec(dataset="fashion-mnist", defense="undefended", preset="paper", selector="linear"))
print(*sorted(name for name in sys.modules if name.startswith("memory_defense.defenses.")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["memory_defense.defenses.undefended"]
