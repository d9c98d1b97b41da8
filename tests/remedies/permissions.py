"""An ordinary user's view of the file system, also where the tests run as root."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Generator
from contextlib import contextmanager

_VERSION = 0x20080522
_OVERRIDES = 0b110
"""The two capabilities by which root reads and writes whatever the permissions say."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("process", ctypes.c_int))


class _Set(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def ordinary_user() -> Generator[None]:
    """Run a block in which this thread is bound by permissions; nothing changes for users who are anyway."""
    if os.name != "posix" or os.geteuid() != 0:
        yield
        return
    library, header, sets = ctypes.CDLL(None), _Header(_VERSION, 0), (_Set * 2)()
    library.capget(ctypes.byref(header), sets)
    before = sets[0].effective
    sets[0].effective = before & ~_OVERRIDES
    assert library.capset(ctypes.byref(header), sets) == 0
    try:
        yield
    finally:
        sets[0].effective = before
        assert library.capset(ctypes.byref(header), sets) == 0
