from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc

import pytest

from memory_defense.data.archive import read_tar
from memory_defense.data.decode import DamagedDataError

WANTED = {"a.bin": 100, "b.bin": 100}


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tgz"])
def test_wanted_files_are_read_and_others_left(tmp_path, tar, name):
    members = {"folder/b.bin": b"bbb", "folder/readme": b"hello", "a.bin": b"aa"}
    assert read_tar(tar(tmp_path / name, members), WANTED) == {"a.bin": b"aa", "b.bin": b"bbb"}


def _special(kind: bytes, name: str = "a.bin") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, tar, kind):
    with pytest.raises(DamagedDataError, match="neither a file nor a folder"):
        read_tar(tar(tmp_path / "x.tar.gz", {"a.bin": _special(kind)}), WANTED)


@pytest.mark.parametrize("name", ["../../a.bin", "/tmp/a.bin", "x/../../a.bin"])
def test_paths_that_leave_the_archive_are_refused(tmp_path, tar, name):
    with pytest.raises(DamagedDataError, match="lies outside"):
        read_tar(tar(tmp_path / "x.tar", {name: b"a"}), WANTED)


def test_folders_are_fine(tmp_path, tar):
    members = {"d": _special(tarfile.DIRTYPE, "d"), "d/a.bin": b"a"}
    assert read_tar(tar(tmp_path / "x.tar", members), WANTED) == {"a.bin": b"a"}


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"a.bin": bytes(101)}, "101 bytes, at most 100"),
        ({"other": bytes(201)}, "201 bytes, at most 200"),
        ({"one": bytes(150), "two": bytes(51)}, "51 bytes, at most 50"),
        ({"x/a.bin": b"1", "y/a.bin": b"2"}, "twice"),
        ({str(n): b"" for n in range(1001)}, "more than 1000"),
    ],
)
def test_limits(tmp_path, tar, members, said):
    with pytest.raises(DamagedDataError, match=said):
        read_tar(tar(tmp_path / "x.tar.gz", members), WANTED)


def test_truncated_archive_names_file_and_remedy(tmp_path, tar):
    path = tar(tmp_path / "x.tar.gz", {"a.bin": bytes(range(100)), "b.bin": b"b"})
    content = path.read_bytes()
    for kept in (5, 40, len(content) // 2):
        path.write_bytes(content[:kept])
        with pytest.raises(DamagedDataError, match=r"x\.tar\.gz is damaged.*fetch it again"):
            read_tar(path, WANTED)


@pytest.mark.parametrize("content", [b"<html>not here</html>" * 100, b"", gzip.compress(b"x" * 2000, mtime=0)])
def test_what_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(content)
    with pytest.raises(DamagedDataError, match=r"x\.tar\.gz"):
        read_tar(path, WANTED)


def test_header_that_claims_gigabytes_does_not_fill_memory(tmp_path):
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 8 << 30
    stream = io.BytesIO()
    with gzip.open(stream, "w") as packed:
        packed.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(16):
            packed.write(bytes(4 << 20))
    path = tmp_path / "x.tar.gz"
    path.write_bytes(stream.getvalue())
    tracemalloc.start()
    try:
        with pytest.raises(DamagedDataError, match="unpacks to far more"):
            read_tar(path, WANTED)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
