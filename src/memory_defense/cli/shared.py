"""What several commands need: data with progress, and tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from memory_defense.cli.progress import Shown
from memory_defense.data.images import Splits, load_dataset
from memory_defense.reporting import Section, terminal_tables


def find_data(
    name: str, data_dir: Path | None, *, offline: bool, device: torch.device, progress: Shown | None
) -> Splits:
    """Return a dataset on a device."""
    return load_dataset(name, data_dir=data_dir, offline=offline, may_update=True, device=device, progress=progress)


@dataclass(frozen=True, kw_only=True)
class DataPlace:
    """Finds datasets for a command, in whichever of its processes needs one; only the first shows how far it is."""

    data_dir: Path | None
    offline: bool
    device: torch.device
    progress: Shown | None = None

    def __call__(self, name: str) -> Splits:
        """Return a dataset on the device."""
        return find_data(name, self.data_dir, offline=self.offline, device=self.device, progress=self.progress)

    def __getstate__(self) -> dict[str, object]:
        """Leave the display behind."""
        return {**self.__dict__, "progress": None}


def wide_console() -> Console:
    """Return a console that does not squeeze tables into 80 columns where nobody is looking."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 116))


def print_tables(sections: Sequence[Section]) -> None:
    """Print the tables of these records."""
    console = wide_console()
    for table in terminal_tables(sections):
        console.print(table)
