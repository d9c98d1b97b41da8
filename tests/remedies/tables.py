"""All tables of messages as one."""

from __future__ import annotations

import importlib
from pathlib import Path

from remedies.cases import Case
from remedies.exempt import EXEMPT

TABLES = [
    importlib.import_module(f"remedies.{path.stem}") for path in sorted(Path(__file__).parent.glob("table_*.py"))
]
CASES: tuple[Case, ...] = tuple(case for table in TABLES for case in table.CASES)
ROOMS: tuple[str, ...] = tuple(room for table in TABLES for room in table.ROOMS)
"""Starts of the source files whose every message with a remedy has a case."""
KNOWN = [*dict.fromkeys(about for case in CASES for about in case.about), *EXEMPT]
"""Source file and words of every message that has a case, or a reason to have none."""
