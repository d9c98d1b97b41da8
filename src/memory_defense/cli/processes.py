"""Several processes of one command on this machine: started, heard, and stopped together."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import IO

from memory_defense.cli.stopping import PARENT, wish

_POLL_SECONDS = 0.1
_SAME_FATE_SECONDS = 5.0
"""Time for the others to fail as well where one has."""
_PATIENCE_SECONDS = 60.0
"""Time for processes to save and end once they were told; one that is killed after it loses little."""


def run_together(processes: int, *, threads: int) -> int:
    """Run this command line again in several processes, as torchrun does, and return their exit status.

    Only the first one writes to this process's standard error. What the others wrote is shown where the first did
    not fail and one of them did. A signal to this process, its end, and the failure of one end all of them.

    Parameters
    ----------
    processes
        How many.
    threads
        Processor threads of each.
    """
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # any free port, which stays taken
    common = {
        "OMP_NUM_THREADS": str(threads),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        PARENT: str(os.getpid()),
    }
    command = [sys.executable, "-m", "memory_defense", *sys.argv[1:]]
    with ExitStack() as files:
        said = [files.enter_context(tempfile.TemporaryFile()) for _ in range(processes - 1)]
        running: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(processes):
                own = common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                running.append(
                    subprocess.Popen(
                        command,
                        env=os.environ | own,
                        stdout=None if rank == 0 else subprocess.DEVNULL,
                        stderr=None if rank == 0 else said[rank - 1],
                    )
                )
            wish.children[:] = running
            failed = _first_failure(running)
            if failed is not None:
                _await_all(running, _SAME_FATE_SECONDS)
                if running[0].poll() not in (None, 0):
                    failed = 0  # it has said why itself
        finally:
            _stop(running)
            wish.children.clear()
        if failed is None:
            return 0
        if failed > 0:
            _repeat(said[failed - 1], failed)
        return _status(running[failed])


def _first_failure(running: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait for all of them; return the rank of the first that failed, at once, or None."""
    while True:
        ended = [one.poll() for one in running]
        failed = [rank for rank, status in enumerate(ended) if status]
        if failed:
            return failed[0]
        if None not in ended:
            return None
        time.sleep(_POLL_SECONDS)


def _await_all(running: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Wait until all have ended, or so long: what fails one often fails every one, and each tells the others."""
    patience = time.monotonic() + seconds
    while any(one.poll() is None for one in running) and time.monotonic() < patience:
        time.sleep(_POLL_SECONDS)


def _stop(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """Tell those that still run to stop, and wait; kill what does not hear."""
    for one in running:
        if one.poll() is None:
            with suppress(OSError):
                one.terminate()
    patience = time.monotonic() + _PATIENCE_SECONDS
    for one in running:
        try:
            one.wait(max(patience - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            one.kill()
            one.wait()


def _status(ended: subprocess.Popen[bytes]) -> int:
    """Return the exit status as a shell says it."""
    return ended.returncode if ended.returncode >= 0 else 128 - ended.returncode


def _repeat(said: IO[bytes], rank: int) -> None:
    said.seek(0)
    text = said.read().decode(errors="replace").strip()
    sys.stderr.write(f"process {rank} ended first" + (f":\n{text}\n" if text else " without a word\n"))
