"""Commands as documents write them: where they stand, and what their parsers say to them."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import typer
from torch.distributed.run import get_args_parser

from memory_defense.cli.app import app
from memory_defense.names import FIGURES, TABLES
from memory_defense.paper.queue import QUEUE
from memory_defense.recipes.registry import RECIPES

ROOT = Path(__file__).parents[2]
GENERATED = {"commands.md", "messages.md"}
"""Written from the commands themselves, which are synopses, and from the messages, whose tests run the commands."""
PAGES = [
    *(one for one in sorted((ROOT / "docs").glob("*.md")) if one.name not in GENERATED),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "weights/README.md")),
]
PROGRAMS = ("memdef", "make", "python", ".venv/bin/python", "pip", "torchrun")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```|((?:^    \S.*\n)+)", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:memdef|make|torchrun|pip install) [^`]+|pip install '[^`]+')`")
PROMISED = {"fashion-mnist/tiny/few-levels": "the recipe that adding-a-defense.md makes", "RECIPE": "any"}


class Command(NamedTuple):
    """One command and the page it stands on."""

    page: str
    text: str

    @property
    def words(self) -> list[str]:
        """Its words, without the program's prompt."""
        return shlex.split(self.text)


def commands() -> list[Command]:
    """Return every command in a shell block, an indented block or between backquotes."""
    found: list[Command] = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        name = page.relative_to(ROOT).as_posix()
        for language, fenced, indented in BLOCK.findall(text):
            for line in ("" if language == "python" else fenced or indented).replace("\\\n", " ").splitlines():
                said = _command(line)
                if said:
                    found.append(Command(name, said))
        outside = BLOCK.sub("", text).replace("\n", " ")
        found += [Command(name, " ".join(one.split())) for one in INLINE.findall(outside)]
    return list(dict.fromkeys(found))


def _command(line: str) -> str:
    """Return the command of a line, empty where it has none: no prompt, comment, loop or dots."""
    line = re.sub(r"\s+#.*$", "", line.strip()).removeprefix("$ ").removeprefix("until ")
    line = line.split(";")[0].strip()
    return line if line.split(" ")[0] in PROGRAMS else ""


def accepted(command: Command) -> None:
    """Raise unless the program that a command calls would take these words; nothing is run."""
    program, *rest = command.words
    if program == "memdef":
        memdef_accepts(rest)
    elif program == "make":
        text = (ROOT / "Makefile").read_text(encoding="utf-8")
        for target in rest:
            assert re.search(rf"^{re.escape(target)}:", text, re.M), f"make has no target {target}"
    elif program == "torchrun":
        chosen = get_args_parser().parse_args(rest)
        assert (chosen.module, chosen.training_script) == (True, "memory_defense")
        memdef_accepts(chosen.training_script_args)
    elif program == "pip":
        assert rest[0] == "install"
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for extras in re.findall(r"\[([\w,]+)\]", rest[1]):
            assert set(extras.split(",")) <= set(project["optional-dependencies"])
    else:
        python_accepts(rest)


def python_accepts(words: list[str]) -> None:
    """Raise unless a script is there and knows the options, or a module is asked for with existing paths."""
    if words[:2] == ["-m", "pytest"]:
        assert all((ROOT / one).exists() for one in words[2:])
        return
    if words[:2] == ["-m", "http.server"]:
        return
    script = next(one for one in (ROOT / words[0], ROOT / "examples/own_images" / words[0]) if one.is_file())
    source = script.read_text(encoding="utf-8")
    assert all(f'"{one}"' in source for one in words[1:] if one.startswith("--"))


def memdef_accepts(words: list[str]) -> None:
    """Raise where ``memdef``'s parser refuses these words, or a recipe, table, row or entry is not known.

    Dots stand for an argument; a command that is only named, with options and no argument, has these options.
    """
    command: Any = typer.main.get_command(app)
    rest = ["TARGET" if one == "..." else one for one in words]
    path: list[str] = []
    while rest[:1] == ["--plugin"]:
        rest = rest[2:]
    while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
        path.append(rest[0])
        command, rest = command.commands[rest[0]], rest[1:]
    if not rest or all(one.startswith("-") for one in rest):
        known = {option for one in command.params for option in one.opts} | {"--help"}
        assert set(rest) <= known
        return
    values = command.make_context(path[-1], rest).params
    if path == ["train"]:
        assert values["recipe"] in {*RECIPES, *PROMISED}
    if path == ["reproduce"]:
        assert values["what"] in {*TABLES, *FIGURES}
        for row in values["row"] or ():
            assert row in TABLES[values["what"]]
    if path == ["queue", "run"]:
        assert values["name"] in {*QUEUE, "NAME"}
