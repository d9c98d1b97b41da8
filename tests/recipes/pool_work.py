"""Work for processes of a pool, which import it from here."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from memory_defense.recipes.row_pool import RowPool


@dataclass(frozen=True)
class Work:
    """A row that does one thing."""

    label: str
    what: str
    place: Path

    def make(self, data, progress) -> None:
        assert progress is not None
        progress.begin("counting", 1000)
        (self.place / f"{self.label}.pid").write_text(str(os.getpid()))
        if self.what == "wrong":
            raise ValueError(f"{self.label} cannot be")
        if self.what == "fail":
            raise OSError("the disk is gone")
        if self.what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        for _ in range(1000 if self.what == "long" else 1):
            progress.advance(1, "counted")
            time.sleep(0.05 if self.what == "long" else 0)
        progress.note(data("it"))
        (self.place / self.label).touch()


def data(name: str) -> str:
    return f"data of {name}"


def parent(place: Path) -> None:
    RowPool(processes=1).make([Work("orphan", "long", place)], data)
