"""Places of numbers in their record: JSON pointers, and the record printed with an anchor at every entry."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, cast

from markupsafe import Markup, escape
from pydantic import BaseModel

from memory_defense.evaluation.record import Record

_ENTRY = re.compile(r"/[a-z_0-9]+(/\d+(/stages/\d+)?)?")


@dataclass(frozen=True)
class Piece:
    """Some words, or a number with its place in the record: a pointer such as ``/clean/accuracy``."""

    text: str
    source: str = ""


class Sources:
    """JSON pointers (RFC 6901) of a record's entries, such as ``/attacks/3``, found by the entry itself."""

    def __init__(self, record: Record) -> None:
        self._record = record  # keeps the entries alive, whose identities are the keys
        self._pointers: dict[int, str] = {}
        self._collect(record, "")

    def _collect(self, entry: object, pointer: str) -> None:
        if isinstance(entry, BaseModel):
            self._pointers[id(entry)] = pointer
            for name in type(entry).model_fields:
                self._collect(getattr(entry, name), f"{pointer}/{name}")
        elif isinstance(entry, tuple):
            for place, one in enumerate(cast("tuple[object, ...]", entry)):
                self._collect(one, f"{pointer}/{place}")

    def of(self, entry: BaseModel | None, field: str = "") -> str:
        """Return the pointer of an entry, or of one of its fields; empty for None or another record's entry."""
        pointer = "" if entry is None else self._pointers.get(id(entry), "")
        return f"{pointer}/{field}" if pointer and field else pointer


def anchor(prefix: str, pointer: str) -> str:
    """Return the id of the entry that holds what a pointer points at: ``record-1-attacks-3``.

    Entries are the record's fields, the members of its lists, and the stages of its cascades.

    Raises
    ------
    ValueError
        For text that is no pointer into a record.
    """
    found = _ENTRY.match(pointer)
    if found is None:
        raise ValueError(f"{pointer!r} points at nothing in a record; write it as /attacks/3/accuracy")
    return f"{prefix}{found[0].replace('/', '-')}"


def printed(record: Record, prefix: str) -> Markup:
    """Return the record as indented JSON in which every entry that `anchor` names carries its id."""
    content = record.model_dump(by_alias=True, mode="json")
    fields = [
        Markup('<span class="entry" id="{}">{}: {}</span>').format(
            anchor(prefix, f"/{name}"), json.dumps(name), _value(value, f"/{name}", prefix, 1)
        )
        for name, value in content.items()
    ]
    return Markup("{{\n {}\n}}").format(Markup(",\n ").join(fields))


def _value(value: Any, pointer: str, prefix: str, depth: int, *, member: bool = False) -> Markup:
    """Return one value; the record's fields and members of lists take several lines, small things one."""
    inner, outer = "\n" + " " * (depth + 1), "\n" + " " * depth
    if isinstance(value, dict):
        content = cast("dict[str, Any]", value)
        if content and (member or depth == 1 or any(isinstance(one, (dict, list)) for one in content.values())):
            fields = [
                Markup("{}: {}").format(json.dumps(name), _value(one, f"{pointer}/{name}", prefix, depth + 1))
                for name, one in content.items()
            ]
            return Markup("{{{}{}{}}}").format(inner, Markup("," + inner).join(fields), outer)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        entries: list[Markup] = []
        for place, one in enumerate(cast("list[Any]", value)):
            where = f"{pointer}/{place}"
            shown = _value(one, where, prefix, depth + 1, member=True)
            entries.append(Markup('<span class="entry" id="{}">{}</span>').format(anchor(prefix, where), shown))
        return Markup("[{}{}{}]").format(inner, Markup("," + inner).join(entries), outer)
    return escape(json.dumps(value, ensure_ascii=False))
