"""The worked example of ``docs/adding-a-defense.md``, followed step by step: file, name, recipe, commands."""

from __future__ import annotations

import re
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import memory_defense
from memory_defense.attacks import Pgd
from memory_defense.evaluation.record import Record
from memory_defense.randomness import ImageDraws
from memory_defense.recipes.fashion_mnist import TINY
from memory_defense.recipes.recipe import ModelSpec, Stage
from memory_defense.recipes.registry import RECIPES
from memory_defense.systems import registry as systems
from memory_defense.threat import Linf
from memory_defense.training.adversarial import Benign
from memory_defense.workflows.assess import assess
from memory_defense.workflows.train import train
from paper.made_up import made_up_splits

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-defense.md"


def source(mark: str) -> str:
    (found,) = re.findall(rf"<!-- {mark} -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return found


@pytest.fixture(scope="module")
def example() -> types.ModuleType:
    """Step 1: the file."""
    sys.modules["few_levels"] = module = types.ModuleType("few_levels")
    exec(compile(source("example"), "few_levels", "exec", dont_inherit=True), vars(module))
    return module


def test_it_rounds_and_its_white_box_is_exact(example: types.ModuleType) -> None:
    torch.manual_seed(0)
    defense, images = (
        example.FewLevels(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), levels=3),
        torch.rand(9, 1, 4, 4),
    )
    levels = torch.tensor([0, 0.5, 1])
    nearest = levels[(images[..., None] - levels).abs().argmin(-1)]
    assert torch.equal(defense.purify(images), nearest)
    assert torch.equal(defense.surrogates()["end-to-end"](images), defense(images))
    assert defense.transfer_knowledge == {"oblivious"}
    with pytest.raises(ValueError, match="at least 2"):
        example.FewLevels(defense.classifier, levels=1)


def test_who_knows_of_the_rounding_breaks_more(example: types.ModuleType) -> None:
    torch.manual_seed(0)
    defense = example.FewLevels(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), levels=3).eval()
    images = torch.rand(60, 1, 8, 8)
    labels, ball, draws = defense(images).argmax(1), Linf(0.1), ImageDraws.of(0, "a", 60)
    left = {
        name: (defense(Pgd(steps=20)(known, images, labels, ball, draws)).argmax(1) == labels).float().mean()
        for name, known in defense.surrogates().items()
    }
    assert left["end-to-end"] < left["oblivious"]


def test_a_name_and_a_recipe_are_all_it_takes(
    example: types.ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "memory_defense.defenses.few_levels", example)
    monkeypatch.setattr(systems, "SYSTEMS", dict(systems.SYSTEMS))
    exec(compile(source("system"), "systems", "exec", dont_inherit=True), vars(systems))
    scope = {"replace": replace, "TINY": TINY, "ModelSpec": ModelSpec, "Stage": Stage, "Benign": Benign}
    exec(compile(source("recipe"), "recipe", "exec", dont_inherit=True), scope)
    recipe = scope["FEW_LEVELS_TINY"]
    monkeypatch.setitem(RECIPES, recipe.name, recipe)
    splits = made_up_splits()
    run = train(recipe, tmp_path / "run", splits)
    defense = memory_defense.load(run.path)
    assert isinstance(defense, example.FewLevels)
    record = assess(recipe, run, defense, splits)
    assert Record.read(run.record) == record
    assert {one.knowledge for one in record.attacks} == {"oblivious", "end-to-end"}
    assert record.defense == "few-levels/paper"


def test_the_page_names_what_exists() -> None:
    text, root = PAGE.read_text(encoding="utf-8"), PAGE.parents[1]
    for path in re.findall(r"`((?:src|tests)/[\w/.]+)`", text):
        assert (root / path).exists(), path
    for path in re.findall(r"`((?:defenses|recipes|reporting)/\w+\.py)`", text):
        assert (root / "src/memory_defense" / path).is_file(), path
    rows = (root / "src/memory_defense/recipes/rows.py").read_text(encoding="utf-8")
    assert "\ndef _row(" in rows
