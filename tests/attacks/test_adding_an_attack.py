"""The worked example of ``docs/adding-an-attack.md`` runs, and passes the matrix every attack passes."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import types
from pathlib import Path

import pytest
import torch

from attacks import victims
from memory_defense import attacks
from memory_defense.attacks import ATTACKS, Bim, attack
from memory_defense.attacks.suites import SuitePart, check_attacks, parts_of
from memory_defense.randomness import ImageDraws
from memory_defense.threat import Linf

PAGE = Path(__file__).parents[2] / "docs" / "adding-an-attack.md"


def run(name: str, source: str) -> types.ModuleType:
    """Execute source text as a module of this name."""
    sys.modules[name] = module = types.ModuleType(name)  # where dataclasses look up annotations
    exec(compile(source, name, "exec", dont_inherit=True), vars(module))
    return module


def block(mark: str) -> str:
    """Return the code block of the page that follows this mark."""
    (source,) = re.findall(rf"<!-- {mark} -->\n```\w*\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return source


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Add the page's file to the package, and its line to the table, as the page says."""
    (tmp_path / "mifgsm.py").write_text(block("example"), encoding="utf-8")
    monkeypatch.setattr(attacks, "__path__", [*attacks.__path__, str(tmp_path)])
    ((name, place),) = ast.literal_eval("{" + block("line") + "}").items()
    monkeypatch.setitem(ATTACKS.data, name, place)
    yield importlib.import_module(place.partition(":")[0])
    del sys.modules["memory_defense.attacks.mifgsm"], attacks.mifgsm


@pytest.fixture
def matrix(example: types.ModuleType) -> types.ModuleType:
    """Return the contract matrix with the example registered."""
    source = (Path(__file__).parents[1] / "contract" / "test_attack_matrix.py").read_text(encoding="utf-8")
    return run("matrix_with_example", source)


def test_a_file_and_a_line_are_all_that_a_name_needs(example: types.ModuleType) -> None:
    assert attack("mifgsm", steps=3) == example.Mifgsm(steps=3)
    assert attacks.Mifgsm is example.Mifgsm
    with pytest.raises(ValueError, match="did you mean 'mifgsm'"):
        attack("mi-fgsm")
    for names in ("mifgsm", "fgsm, mifgsm"):
        check_attacks(names)
    assert parts_of("fgsm, mifgsm")("linf")[1] == SuitePart("mifgsm", example.Mifgsm())
    model, images = victims.mlp(), victims.images(9)
    found = {"model": model, "images": images, "labels": victims.right_answers(model, images)}
    exec(block("use"), found)
    assert found["strong"] == example.Mifgsm(steps=20, decay=0.5)
    assert [step.attack for cascade in found["record"].cascades for step in cascade.stages] == ["fgsm", "mifgsm"]


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
