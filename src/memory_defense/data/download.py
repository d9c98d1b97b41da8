"""The addresses the datasets' makers publish, with the hashes of the files there."""

from __future__ import annotations

import tempfile
import threading
import urllib.request
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

import pooch

from memory_defense.contracts import Progress
from memory_defense.data.decode import Arrays
from memory_defense.data.layouts import AbsentDataError, read_directory
from memory_defense.data.spec import DatasetSpec

_FASHION_MNIST = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"

OFFICIAL: dict[str, dict[str, str]] = {
    "fashion-mnist": {
        _FASHION_MNIST + "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        _FASHION_MNIST + "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
        _FASHION_MNIST + "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
        _FASHION_MNIST + "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
    },
    "cifar10": {
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz": "md5:c32a1d4ab5d03f1284b67883e8d87530",
    },
}
"""Published checksum by address; what counts in the end is the hash of the decoded arrays."""

_CONNECT_SECONDS = 4.0
_READ_SECONDS = 20.0


def download(spec: DatasetSpec, progress: Progress | None) -> Arrays:
    """Return the dataset from where its makers publish it.

    Raises
    ------
    AbsentDataError
        If the address cannot be reached (within seconds) or serves something else.
    DamagedDataError
        When what it serves is not the dataset.
    """
    addresses = OFFICIAL[spec.name]
    _check_reachable(next(iter(addresses)))
    pooch.get_logger().setLevel("WARNING")
    with tempfile.TemporaryDirectory(prefix="memory-defense-") as folder:
        for address, checksum in addresses.items():
            name = address.rsplit("/", 1)[1]
            downloader = pooch.HTTPDownloader(
                progressbar=_Bytes(name, progress) if progress else False,  # pyright: ignore[reportArgumentType]
                chunk_size=1 << 16,
                timeout=(_CONNECT_SECONDS, _READ_SECONDS),
            )
            try:
                pooch.retrieve(
                    address,
                    checksum,
                    fname=name,
                    path=folder,
                    downloader=downloader,  # pyright: ignore[reportArgumentType]
                )
            except (OSError, ValueError) as error:
                raise AbsentDataError(f"{address} could not be downloaded: {error}") from error
        return read_directory(Path(folder), spec)


def _check_reachable(address: str) -> None:
    """Raise AbsentDataError unless the host answers soon, however many of its addresses hang."""
    outcome: list[str] = []

    def ask() -> None:
        request = urllib.request.Request(address, method="HEAD")
        said = ""
        try:
            urllib.request.urlopen(request, timeout=_CONNECT_SECONDS).close()
        except HTTPError:
            pass  # an answer, too
        except OSError as error:
            said = str(getattr(error, "reason", error))
        outcome.append(said)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_CONNECT_SECONDS)
    reason = outcome[0] if outcome else f"no answer in {_CONNECT_SECONDS:g} seconds"
    if reason:
        raise AbsentDataError(
            f"{urlsplit(address).hostname} cannot be reached ({reason}); go online, "
            f"or fetch {address} on another computer"
        )


class _Bytes:
    """Passes on what pooch says about a download."""

    total = 0
    """Set by pooch, bytes."""

    def __init__(self, name: str, progress: Progress) -> None:
        self.name, self.progress, self.done = name, progress, 0

    def update(self, count: int) -> None:
        """Count bytes; pooch counts whole chunks, the last one too."""
        if self.done == 0:
            self.progress.begin(f"downloading {self.name}", max(self.total, 1))
        step = min(count, max(self.total, 1) - self.done)
        if step > 0:
            self.progress.advance(step)
            self.done += step

    def reset(self) -> None:
        """Do nothing: pooch goes back only to fill the bar."""

    def close(self) -> None:
        """Do nothing: there is nothing to close."""
