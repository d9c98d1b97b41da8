"""The worked example of ``docs/adding-an-attack.md`` runs, and passes the matrix every attack passes."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
import torch

from attacks import victims
from memory_defense.attacks import ATTACKS, Bim
from memory_defense.randomness import ImageDraws
from memory_defense.threat import Linf

PAGE = Path(__file__).parents[2] / "docs" / "adding-an-attack.md"


def run(name: str, source: str) -> types.ModuleType:
    """Execute source text as a module of this name."""
    sys.modules[name] = module = types.ModuleType(name)  # where dataclasses look up annotations
    exec(compile(source, name, "exec", dont_inherit=True), vars(module))
    return module


@pytest.fixture(scope="module")
def example() -> types.ModuleType:
    """Execute the code block that follows the ``example`` mark."""
    (source,) = re.findall(r"<!-- example -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return run("worked_example", source)


@pytest.fixture
def matrix(example: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Return the contract matrix with the example registered."""
    monkeypatch.setitem(ATTACKS, "mifgsm", example.Mifgsm)
    source = (Path(__file__).parents[1] / "contract" / "test_attack_matrix.py").read_text(encoding="utf-8")
    return run("matrix_with_example", source)


def test_the_example_passes_the_matrix(matrix: types.ModuleType) -> None:
    cases = [case.values for case in matrix.CASES if case.values[0] == "mifgsm"]
    assert len(cases) == len(matrix.VICTIMS) * len(matrix.BALLS)
    for check in (
        matrix.test_the_result_is_an_admissible_image,
        matrix.test_epsilon_zero_is_the_identity,
        matrix.test_images_already_mistaken_stay_as_they_are,
        matrix.test_no_image_depends_on_its_batch,
        matrix.test_the_model_is_left_exactly_as_it_was,
        matrix.test_it_is_no_weaker_than_one_step,
    ):
        for case in cases:
            check(*case)
    for norm in matrix.BALLS:
        matrix.test_it_fools_a_victim_that_can_be_fooled("mifgsm", norm)
    matrix.test_bad_inputs_are_refused("mifgsm")


def test_without_memory_the_example_is_bim(example: types.ModuleType) -> None:
    model, clean = victims.mlp(), victims.images(9)
    labels, draws = victims.right_answers(model, clean), ImageDraws.of(0, "a", 9)
    momentum = example.Mifgsm(decay=0.0, steps=5, stop_when_fooled=False)
    plain = Bim(steps=5, step_size=0.02, stop_when_fooled=False)
    one, other = (attack(model, clean, labels, Linf(0.1), draws) for attack in (momentum, plain))
    torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_the_page_names_what_exists() -> None:
    text = PAGE.read_text(encoding="utf-8")
    root = PAGE.parents[1]
    for path in re.findall(r"`((?:src|tests)/[\w/.]+)`", text):
        assert (root / path).exists(), path
    oracle = (root / "tests/oracle/test_linear_optimum.py").read_text(encoding="utf-8")
    matrix = (root / "tests/contract/test_attack_matrix.py").read_text(encoding="utf-8")
    assert all(f"{name} = " in oracle for name in ("EXACT", "MANY_STEPS"))
    assert all(f"\n{name}" in matrix for name in ("QUICK", "ONE_NORM"))
