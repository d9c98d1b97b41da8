"""A program for the kill test: runs a command many times, kills it at chosen moments, and goes on each time.

Usage: kills.py SEED PLACE COMMAND... ; OUT in the command stands for a fresh path below PLACE, and what
follows `--again` is added when a killed command is given again. Every run is a fork of this process, so imports are
paid once. A moment is a place in the sequence of write, fsync, rename and unlink calls, or a time. Prints one
line of JSON for each killed run.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import scipy.stats  # imported late by the program, and so by every fork
import torch
import torch._dynamo  # the same

from faults.helpers_faults import made_up
from memory_defense.cli import main
from memory_defense.data.spec import DATASETS
from memory_defense.evaluation import store
from memory_defense.workflows import evaluate as evaluate_model

POINTS, TIMES = 15, 5
LATE = ("cli.evaluate_checks", "cli.progress", "cli.shared", "workflows.demo", "workflows.run_recipe")
"""What commands import in their functions."""


class Moments:
    """Counts the calls that change a disk, and ends the process at one of them, the hard way."""

    def __init__(self, last: int | None) -> None:
        self.count, self.last = 0, last

    def reach(self, interrupt: Callable[[], object] = lambda: None) -> None:
        self.count += 1
        if self.count == self.last:
            interrupt()
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """Put a moment before and one after each call; a write is also torn in the middle."""
        true_write = os.write

        def write(handle: int, content: Any) -> int:
            if handle > 2:
                self.reach(lambda: true_write(handle, content[: len(content) // 2]))
            return true_write(handle, content)

        os.write = write
        for name in ("fsync", "replace", "unlink"):
            setattr(os, name, self._around(getattr(os, name)))

    def _around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            self.reach()
            result = call(*arguments, **options)
            self.reach()
            return result

        return watched


def run(command: list[str], *, at: int | None = None, after: float | None = None) -> tuple[int, int, float]:
    """Return how a command ended (0, or minus a signal), its number of moments, and how long it took."""
    reading, writing = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        moments = Moments(at)
        moments.install()
        status = 1
        try:
            sys.argv = ["memdef", *command]
            with Path("said.txt").open("w") as said:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
                main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.writev(writing, [str(moments.count).encode()])
            os._exit(status)
    os.close(writing)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, ended = os.waitpid(child, 0)
    with os.fdopen(reading) as said:
        count = int(said.read() or 0)
    return os.waitstatus_to_exitcode(ended), count, time.monotonic() - started


def kill_often(chance: random.Random, command: list[str], again: list[str]) -> None:
    def at(place: str) -> list[str]:
        return [word.replace("OUT", place) for word in command]

    status, moments, seconds = run(at("whole"))
    assert status == 0, Path("said.txt").read_text()
    assert moments > POINTS
    choices: list[dict[str, Any]] = [
        {"at": 1 + (number * moments + chance.randrange(moments)) // POINTS} for number in range(POINTS)
    ]
    choices += [{"after": seconds * (number + chance.random()) / TIMES} for number in range(TIMES)]
    for number, moment in enumerate(choices):
        place = f"killed-{number}"
        status, *_ = run(at(place), **moment)
        if status == 0 and "after" in moment:  # the machine was faster this time; it still counts, as killed late
            status = -signal.SIGKILL
        existed = Path(place).exists() and any(Path(place).iterdir())
        resumed, *_ = run([*at(place), *(again if existed else [])])
        said = "" if resumed == 0 else Path("said.txt").read_text()
        sys.stdout.write(json.dumps({"place": place, "killed": status, "resumed": resumed, "said": said} | moment))
        sys.stdout.write("\n")


def begin() -> None:
    torch.set_num_threads(1)
    seed, place, *command = sys.argv[1:]
    for name in LATE:
        importlib.import_module(f"memory_defense.{name}")
    assert scipy.stats
    assert torch._dynamo
    DATASETS["fashion-mnist"] = made_up()[0]
    store.SAVE_SECONDS = 0.0
    # Most of such a small evaluation would go to the audit, which writes nothing and starts anew when it is killed.
    evaluate_model.audit = lambda *_, **__: ()  # type: ignore[assignment]
    split = command.index("--again") if "--again" in command else len(command)
    os.chdir(place)
    kill_often(random.Random(int(seed)), command[:split], command[split + 1 :])


if __name__ == "__main__":
    begin()
