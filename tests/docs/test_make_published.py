"""Published numbers are taken from a clone as they stand there, and other sources' are kept."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "make_published.py"
TOLD = {
    "link": "https://example.org/paper",
    "architecture": "Net",
    "additional_data": True,
    "venue": "A,<br>2020",
    "eps": "8/255",
    "clean_acc": "80.50",
    "autoattack_acc": "50.00",
    "external": "49.90",
}


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_clones_numbers_replace_its_own_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.spec_from_file_location("make_published", SCRIPT)
    assert found is not None
    assert found.loader is not None
    made = importlib.util.module_from_spec(found)
    found.loader.exec_module(made)
    clone, page = tmp_path / "clone", tmp_path / "published.json"
    model = clone / "model_info/cifar10/Linf/One.json"
    model.parent.mkdir(parents=True)
    model.write_text(json.dumps(TOLD))
    git = ("git", "-C", str(clone), "-c", "user.name=a", "-c", "user.email=a@example.org")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "one")):
        subprocess.run([*git, *words], check=True)
    other = {"source": "https://example.org/other", "robust": 0.1}
    stale = {"source": f"{made.REPOSITORY}/blob/before/x.json"}
    page.write_text(json.dumps({"schema": 1, "entries": [stale, other]}))
    monkeypatch.setattr(made, "PAGE", page)
    monkeypatch.setattr(made, "CHOSEN", {"cifar10/Linf": "One"})
    made.main(clone)
    one, kept = json.loads(page.read_text())["entries"]
    assert kept == other
    assert (one["clean"], one["robust"], one["by"]) == (0.805, 0.499, "AutoAttack and others")
    assert (one["norm"], one["epsilon"], one["venue"]) == ("linf", 8 / 255, "A, 2020")
    assert one["source"].endswith("/model_info/cifar10/Linf/One.json")
