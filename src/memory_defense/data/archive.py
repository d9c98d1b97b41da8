"""Reading files out of tar archives, into memory and never to disk."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from memory_defense.data.decode import GZIP_MAGIC, REMEDY, DamagedDataError

_MOST_MEMBERS = 1000
_SLACK = 1 << 20


class _Capped(io.BufferedIOBase):
    """A stream that gives at most so many bytes, even if an archive's headers claim more."""

    def __init__(self, stream: io.BufferedIOBase, limit: int, path: Path) -> None:
        self.stream, self.left, self.path = stream, limit, path

    def read(self, size: int | None = -1, /) -> bytes:
        content = self.stream.read(size)
        self.left -= len(content)
        if self.left < 0:
            raise DamagedDataError(f"{self.path} unpacks to far more than the dataset; {REMEDY}")
        return content


def read_tar(path: Path, wanted: Mapping[str, int]) -> dict[str, bytes]:
    """Return the wanted files of a tar archive, gzip-compressed or not, by their names without folders.

    Parameters
    ----------
    path
        The archive.
    wanted
        Largest number of bytes of each file by its name. The other members may have as many bytes as all of
        these together.

    Raises
    ------
    DamagedDataError
        For an archive that cannot be read, for members that are links or devices or lie outside of it
        (``/x``, ``../x``), for too many or too large ones and for two wanted ones of the same name.
    """
    found: dict[str, bytes] = {}
    others = sum(wanted.values())
    try:
        with (
            _opened(path) as stream,
            tarfile.open(fileobj=_Capped(stream, 2 * others + _SLACK, path), mode="r|") as archive,
        ):
            for count, member in enumerate(archive):
                _check(path, member, count)
                if member.isdir():
                    continue
                name = PurePosixPath(member.name).name
                limit = wanted.get(name, others)
                if member.size > limit:
                    raise DamagedDataError(
                        f"{path}: {member.name} has {member.size} bytes, at most {limit} are allowed; {REMEDY}"
                    )
                if name not in wanted:
                    others -= member.size
                    continue
                if name in found:
                    raise DamagedDataError(f"{path} holds {name} twice; {REMEDY}")
                content = archive.extractfile(member)
                assert content is not None
                found[name] = content.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DamagedDataError(f"{path} is damaged ({error}); {REMEDY}") from error
    return found


def _opened(path: Path) -> io.BufferedIOBase:
    with path.open("rb") as start:
        packed = start.read(2) == GZIP_MAGIC
    return gzip.open(path) if packed else path.open("rb")


def _check(path: Path, member: tarfile.TarInfo, count: int) -> None:
    if count >= _MOST_MEMBERS:
        raise DamagedDataError(f"{path} has more than {_MOST_MEMBERS} members; {REMEDY}")
    if not (member.isreg() or member.isdir()):
        raise DamagedDataError(f"{path}: {member.name} is neither a file nor a folder; {REMEDY}")
    parts = PurePosixPath(member.name)
    if parts.is_absolute() or ".." in parts.parts:
        raise DamagedDataError(f"{path}: {member.name} lies outside of the archive; {REMEDY}")
