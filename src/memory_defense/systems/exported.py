"""What an export says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Exported:
    """Path of what was written, and one sentence on how it was checked."""

    path: Path
    checked: str
