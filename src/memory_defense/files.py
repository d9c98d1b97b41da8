"""Files that are either whole or absent, and one writer at a time.

Every write goes to a sibling file first, is forced to the disk and then renamed. Writers hold a lock that the
operating system frees when they end, however they end; readers need none.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_PART = ".part"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What a file system answers that cannot lock; writers then go on without."""
_CHUNK = 1 << 24
_FAR = 1 << 30
"""Position of the byte that Windows locks, so that the text before it can be read."""


class WriteError(OSError):
    """A file could not be written; what was there before is whole, and nothing half-written is left."""


class LockedError(ValueError):
    """Another process, or another part of this one, is writing there."""


@contextmanager
def atomic(path: Path) -> Generator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` if the block succeeds and vanishes if not.

    What a killed writer of the same file left behind is swept away first.

    Raises
    ------
    WriteError
        If the disk is full, the place may not be written to, or anything else the system refuses; the old file
        is then untouched.
    """
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        handle, temporary = _claimed(path)
        try:
            yield temporary
            _to_disk(temporary)
            temporary.chmod(0o644)
            if fcntl is None:  # Windows renames no open file
                handle = _closed(handle)
            temporary.replace(path)
            _to_disk_directory(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
            _closed(handle)


def write_bytes(path: Path, *pieces: bytes | memoryview) -> None:
    """Write bytes, piece after piece, atomically; raise what `atomic` raises."""
    with atomic(path) as temporary, temporary.open("wb", buffering=0) as stream:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[os.write(stream.fileno(), view[:_CHUNK]) :]


def append_bytes(path: Path, handle: int, start: int, *pieces: bytes | memoryview) -> int:
    """Write bytes at the end of an open file, which has `start` bytes; return how many it has then.

    What was written in part is cut off again where the system refuses; a kill may leave it, for `path`'s reader to
    tell. Raises `WriteError`.
    """
    end = start
    with _explained(path):
        try:
            os.lseek(handle, start, os.SEEK_SET)
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    written = os.write(handle, view[:_CHUNK])
                    view, end = view[written:], end + written
        except BaseException:
            with suppress(OSError):
                os.ftruncate(handle, start)
            raise
    return end


def force_to_disk(path: Path, handle: int) -> None:
    """Return once what was written to an open file is on the disk; raise WriteError where it is not."""
    with _explained(path):
        os.fsync(handle)


def opened(path: Path) -> int:
    """Return a file opened for reading and writing, which is made where it is not there; raise WriteError."""
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; raise what `atomic` raises."""
    write_bytes(path, text.encode())


def check_tensor_file(path: Path) -> None:
    """Raise ValueError unless a file is there, whatever is in it; `tensorfiles` reads it."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the path of a .safetensors file")
    if not path.is_file():
        raise ValueError(f"{path} does not exist; make it first, or give the path of a .safetensors file")


def is_pickle(path: Path) -> bool:
    """Return whether a file is a pickle by its content, bare or as torch packs one, whatever its name.

    Raises ValueError where it cannot be read.
    """
    try:
        with path.open("rb") as source:
            start = source.read(9)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); make it readable with chmod u+r") from error
    # A safetensors header 128 bytes longer than a multiple of 256 also begins with 0x80; its text follows at the
    # ninth byte.
    return start.startswith((b"\x80", b"PK\x03\x04")) and start[8:] != b"{"


def pickle_refused(path: Path, then: str = "") -> ValueError:
    """Return the error for a pickle: why it is not loaded, and the command that converts it."""
    return ValueError(
        f"{path} is a pickle, whatever its name, and pickles can run code: it is not loaded; convert it once, its "
        f"weights alone, with: memdef convert {path} {path.stem}.safetensors{then}"
    )


def remove(path: Path) -> None:
    """Remove a file, if it is there; raise WriteError where that is forbidden."""
    with _explained(path):
        path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, what: str | None = None) -> Generator[None]:
    """Be the only writer of `path`, and of whatever goes with it, while the block runs.

    The lock is a hidden file beside `path`. The system frees it with the process, so a killed one leaves none.

    Parameters
    ----------
    path
        The file that is to be written.
    what
        Name in messages; the path by default.

    Raises
    ------
    LockedError
        At once, when another writer is there; the text says which, where and since when.
    WriteError
        If the place may not be written to.
    """
    lock = path.with_name(f".{path.name}.lock")
    with _explained(path):
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = _take(lock)
        if handle is None:
            raise LockedError(f"{what or path} is being written by {_holder(lock)}; {_WAIT}")
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        try:
            os.ftruncate(handle, 0)
            os.write(handle, json.dumps(owner).encode())
        except OSError:
            _free(lock, handle)
            raise
    try:
        yield
    finally:
        _free(lock, handle)


_WAIT = "wait until it is done, stop it and give the same command again, or write to another place (out)"


def _take(lock: Path) -> int | None:
    """Return an open, locked file, or None where somebody else has it."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        if not _try_lock(handle):
            os.close(handle)
            return None
        if _is_at(handle, lock):
            return handle
        os.close(handle)  # its owner removed the file between the two calls


def _free(lock: Path, handle: int) -> None:
    """Remove the file, then unlock it: whoever opened it meanwhile sees that it is gone."""
    if fcntl is None:
        os.close(handle)
        handle = -1
    with suppress(OSError):
        if handle < 0 or _is_at(handle, lock):
            lock.unlink()
    _closed(handle)


def _holder(lock: Path) -> str:
    try:
        with lock.open("rb") as source:
            owner = json.loads(source.read(1000))
        said = f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # it has not said yet who it is
    mine = (owner["pid"], owner["host"]) == (os.getpid(), socket.gethostname())
    return f"{said}, which is this one" if mine else said


def _try_lock(handle: int) -> bool:
    """Lock an open file unless somebody else has; a file system without locks counts as locked."""
    if fcntl is None:
        return _try_lock_windows(handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _NO_LOCKS
    return True


def _try_lock_windows(handle: int) -> bool:
    import msvcrt

    os.lseek(handle, _FAR, os.SEEK_SET)
    try:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    except OSError:
        return False
    finally:
        os.lseek(handle, 0, os.SEEK_SET)
    return True


def _claimed(path: Path) -> tuple[int, Path]:
    """Return a new temporary file beside `path`, open and locked, so that `_sweep` knows it is in use."""
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_PART, dir=path.parent)
        if fcntl is None or (_try_lock(handle) and _is_at(handle, Path(name))):
            return handle, Path(name)
        os.close(handle)  # swept away between the two calls


def _sweep(path: Path) -> None:
    """Remove the temporary files of `path` whose writers are dead."""
    if fcntl is None:
        return
    start = f".{path.name}."
    for entry in path.parent.iterdir():
        if not (entry.name.startswith(start) and entry.name.endswith(_PART)):
            continue
        with suppress(OSError):
            handle = os.open(entry, os.O_RDWR)
            try:
                if _try_lock(handle):
                    entry.unlink()
            finally:
                os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _closed(handle: int) -> int:
    if handle >= 0:
        os.close(handle)
    return -1


def _to_disk(path: Path) -> None:
    with path.open("r+b") as written:
        os.fsync(written.fileno())


def _to_disk_directory(folder: Path) -> None:
    """Force a rename to the disk, where the system can do that for a folder."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
            raise
    finally:
        os.close(handle)


@contextmanager
def _explained(path: Path) -> Generator[None]:
    """Turn what the system refuses into one error that says what is kept and how to go on."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        why, remedy = f"{error.strerror or error}", "choose another place (out)"
        if error.errno in _FULL:
            why, remedy = f"the disk, or your share of it, is full ({error.strerror})", "free some space"
        elif error.errno in _FORBIDDEN:
            remedy = "choose a place that you may write to (out)"
        explained = WriteError(
            f"{path} could not be written: {why}. Nothing half-written is left and what was finished before is "
            f"kept: {remedy}, then give the same command again (train: with --resume)"
        )
        explained.errno = error.errno
        raise explained from error
