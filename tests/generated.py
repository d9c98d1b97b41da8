"""How many examples a test that makes up its inputs tries."""

from __future__ import annotations

import os


def examples(usual: int) -> int:
    """Return the usual number, or what the environment variable MEMDEF_EXAMPLES asks for (10,000, say)."""
    return int(os.environ.get("MEMDEF_EXAMPLES", usual))
