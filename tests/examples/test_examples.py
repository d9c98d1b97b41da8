"""The examples run as their users run them, and what they find is what attacks find."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from memory_defense.evaluation.record import Record

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def beside_the_examples(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def example(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_foolbox_breaks_the_toy_and_ours_at_least_as_much(capsys) -> None:
    found = example("attack_with_foolbox").main(
        ["--synthetic", "--images", "24", "--epsilon", "0.25", "--attacks", "pgd"]
    )
    assert found["clean"] > 0.9
    assert found["foolbox PGD"] < found["clean"]
    assert found["ours"] <= found["foolbox PGD"] + 1e-9
    assert "foolbox PGD" in capsys.readouterr().out


def test_art_breaks_the_toy() -> None:
    pytest.importorskip("art")
    found = example("attack_with_art").main(
        ["--synthetic", "--images", "16", "--epsilon", "0.25", "--queries", "20"]
    )
    assert found["clean"] > 0.9
    assert found["ART PGD"] < found["clean"]
    assert found["ART Square"] <= found["clean"]


def test_without_art_the_example_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "art", None)
    monkeypatch.setitem(sys.modules, "art.attacks.evasion", None)
    with pytest.raises(SystemExit, match="pip install adversarial-robustness-toolbox"):
        example("attack_with_art")


def test_a_foreign_model_gets_a_record_either_way(tmp_path) -> None:
    main = example("evaluate_foreign_model").main
    asked = ["--images", "30", "--attacks", "pgd", "--epsilon", "0.02", "0.3"]
    plain = main([*asked, "--out", str(tmp_path / "record.json")])
    assert Record.read(tmp_path / "record.json") == plain
    assert plain.clean.accuracy > 0.9
    assert plain.worst_case[1].accuracy < plain.worst_case[0].accuracy
    wrapped = main([*asked, "--as", "foolbox"])
    assert [one.accuracy for one in wrapped.worst_case] == [one.accuracy for one in plain.worst_case]


@pytest.mark.parametrize("name", ["attack_with_foolbox", "evaluate_foreign_model"])
def test_every_example_explains_itself(name) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), "--help"],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert "usage:" in done.stdout
    assert f"python examples/{name}.py" in done.stdout
