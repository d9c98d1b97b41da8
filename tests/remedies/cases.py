"""One case for each message: an input that it answers, and its own remedy carried out."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from textwrap import dedent
from typing import Any

from faults.helpers_faults import memdef

ADVISED = re.compile(r"«(.+?)»")


@dataclass(frozen=True)
class Case:
    """A message, how it is met, and what it advises.

    `given`, `wrong` and `right` are Python statements, run one after the other in an empty folder. They know the
    public names of the message's file and those of `prelude`. `wrong` meets the message. `right` does what the
    message says and has to succeed: «...» in it is a regular expression, replaced by what its group finds in the
    message, so that the very words of the message are carried out.
    """

    file: str
    """Source file of the message, below the package."""
    says: str
    """Words of the message that no other message of the file has; an ellipsis stands for a value."""
    wrong: str
    right: str
    given: str = ""
    within: str = ""
    """Words of another message of the file, which ends in this one."""
    ends: str = ""
    """Words that the message ends in, where another file has them."""

    @property
    def name(self) -> str:
        """Name of the test."""
        return f"{self.file}: {self.says}"

    @property
    def about(self) -> list[tuple[str, str]]:
        """The file and words of each message that this case answers."""
        return [(self.file, words) for words in (self.says, self.within) if words]

    def run(self, prelude: dict[str, Any]) -> str:
        """Meet the message, carry out its remedy, and return the message."""
        module = importlib.import_module(f"memory_defense.{self.file.removesuffix('.py').replace('/', '.')}")
        names = {name: one for name, one in vars(module).items() if not name.startswith("__")} | prelude
        _execute(self.given, names)
        message = self._message(names)
        flat = " ".join(message.split())
        for words in (*(words for _, words in self.about), self.ends):
            said = ".*".join(re.escape(part) for part in re.split(r"…|\{\}", words))
            assert re.search(said, flat), f"the message is another: {message}"
        _execute(self._advised(flat), names)
        return message

    def _message(self, names: dict[str, Any]) -> str:
        try:
            _execute(self.wrong, names)
        except Exception as error:  # whatever it is, its words have to be those of the case
            return str(error)
        said = names.get("said")
        assert isinstance(said, str), "nothing was refused, and no variable `said` holds what was said"
        return said

    def _advised(self, message: str) -> str:
        def words(found: re.Match[str]) -> str:
            inside = re.search(found[1], message)
            assert inside is not None, f"{found[1]} is not in: {message}"
            return inside[1]

        return ADVISED.sub(words, dedent(self.right))


class SaidError(Exception):
    """A command ended with an exit status above 0 and one message."""


def command(line: str, *, status: int = 0) -> str:
    """Run ``memdef`` with this line and return what it printed; `SaidError` if it ends with another status."""
    done = memdef(*shlex.split(line.removeprefix("memdef ")))
    assert "Traceback" not in done.err, done.err
    if done.status != status:
        raise SaidError(done.err)
    return f"{done.out}\n{done.err}"


def _execute(text: str, names: dict[str, Any]) -> None:
    code: Callable[..., Any] = compile(dedent(text), "<case>", "exec")  # pyright: ignore
    exec(code, names)
