"""Every message of the library that advises something, read off its source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import memory_defense

PACKAGE = Path(memory_defense.__file__).parent

VERBS = """
    add allow bring build call change check choose clip continue convert copy delete divide download evaluate export
    fix give go install leave load look lower make mend move name open pip put raise remove rename
    repair replace report resize restore restrict resume return run save see set start subtract take train try turn
    use work wrap write
"""
ADVICE = re.compile(
    rf"(^|[;:,(] ?|\. |please |then )({'|'.join(VERBS.split())})\b(?! is |: | …\))"
    "|did you mean|'memdef |with: memdef"
)
"""What a remedy sounds like in the messages of this library."""

VALUE = "…"
"""Stands for a value in a message."""


@dataclass(frozen=True)
class Message:
    """A message as the source has it."""

    file: str
    """Source file below the package."""
    line: int
    text: str
    """Words, with `VALUE` for every value."""
    raised: bool

    @property
    def advises(self) -> bool:
        """Whether it names a remedy, or ends in a value that may be one."""
        return bool(ADVICE.search(self.text)) or (self.raised and f"; {VALUE}" in self.text)

    def __str__(self) -> str:
        """Return it as a reader finds it."""
        return f"{self.file}:{self.line}: {self.text}"


@cache
def messages() -> tuple[Message, ...]:
    """Return every message that is raised, and every other text of the library that is no documentation."""
    found: list[Message] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        raised = {
            id(part): text
            for node in ast.walk(tree)
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
            for part, text in _texts(node.exc)
        }
        documentation = {id(one) for one in _documentation(tree)}
        inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
        for node in ast.walk(tree):
            if id(node) in raised:
                found.append(Message(file, node.lineno, raised[id(node)], raised=True))
            elif id(node) not in documentation and (isinstance(node, ast.JoinedStr) or id(node) not in inner):
                text = _template(node)
                if text is not None and " " in text:
                    found.append(Message(file, node.lineno, text, raised=False))
    return tuple(dict.fromkeys(found))


def meant(file: str, says: str) -> set[str]:
    """Return the texts of a file that have these words; the text alone that is these words, if one is."""
    words = " ".join(says.split())
    texts = {message.text for message in messages() if message.file == file}
    exact = {text for text in texts if " ".join(text.split()) == words}
    return exact or {text for text in texts if words in " ".join(text.split())}


def _texts(call: ast.Call) -> Iterator[tuple[ast.expr, str]]:
    """Yield the texts that are raised: arguments of the error, or of the function that makes it."""
    for argument in call.args:
        text = _template(argument)
        if text is not None and " " in text:
            yield argument, text


def _template(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(part) if isinstance(part, ast.Constant) else VALUE for part in node.values)
    return None


def _documentation(tree: ast.AST) -> Iterator[ast.expr]:
    """Yield every bare string (the docstring of a module, class, function or field) and every option's help."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value
        elif isinstance(node, ast.keyword) and node.arg == "help":
            yield from (part for part in ast.walk(node.value) if isinstance(part, ast.expr))
