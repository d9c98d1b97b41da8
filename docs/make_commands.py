"""Writes commands.md from the commands themselves: ``make docs``, or ``python docs/make_commands.py``."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

from memory_defense.cli.app import app
from memory_defense.files import write_text

PAGE = Path(__file__).parent / "commands.md"
INTRODUCTION = """# Commands

Written by `make docs` from the commands themselves. `memdef COMMAND --help` says the same. A user's mistake ends in
one message and exit status 2. Ctrl-C, SIGTERM and SIGHUP stop at the next whole step, or pass of the model, and end
in 130, 143 and 129; what was finished is kept. A second signal stops at once. What runs, how far it is and how long
it still takes is said on standard error: a live line on a terminal, elsewhere a plain line every 15 seconds
(`MEMDEF_PROGRESS_SECONDS`).
"""
KINDS = {int: "whole number", float: "number", Path: "path", str: "text"}


def page() -> str:
    """Return the whole page."""
    return "\n".join([INTRODUCTION, *(section(name, command) for name, command in commands(app))])


def commands(group: typer.Typer, before: str = "memdef") -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield every command of a group and of the groups inside it, by its full name."""
    for one in group.registered_commands:
        assert one.callback is not None
        yield f"{before} {one.name or one.callback.__name__}", one.callback
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from commands(inner.typer_instance, f"{before} {inner.name}")


def section(name: str, command: Callable[..., Any]) -> str:
    """Return the part of the page about one command."""
    hints = get_type_hints(command, include_extras=True)
    parameters = [(one, hints[one.name]) for one in inspect.signature(command).parameters.values()]
    arguments = [both for both in parameters if isinstance(_info(both[1]), ArgumentInfo)]
    rows = [_row(one, hint) for one, hint in [*arguments, *(both for both in parameters if both not in arguments)]]
    needed = [
        f"--{one.name} {one.name.upper()}"
        for one, hint in parameters
        if one.default is inspect.Parameter.empty and isinstance(_info(hint), OptionInfo)
    ]
    rest = ["[OPTIONS]"] if len(rows) > len(arguments) + len(needed) else []
    synopsis = " ".join([name, *(_shown(one, hint) for one, hint in arguments), *needed, *rest])
    lines = [f"## {name}", "", inspect.getdoc(command) or "", "", f"    {synopsis}", ""]
    if rows:
        lines += ["| argument or option | value | if left out | |", "|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _shown(one: inspect.Parameter, hint: Any) -> str:
    name = one.name.upper() + ("..." if get_origin(_plain(hint)) is list else "")
    return name if one.default is inspect.Parameter.empty else f"[{name}]"


def _row(one: inspect.Parameter, hint: Any) -> str:
    info, kind = _info(hint), _plain(hint)
    repeated = get_origin(kind) is list
    value = KINDS.get(get_args(kind)[0] if repeated else kind, "")
    if repeated:
        value += ", several"
    name = one.name.upper() if isinstance(info, ArgumentInfo) else _option(one.name, kind, info)
    return f"| `{name}` | {value} | {_default(one)} | {_said(info)} |"


def _option(name: str, kind: Any, info: OptionInfo) -> str:
    given = [one for one in (info.default, *(info.param_decls or ())) if isinstance(one, str) and one[:1] == "-"]
    option = name.replace("_", "-")
    return given[0] if given else f"--{option}/--no-{option}" if kind is bool else f"--{option}"


def _default(one: inspect.Parameter) -> str:
    if one.default is inspect.Parameter.empty:
        return "**required**"
    if one.default is None:
        return ""
    if isinstance(one.default, bool):
        return "on" if one.default else "off"
    return f"`{one.default}`"


def _said(info: ArgumentInfo | OptionInfo) -> str:
    text = (info.help or "").replace("|", "\\|")
    for word, limit in (("At least", info.min), ("At most", info.max)):
        text += "" if limit is None else f" {word} {limit:g}."
    return text + (f" Also from `{info.envvar}`." if info.envvar else "")


def _info(hint: Any) -> ArgumentInfo | OptionInfo:
    (found,) = (one for one in get_args(hint)[1:] if isinstance(one, ArgumentInfo | OptionInfo))
    return found


def _plain(hint: Any) -> Any:
    """Return the type without its annotation and without None."""
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if isinstance(kind, types.UnionType):
        (kind,) = (one for one in get_args(kind) if one is not types.NoneType)
    return kind


if __name__ == "__main__":
    write_text(PAGE, page())
