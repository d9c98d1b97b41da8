"""The flag that a run keeps: the entry ``flag`` of its manifest, beside the weights that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any, cast

from memory_defense.contracts import Flagging
from memory_defense.evaluation.flag import Flag
from memory_defense.run_directory import FLAG, RunDirectory

KEY = FLAG
"""Of the manifest: ``{"score": ..., "threshold": ..., "false_alarms": ..., "calibration_images": ...}``."""

DEFAULT_FALSE_ALARMS = 0.05
"""Where nobody chose a rate."""


def kept_flag(manifest: Mapping[str, Any], where: Path) -> Flag | None:
    """Return the flag of a run's manifest, or None where it keeps none.

    Raises ValueError for a damaged entry; the text names the file, `where`.
    """
    entry = manifest.get(KEY)
    if entry is None:
        return None
    fault = _fault(entry)
    if fault:
        raise ValueError(
            f"{where}: {KEY!r} {fault}; remove the entry, or choose it anew with 'memdef evaluate RUN --detection'"
        )
    return Flag(**entry)


def keep_flag(run: RunDirectory, flag: Flag) -> None:
    """Write the flag into the run's manifest, in place of an earlier one."""
    run.write({**run.read(), KEY: asdict(flag)})


def restore_flag(defense: Flagging, manifest: Mapping[str, Any], where: Path) -> None:
    """Put a run's flag, if it keeps one, on its defense; raises what `kept_flag` raises."""
    flag = kept_flag(manifest, where)
    if flag is not None:
        flag.put_on(defense)


def _fault(entry: object) -> str:
    """Return what is wrong with a manifest's entry, or nothing."""
    if not isinstance(entry, dict):
        return "is no table"
    values = cast("dict[str, object]", entry)
    if set(values) != {"score", "threshold", "false_alarms", "calibration_images"}:
        return f"holds {', '.join(sorted(map(str, values))) or 'nothing'}"
    score, count = values["score"], values["calibration_images"]
    if not isinstance(score, str) or not isinstance(count, int) or isinstance(count, bool) or count < 1:
        return f"has the score {score!r} from {count!r} images"
    for name in ("threshold", "false_alarms"):
        number = values[name]
        if not isinstance(number, (int, float)) or isinstance(number, bool) or not isfinite(number):
            return f"has {name} {number!r}, which is no number"
    if not 0 < cast("float", values["false_alarms"]) < 1:
        return f"has false_alarms {values['false_alarms']!r}, which is not between 0 and 1"
    return ""
