"""Work for processes of a pool, which import it from here."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from memory_defense.paper.row_pool import RowPool


@dataclass(frozen=True)
class Work:
    """A row that does one thing."""

    label: str
    what: str
    place: Path

    @property
    def common(self) -> Path:
        return self.place / "common"

    def shares(self) -> set[Path]:
        mine = self.what in ("makes common", "needs common")
        return {self.common} if mine and not self.common.exists() else set()

    def make(self, data, progress) -> None:
        assert progress is not None
        progress.begin("counting", 1000)
        (self.place / f"{self.label}.pid").write_text(str(os.getpid()))
        if self.what == "makes common":
            _wait_for(self.place / "beside.pid")
            self.common.touch()
        if self.what == "beside":
            _wait_for(self.common)
        if self.what == "needs common" and not self.common.exists():
            raise ValueError(f"{self.label} came too early")
        if self.what == "waits for deaf":
            _wait_for(self.place / "deaf.pid")
        if self.what in ("wrong", "waits for deaf"):
            raise ValueError(f"{self.label} cannot be")
        if self.what == "full":
            raise OSError("the disk is full")
        if self.what == "fail":
            raise RuntimeError("a defect")
        if self.what == "deaf":
            time.sleep(600)
        if self.what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        for _ in range(1000 if self.what == "long" else 1):
            progress.advance(1, "counted")
            time.sleep(0.05 if self.what == "long" else 0)
        progress.note(data("it"))
        (self.place / self.label).touch()


def _wait_for(path: Path) -> None:
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.1)
    raise ValueError(f"{path.name} never came")


def data(name: str) -> str:
    return f"data of {name}"


def parent(place: Path) -> None:
    RowPool(processes=1).make([Work("orphan", "long", place)], data)
