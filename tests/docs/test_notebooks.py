"""The notebooks run from top to bottom, and say what they show; so does the file on the first page."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from faults.helpers_faults import made_up, write_files
from memory_defense.data.images import load_dataset
from memory_defense.data.sources import DataNotFoundError
from memory_defense.data.spec import DATASETS

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def script() -> ModuleType:
    found = importlib.util.spec_from_file_location("notebook_pages", ROOT / "docs" / "notebook_pages.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bool:
    """Return whether Fashion-MNIST is on this machine; where it is not, made-up images go by its name."""
    try:
        load_dataset("fashion-mnist", offline=True)
    except DataNotFoundError:
        spec, arrays = made_up()
        monkeypatch.setitem(DATASETS, "fashion-mnist", spec)
        monkeypatch.setenv("MEMDEF_DATA", str(write_files(tmp_path / "data", arrays)))
        return False
    return True


def ran(name: str, folder: Path) -> dict[str, Any]:
    """Run a copy of a notebook, in under a minute of one core, and return the names it leaves behind."""
    copy = Path(shutil.copy(ROOT / "notebooks" / name, folder))
    before = time.process_time()
    after = script().run(copy)
    assert time.process_time() - before < 60
    cells = [one for one in json.loads(copy.read_text(encoding="utf-8"))["cells"] if one["cell_type"] == "code"]
    pictures = [out for one in cells for out in one["outputs"] if "image/png" in out.get("data", {})]
    assert len(pictures) == 2
    return after


def test_evaluate_your_model(real: bool, tmp_path: Path) -> None:
    after = ran("evaluate-your-model.ipynb", tmp_path)
    trained, plain = after["record"], after["own"]
    assert len(trained.worst_case) == len(plain.worst_case) == 3
    if real:
        assert trained.worst_case[-1].accuracy > 0.6, "the curve of the trained one stays high"
        assert plain.clean.accuracy > 0.6
        assert plain.worst_case[-1].accuracy < 0.2, "and the plain one's falls"


def test_defense_of_your_own(real: bool, tmp_path: Path) -> None:
    after = ran("defense-of-your-own.ipynb", tmp_path)
    records = after["records"]
    naive, known = records["rounding, as it is"], records["rounding, known"]
    failed = {line.check for line in naive.audit if line.verdict == "fail"}
    assert "the margin loss has a gradient" in failed
    assert naive.worst_case[0].accuracy == pytest.approx(naive.clean.accuracy, abs=0.1)
    if real:
        assert known.worst_case[0].accuracy < 0.1 < records["trained on attacks"].worst_case[0].accuracy
        assert all(line.verdict != "fail" for line in known.audit)


def test_the_file_on_the_first_page(real: bool, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"<!-- own defense -->\n```python\n(.*?)```", text, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(compile(source, "own defense", "exec", dont_inherit=True), scope)
    clean, worst = map(float, capsys.readouterr().out.split())
    assert worst <= clean
    if real:
        assert (clean, worst) == tuple(float(one) for one in re.findall(r"`(0\.\d+) (0\.\d+)`", text)[0])


def test_the_code_of_the_readme(real: bool, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    scope: dict[str, Any] = {}
    for source in blocks:
        exec(compile(source, "README.md", "exec", dont_inherit=True), scope)
    clean, worst = map(float, capsys.readouterr().out.split())
    assert worst <= clean
    assert len(blocks) >= 2
    assert float((scope["adversarial"] - scope["images"]).abs().max()) == pytest.approx(8 / 255, abs=1e-6)
    if real:
        assert worst > 0.6


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda one: one.stem)
def test_outputs_are_kept_and_shown(path: Path) -> None:
    cells = [one for one in json.loads(path.read_text(encoding="utf-8"))["cells"] if one["cell_type"] == "code"]
    assert [one["execution_count"] for one in cells] == list(range(1, len(cells) + 1)), "run make notebooks"
    assert path.stat().st_size < 300_000
    page, pictures = script().notebook_page(path)
    assert len(pictures) == 2
    for name, content in pictures.items():
        assert f"]({name})" in page
        assert content.startswith(b"\x89PNG")
    assert all("".join(one["source"]) in page for one in cells)


def test_a_cell_puts_out_what_jupyter_would(tmp_path: Path) -> None:
    sources = [
        "x = 2\nprint(x)",
        "x + 1",
        "x + 1;",
        "class A:\n    def _repr_html_(self): return '<b>1</b>'\nA()",
        "",
    ]
    cells = [
        {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": [one]}
        for one in sources
    ]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells, "nbformat": 4}), encoding="utf-8")
    assert script().run(tmp_path / "a.ipynb")["x"] == 2
    page, pictures = script().notebook_page(tmp_path / "a.ipynb")
    assert re.findall(r"```text\n(.*?)\n```", page) == ["2", "3"]
    assert '<div class="output"><b>1</b></div>' in page
    assert not pictures


def test_a_cell_that_fails_is_named(tmp_path: Path) -> None:
    cell = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": ["1 / 0"]}
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": [cell], "nbformat": 4}), encoding="utf-8")
    with pytest.raises(ZeroDivisionError) as caught:
        script().run(tmp_path / "a.ipynb")
    assert "a.ipynb, cell 1" in str(caught.traceback[-1].path)
