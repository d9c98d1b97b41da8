"""A package of somebody else's, installed by pip: every door finds its defense, its attack and its recipe."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import zipfile
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

from memory_defense import plugins
from memory_defense.data.images import load_dataset
from memory_defense.data.sources import DataNotFoundError
from memory_defense.recipes.registry import RECIPES, register

MODULE = '''
"""Defenses of somebody else's."""

from dataclasses import dataclass, replace

import torch

from memory_defense.attacks import ATTACKS, Fgsm
from memory_defense.defenses.purification import Purification
from memory_defense.model_spec import ModelSpec
from memory_defense.recipes.fashion_mnist import TINY
from memory_defense.recipes.recipe import Stage
from memory_defense.recipes.registry import register
from memory_defense.systems.registry import SYSTEMS, System
from memory_defense.training.adversarial import Benign


class FewLevels(Purification):
    """Rounds every pixel to one of eight levels."""

    def purify(self, images):
        return torch.round(images * 7) / 7


@dataclass(frozen=True, kw_only=True)
class Doubled(Fgsm):
    """Fast gradient sign, by another name."""


SYSTEMS["few-levels"] = System("Fewer levels", "levels_of_others:FewLevels", (), "classifier")
ATTACKS["doubled"] = "levels_of_others:Doubled"
register(
    replace(
        TINY,
        name="fashion-mnist/few-levels-tiny",
        summary="Fewer levels before a benign classifier",
        model=ModelSpec(dataset="fashion-mnist", defense="few-levels", preset="paper", selector="linear"),
        undefended=None,
        undefended_network="",
        stages=(Stage(name="benign", objective=Benign(), fit=TINY.stages[0].fit),),
    )
)
'''
METADATA = "Metadata-Version: 2.1\nName: levels-of-others\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
POINTS = f"[{plugins.GROUP}]\nlevels = levels_of_others\n"


def wheel(place: Path) -> Path:
    """Write a wheel as any build tool does."""
    info = "levels_of_others-1.0.dist-info"
    files = {
        "levels_of_others.py": MODULE,
        f"{info}/METADATA": METADATA,
        f"{info}/WHEEL": WHEEL,
        f"{info}/entry_points.txt": POINTS,
    }
    record = "".join(f"{name},sha256={_digest(text)},{len(text)}\n" for name, text in files.items())
    path = place / "levels_of_others-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(name, text)
    return path


def _digest(text: str) -> str:
    return urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@pytest.fixture(scope="module")
def memdef(tmp_path_factory):
    """Return what runs ``memdef`` where the package is installed."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("there is no pip in this environment")
    try:
        load_dataset("fashion-mnist")
    except DataNotFoundError:
        pytest.skip("no source of Fashion-MNIST here")
    place = tmp_path_factory.mktemp("installed")
    options = ["--quiet", "--no-index", "--no-deps", "--disable-pip-version-check", "--target", str(place / "site")]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel(place))], check=True)

    def run(*words: str, path: bool = True) -> str:
        outside = os.environ | {"OMP_NUM_THREADS": "1"}
        if path:
            outside["PYTHONPATH"] = os.pathsep.join(
                [str(place / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
            )
        done = subprocess.run(
            [sys.executable, "-m", "memory_defense", *words],
            env=outside,
            cwd=place,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.place = place
    return run


def test_it_is_listed_trained_and_evaluated(memdef) -> None:
    listed = memdef("systems")
    assert "few-levels" in listed
    assert "levels_of_others, from the package levels-of-others" in listed
    assert "Fast gradient sign, by another name" in memdef("attacks")
    assert "fashion-mnist/few-levels-tiny" in memdef("recipes")
    memdef("train", "fashion-mnist/few-levels-tiny", "--out", "run", "--train-images", "60")
    said = memdef("evaluate", "run", "--images", "4", "--attacks", "doubled")
    assert "doubled" in said
    code = "import memory_defense; print(type(memory_defense.load('run')).__name__)"
    outside = os.environ | {"PYTHONPATH": str(memdef.place / "site")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=outside, cwd=memdef.place, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "FewLevels", done.stderr


def test_a_module_is_named_on_the_command_line(memdef) -> None:
    added = ["from memory_defense.systems.registry import SYSTEMS", "SYSTEMS['beside'] = SYSTEMS['magnet']"]
    (memdef.place / "beside.py").write_text("\n".join(added))
    assert "beside" not in memdef("systems", path=False)
    listed = memdef("--plugin", "beside", "systems", path=False)
    assert "plug-in: beside, from --plugin" in listed
    assert "few-levels" not in listed


def test_what_cannot_be_imported_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_plugin.py").write_text("1 / 0\n")
    before = plugins.loaded()
    with pytest.raises(ValueError, match=r"broken_plugin \(--plugin\) .* ZeroDivisionError"):
        plugins.load_plugins(["broken_plugin"])
    monkeypatch.setenv(plugins.VARIABLE, "nowhere_to_be_found")
    with pytest.raises(ValueError, match=r"nowhere_to_be_found .* No module named"):
        plugins.load_plugins()
    assert plugins.loaded() == before


def test_a_name_is_given_once() -> None:
    one = RECIPES["fashion-mnist/tiny"]
    register(one)
    from dataclasses import replace

    with pytest.raises(ValueError, match="already; give this one another name"):
        register(replace(one, summary="another"))
    assert RECIPES["fashion-mnist/tiny"] is one
