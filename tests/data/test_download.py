from __future__ import annotations

import functools
import hashlib
import http.server
import socket
import threading

import pytest

from memory_defense.data import download
from memory_defense.data.layouts import AbsentDataError


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Return a function that serves files on this machine as a dataset's published ones."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(_Silent, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def publish(name, files, checksums=None):
        addresses = {}
        for file, content in files.items():
            (tmp_path / file).write_bytes(content)
            checksum = (checksums or {}).get(file, "md5:" + hashlib.md5(content).hexdigest())
            addresses[f"http://127.0.0.1:{server.server_port}/{file}"] = checksum
        monkeypatch.setitem(download.OFFICIAL, name, addresses)

    yield publish
    server.shutdown()
    server.server_close()


def test_published_files_are_fetched_and_counted(serve, grey, heard):
    files = grey.idx(".gz")
    serve("fashion-mnist", files)
    assert grey.same(download.download(grey.spec, heard))
    assert heard.stages == [[f"downloading {name}", len(content), len(content)] for name, content in files.items()]


def test_published_archive_is_fetched_without_progress(serve, colour, tar, tmp_path):
    members = {f"cifar-10-batches-bin/{name}": content for name, content in colour.records().items()}
    archive = tar(tmp_path / "made.tar.gz", members).read_bytes()
    serve("cifar10", {"cifar-10-binary.tar.gz": archive})
    assert colour.same(download.download(colour.spec, None))


def test_wrong_checksum_is_refused(serve, grey):
    files = grey.idx(".gz")
    serve("fashion-mnist", files, {"t10k-labels-idx1-ubyte.gz": "md5:" + "0" * 32})
    with pytest.raises(AbsentDataError, match=r"t10k-labels-idx1-ubyte\.gz could not be downloaded.*hash"):
        download.download(grey.spec, None)


def test_missing_page_is_refused(serve, grey, tmp_path):
    serve("fashion-mnist", grey.idx(".gz"))
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(AbsentDataError, match="404"):
        download.download(grey.spec, None)


def test_refused_connection_is_told_with_a_remedy(monkeypatch, grey):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setitem(download.OFFICIAL, "fashion-mnist", {f"http://127.0.0.1:{port}/x.gz": "md5:0"})
    with pytest.raises(AbsentDataError, match=r"127\.0\.0\.1 cannot be reached .*refused.*go online, or fetch"):
        download.download(grey.spec, None)


def test_silent_host_is_given_up_soon(monkeypatch, grey):
    monkeypatch.setattr(download, "_CONNECT_SECONDS", 0.2)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        address = f"http://127.0.0.1:{mute.getsockname()[1]}/x.gz"
        monkeypatch.setitem(download.OFFICIAL, "fashion-mnist", {address: "md5:0"})
        with pytest.raises(AbsentDataError, match=r"cannot be reached \((timed out|no answer in 0.2 seconds)\)"):
            download.download(grey.spec, None)
