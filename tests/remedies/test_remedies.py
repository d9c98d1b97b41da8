"""Every message that advises something: it is met, and what it advises is done and works."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from remedies.cases import Case
from remedies.inventory import meant, messages
from remedies.permissions import ordinary_user
from remedies.prelude import prelude
from remedies.tables import CASES, KNOWN, ROOMS


@pytest.fixture
def names(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Return the names that cases know; runs are made once for all tests, and only if one asks for them."""
    made = prelude(lambda: request.getfixturevalue("trained_run"), lambda: request.getfixturevalue("hardened_run"))
    return made | {"patch": monkeypatch}


@contextmanager
def modules_restored(folder: Path) -> Generator[None]:
    """Run a block; modules that it hid are back afterwards, and those of this folder are forgotten."""
    before = dict(sys.modules)
    try:
        yield
    finally:
        sys.modules.update({name: one for name, one in before.items() if sys.modules.get(name) is None})
        for name, one in list(sys.modules.items()):
            if str(getattr(one, "__file__", "")).startswith(str(folder)):
                del sys.modules[name]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
@pytest.mark.usefixtures("small_world")
def test_the_remedy_works(case: Case, names, idx_folder, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMDEF_DATA", str(idx_folder))
    monkeypatch.syspath_prepend(str(tmp_path))
    with ordinary_user(), modules_restored(tmp_path):
        case.run(names)
    assert Path.cwd() == tmp_path or tmp_path in Path.cwd().parents, "a case has left its folder"


def test_every_message_that_advises_something_has_a_case() -> None:
    known = {(file, text) for file, says in KNOWN for text in meant(file, says)}
    missing = [
        str(message)
        for message in messages()
        if message.advises and message.file.startswith(ROOMS) and (message.file, message.text) not in known
    ]
    assert not missing, f"{len(missing)} messages without a case:\n" + "\n".join(missing)


@pytest.mark.parametrize("known", KNOWN, ids=" ".join)
def test_every_case_is_about_one_message_of_the_source(known: tuple[str, str]) -> None:
    assert len(meant(*known)) == 1


def test_a_case_whose_remedy_fails_is_caught(names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    broken = Case("losses.py", "DLR", "raise ValueError('DLR is 1; use 2')", "assert «use (\\d)» == 3")
    with pytest.raises(AssertionError):
        broken.run(names)
