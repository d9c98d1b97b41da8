"""Checksums inside the files that are read back, so that damage is refused rather than believed.

A table of JSON keeps the SHA-256 of all its other entries under `KEY`; `tensorfiles` does the same for tensors.
Tables and files from before there were checksums have none and are read as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

KEY = "checksum"


def digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON table, whatever the order of its entries and however it is laid out."""
    plain = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(plain.encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON table with its checksum as the last entry, in place of an earlier one."""
    own = {name: value for name, value in content.items() if name != KEY}
    return {**own, KEY: digest(json.loads(json.dumps(own)))}


def fault(content: Mapping[str, Any]) -> str:
    """Return that a JSON table is not what its checksum says, and what to do; "" where it is, or has none."""
    own = {name: value for name, value in content.items() if name != KEY}
    if KEY not in content or content[KEY] == digest(own):
        return ""
    return (
        "its content is not what its checksum says; restore it, or make it again; if you changed it yourself, "
        f"remove its entry {KEY!r}"
    )


def parted(text: bytes) -> tuple[bytes, str]:
    """Return the JSON in a file without its checksum, and what is wrong with that; "" where all is well.

    Text that is no table, or has no checksum, comes back as it is: whoever reads it says what is wrong with it. So
    does the reader of damaged text first, who may know more than that it is damaged.
    """
    try:
        content: object = json.loads(text)
        if not isinstance(content, dict) or KEY not in content:
            return text, ""
        table = cast("dict[str, Any]", content)
        return json.dumps({name: value for name, value in table.items() if name != KEY}).encode(), fault(table)
    except (ValueError, RecursionError):
        return text, ""
