"""What a model does outside of Python's memory while it answers: files, connections, programs."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from memory_defense.wrappers.untouched import reached

_WRITING = ("w", "a", "x", "+")
_OUTSIDE = ("socket.connect", "socket.sendto", "sqlite3.connect", "subprocess.Popen", "os.system", "os.remove",
            "os.rename", "os.mkdir", "shutil.move", "os.truncate", "os.putenv", "dbm.open")  # fmt: skip
_CONNECTED = frozenset({"sqlite3", "socket", "_socket", "mmap", "dbm", "_gdbm", "_dbm", "shelve"})
_CODE = (".py", ".pyc", ".so", ".json.gz")
_SYSTEM = ("/dev/", "/proc/", "/sys/")


_events: list[list[str]] = []
_reading: list[bool] = []
_hooked: list[bool] = []


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if not _events:
        return
    if event == "open":
        path, mode = arguments[0], str(arguments[1] or "")
        flags = arguments[2] if len(arguments) > 2 and isinstance(arguments[2], int) else 0
        writes = any(one in mode for one in _WRITING) or bool(flags & 0o103)
        if writes or (_reading[-1] and not _of_the_system(path)):
            _events[-1].append(f"open {path}")
    elif event in _OUTSIDE:
        _events[-1].append(event)


@contextmanager
def watched_outside(*, reading: bool = False) -> Generator[list[str]]:
    """Run a block and list every file that it writes, every connection and every program that it starts.

    Parameters
    ----------
    reading
        Whether files that are read count as well; those of Python and of the system never do.
    """
    if not _hooked:
        sys.addaudithook(_heard)  # it cannot be taken away, and hears nothing outside of such a block
        _hooked.append(True)
    _events.append([])
    _reading.append(reading)
    try:
        yield _events[-1]
    finally:
        _events.pop()
        _reading.pop()


def held_open(model: object) -> list[str]:
    """Return the connections, databases and files open for writing that calling the model can reach."""
    found: list[str] = []
    for thing in reached(model):
        root = type(thing).__module__.partition(".")[0]
        writable = cast("Any", getattr(thing, "writable", None))
        if root in _CONNECTED or (root == "_io" and hasattr(thing, "fileno") and callable(writable) and writable()):
            found.append(f"an open {type(thing).__name__}")
    return found


def _of_the_system(path: object) -> bool:
    return isinstance(path, int) or str(path).endswith(_CODE) or str(path).startswith(_SYSTEM)
