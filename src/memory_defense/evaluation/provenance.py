"""Provenance of a number: version, revision, seed, device."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch

from memory_defense.evaluation.record import Provenance
from memory_defense.machine import device_name
from memory_defense.version import __version__


def provenance(seed: int, device: torch.device, recipe_sha256: str) -> Provenance:
    """Return where a number made now, here, comes from."""
    return Provenance(
        version=__version__,
        git=_revision(),
        seed=seed,
        device=device_name(device),
        torch=torch.__version__,
        recipe_sha256=recipe_sha256,
    )


def _revision() -> str:
    """Return the git revision of this source tree, or 'unknown' for an installed package."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return "unknown"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
