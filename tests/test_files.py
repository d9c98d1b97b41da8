"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

from memory_defense.files import LockedError, WriteError, atomic, locked, write_bytes, write_text


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


def hold(target: Path, script: str = "sys.stdin.read()") -> subprocess.Popen[str]:
    """Start another process that holds the lock of `target` and then runs `script`."""
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom memory_defense.files import locked\n"
        f"with locked(Path({str(target)!r})):\n    print('held', flush=True)\n    {script}\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_second_writer_is_told_who_is_there(tmp_path: Path) -> None:
    target = tmp_path / "manifest.json"
    write_text(target, "whole")
    with hold(target) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        host = re.escape(socket.gethostname())
        told = rf"the run x is being written by process {other.pid} on {host} since \d{{4}}-"
        with pytest.raises(LockedError, match=told + ".*or write to another place"), locked(target, "the run x"):
            pass
        assert target.read_text() == "whole", "readers need no lock"
        other.communicate("")
    with locked(target):
        assert names(tmp_path) == [".manifest.json.lock", "manifest.json"]
    assert names(tmp_path) == ["manifest.json"]


def test_the_lock_of_a_killed_writer_is_free_at_once(tmp_path: Path) -> None:
    target = tmp_path / "manifest.json"
    with hold(target) as other:
        assert other.stdout is not None
        other.stdout.readline()
        other.kill()
        other.wait()
    assert names(tmp_path) == [".manifest.json.lock"]
    with locked(target):
        pass
    assert names(tmp_path) == []


def test_a_lock_is_not_taken_twice_in_one_process_and_freed_after_an_error(tmp_path: Path) -> None:
    target = tmp_path / "record.json"
    with locked(target), pytest.raises(LockedError, match="which is this one"), locked(target):
        pass
    with pytest.raises(KeyError), locked(target):
        raise KeyError
    with locked(target):
        pass


def test_only_one_of_many_that_come_and_go_holds_it_at_a_time(tmp_path: Path) -> None:
    target, inside = tmp_path / "x", tmp_path / "inside"
    busy, entered = threading.Event(), 0

    def come_and_go() -> None:
        nonlocal entered
        for _ in range(200):
            try:
                with locked(target):
                    handle = os.open(inside, os.O_CREAT | os.O_EXCL)  # fails if somebody else is in here
                    os.close(handle)
                    inside.unlink()
                    entered += 1
            except LockedError:
                continue
            except FileExistsError:
                busy.set()

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not busy.is_set()
    assert entered > 0
    assert names(tmp_path) == []


def test_a_file_system_without_locks_is_written_to_all_the_same(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with locked(tmp_path / "x"):
        write_text(tmp_path / "x", "text")
    assert names(tmp_path) == ["x"]


def test_windows_locks_a_byte_far_behind_the_text(tmp_path: Path, monkeypatch) -> None:
    taken: list[tuple[int, int]] = []

    def locking(handle: int, mode: int, count: int) -> None:
        if taken:
            raise OSError(errno.EACCES, "Permission denied")
        taken.append((os.lseek(handle, 0, os.SEEK_CUR), count))

    monkeypatch.setattr("memory_defense.files.fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(locking=locking, LK_NBLCK=2))
    with locked(tmp_path / "x"), pytest.raises(LockedError, match="process"), locked(tmp_path / "x"):
        pass
    assert taken == [(1 << 30, 1)]
    write_text(tmp_path / "x", "text")
    assert names(tmp_path) == ["x"]


def test_what_a_killed_writer_left_is_swept_away_and_a_living_ones_is_not(tmp_path: Path) -> None:
    target = tmp_path / "record.json"
    dead = tmp_path / ".record.json.abc.part"
    dead.write_text("half")
    with atomic(target) as mine:
        assert not dead.exists()
        write_text(target, "a second writer's")
        assert mine.exists(), "its owner lives"
        mine.write_text("the first one's")
    assert target.read_text() == "the first one's"
    assert names(tmp_path) == ["record.json"]


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "is full"),
        (errno.EDQUOT, "is full"),
        (errno.EROFS, "may write to"),
        (errno.EIO, "choose another place"),
    ],
)
def test_whatever_the_system_refuses_the_old_file_stays(tmp_path, monkeypatch, call, number, said) -> None:
    target = tmp_path / "record.json"
    write_text(target, "old")

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr(os, call, refuse)
        with pytest.raises(WriteError, match=rf"record\.json could not be written: .*{said}") as refused:
            write_text(target, "new")
    assert refused.value.errno == number
    assert target.read_text() == "old"
    assert names(tmp_path) == ["record.json"]


def test_a_long_text_is_written_whole_in_pieces(tmp_path: Path, monkeypatch) -> None:
    true_write = os.write
    monkeypatch.setattr(os, "write", lambda handle, content: true_write(handle, bytes(content)[:7]))
    write_bytes(tmp_path / "x", bytes(range(256)) * 3)
    assert (tmp_path / "x").read_bytes() == bytes(range(256)) * 3


def test_a_limit_that_the_system_itself_sets(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    target = tmp_path / "weights"
    write_text(target, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # Python ignores the signal that comes with it
    try:
        with pytest.raises(WriteError, match="is full") as refused:
            write_bytes(target, bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refused.value.errno == errno.EFBIG
    assert target.read_text() == "old"
    assert names(tmp_path) == ["weights"]
