"""What ``memdef predict`` prints: a table, or JSON lines."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memory_defense.contracts import Progress
    from memory_defense.data.pictures import LeftOut, Unreadable
    from memory_defense.workflows.predict import Prediction

    Line = Prediction | Unreadable | LeftOut

SOME_UNREADABLE = 1
"""Exit status if some images could not be read and the others were predicted."""


def counted(lines: Iterator[Line], progress: Progress) -> Iterator[Line]:
    """Yield what is predicted, telling how many images that were."""
    for one in lines:
        yield one
        progress.advance(1)


def print_json(lines: Iterator[Line]) -> int:
    """Write a line for each image as soon as it is known; return the number that could not be read."""
    from memory_defense.data.pictures import LeftOut, Unreadable
    from memory_defense.reporting.wording import plain

    total = failed = 0
    for one in lines:
        if isinstance(one, LeftOut):
            sys.stderr.write(plain(one.reason) + "\n")
            continue
        total += 1
        if isinstance(one, Unreadable):
            failed += 1
            entry = {"file": one.name, "error": one.reason}
        else:
            entry = asdict(one)
        sys.stdout.write(json.dumps(entry, allow_nan=False) + "\n")
    sys.stdout.flush()
    if failed:
        sys.stderr.write(f"not read: {failed:,} of {total:,}\n")
    return failed


def print_table(lines: Iterator[Line], caption: str, *, flagged: bool = True) -> int:
    """Print a table, and a line for each image that could not be read; return the number of these."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from memory_defense.cli.shared import wide_console
    from memory_defense.data.pictures import LeftOut, Unreadable
    from memory_defense.reporting.wording import MISSING, number, percent, plain

    table = Table(
        box=box.SIMPLE_HEAD,
        caption=Text(caption),
        caption_justify="left",
    )
    titles = ("flag", "score") if flagged else ()
    for title in ("file", "label", "confidence", *titles, "note"):
        table.add_column(title, justify="right" if title in ("confidence", "score") else "left", overflow="fold")
    failed: list[Unreadable] = []
    left_out: list[LeftOut] = []
    for one in lines:
        if isinstance(one, LeftOut):
            left_out.append(one)
            continue
        if isinstance(one, Unreadable):
            failed.append(one)
            said = (
                (MISSING, Text("not read", style="red"), MISSING) if flagged else (Text("not read", style="red"),)
            )
            table.add_row(Text(plain(one.name)), MISSING, *said, "")
            continue
        verdict = (
            Text(one.flag or "", style="bold yellow" if one.flag == "suspicious" else ""),
            MISSING if one.score is None else number(one.score),
        )
        table.add_row(
            Text(plain(one.file)),
            Text(plain(one.label)),
            f"{percent(one.confidence)} %",
            *(verdict if flagged else ()),
            Text("; ".join(one.changes)),
        )
    wide_console().print(table)
    for one in failed:
        sys.stderr.write(f"not read: {plain(one.reason)}\n")
    for one in left_out:
        sys.stderr.write(plain(one.reason) + "\n")
    return len(failed)
