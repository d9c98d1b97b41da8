"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from memory_defense.files import atomic, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "er" / "text", "café\n")
    assert (tmp_path / "deep" / "er" / "text").read_bytes() == b"caf\xc3\xa9\n"
    assert names(tmp_path) == ["deep"]


def test_a_failure_keeps_the_old_file_and_leaves_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "record.json"
    write_text(target, "old")

    def fail() -> None:
        with atomic(target) as temporary:
            temporary.write_text("half of the ne")
            assert target.read_text() == "old"
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["record.json"]


def test_the_target_is_replaced_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "record.json"
    with atomic(target) as temporary:
        assert temporary.parent == target.parent, "a rename is atomic within one file system only"
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o644
