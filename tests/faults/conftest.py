"""A made-up Fashion-MNIST, and a run trained on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.helpers_faults import made_up, memdef, write_files
from memory_defense.data.spec import DATASETS


@pytest.fixture(scope="session")
def idx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the made-up dataset's files."""
    return write_files(tmp_path_factory.mktemp("idx"), made_up()[1])


@pytest.fixture
def small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the made-up dataset go by the name of Fashion-MNIST."""
    monkeypatch.setitem(DATASETS, "fashion-mnist", made_up()[0])
    monkeypatch.delenv("MEMDEF_DATA", raising=False)


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory, idx_folder: Path) -> Path:
    """Return a finished run; tests that change it take a copy."""
    out = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "fashion-mnist", made_up()[0])
        said = memdef("train", "fashion-mnist/tiny", "--out", out, "--data-dir", idx_folder, "--train-images", 100)
    assert said.status == 0, said
    return out
