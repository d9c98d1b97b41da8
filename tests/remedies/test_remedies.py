"""Every message that advises something: it is met, and what it advises is done and works."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from remedies.cases import Case
from remedies.exempt import EXEMPT
from remedies.inventory import Message, messages
from remedies.permissions import ordinary_user
from remedies.prelude import prelude

TABLES = [
    importlib.import_module(f"remedies.{path.stem}") for path in sorted(Path(__file__).parent.glob("table_*.py"))
]
CASES: tuple[Case, ...] = tuple(case for table in TABLES for case in table.CASES)
KNOWN = [*dict.fromkeys(about for case in CASES for about in case.about), *EXEMPT]
ROOMS: tuple[str, ...] = tuple(room for table in TABLES for room in table.ROOMS)


@pytest.fixture
def make_run(request: pytest.FixtureRequest):
    """Return what makes a finished tiny run, once for all tests and only if one asks for it."""
    return lambda: request.getfixturevalue("trained_run")


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
@pytest.mark.usefixtures("small_world")
def test_the_remedy_works(case: Case, make_run, idx_folder, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMDEF_DATA", str(idx_folder))
    monkeypatch.syspath_prepend(str(tmp_path))
    with ordinary_user():
        case.run(prelude(make_run))


def covers(file: str, says: str, message: Message) -> bool:
    return file == message.file and " ".join(says.split()) in " ".join(message.text.split())


def test_every_message_that_advises_something_has_a_case() -> None:
    missing = [
        str(message)
        for message in messages()
        if message.advises and message.file.startswith(ROOMS) and not any(covers(*one, message) for one in KNOWN)
    ]
    assert not missing, f"{len(missing)} messages without a case:\n" + "\n".join(missing)


@pytest.mark.parametrize("known", KNOWN, ids=" ".join)
def test_every_case_is_about_one_message_of_the_source(known: tuple[str, str]) -> None:
    assert len({message.text for message in messages() if covers(*known, message)}) == 1


def test_a_case_whose_remedy_fails_is_caught(make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    broken = Case("losses.py", "DLR", "raise ValueError('DLR is 1; use 2')", "assert «use (\\d)» == 3")
    with pytest.raises(AssertionError):
        broken.run(prelude(make_run))
