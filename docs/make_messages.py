"""Writes messages.md from the tables of the tests: ``make docs``, or ``python docs/make_messages.py``."""

from __future__ import annotations

import ast
import re
import sys
from html import escape
from pathlib import Path
from textwrap import dedent

from memory_defense.files import write_text

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from remedies.cases import ADVISED, Case  # noqa: E402
from remedies.exempt import EXEMPT  # noqa: E402
from remedies.inventory import VALUE, meant  # noqa: E402
from remedies.tables import CASES  # noqa: E402

PAGE = Path(__file__).parent / "messages.md"

ROOMS = (
    ("Commands", ("cli/", "names.py", "plugins.py")),
    ("Your images and datasets", ("data/",)),
    (
        "What an evaluation is given",
        ("checks.py", "evaluation/options", "workflows/arguments", "workflows/loaders", "workflows/first"),
    ),
    ("Your model", ("wrappers/", "systems/own_model.py", "systems/doors.py", "passes.py", "foreign.py")),
    ("Attacks", ("attacks/", "losses.py", "threat.py")),
    ("Certificates", ("certificates/", "workflows/certify", "evaluation/certifying")),
    ("Evaluating, and the audit", ("evaluation/", "workflows/evaluate", "workflows/assess")),
    (
        "Runs, files and processes",
        ("run_directory", "files", "tensorfiles", "checksums", "outputs", "ranks", "progress"),
    ),
    ("Training and hardening", ("workflows/", "training/", "recipes/")),
    ("Loading and exporting", ("systems/",)),
    ("Reports", ("reporting/",)),
    ("The studio", ("studio/",)),
    ("Defenses and networks", ("defenses/", "networks/")),
    ("The reproduction of the paper", ("paper/",)),
)
"""Titles of the page, and the starts of the source files whose messages are below them; the first that fits."""

INTRODUCTION = f"""# Messages

Written by `make docs` from the tests. Every message of the library that advises something is here, with an input
that meets it and what to do. The tests carry each remedy out (`tests/remedies`), in the message's own words where
these are code, a command, a name or a number, and it has to work.

`{VALUE}` stands for a value. Open a message to see its input and its remedy; lines that begin with `$` are
commands, all others are Python. `net` is a small classifier, `images` and `labels` are eight images of 4 x 4 grey
pixels that it gets right, `run()` puts a finished run into the folder `run`, `folder()` writes a folder of images,
`code()` a Python file.
"""

_MARK = "__value__"
_LONGEST = 12
"""Lines of preparation that are shown; longer ones are left to the tests."""


def page() -> str:
    """Return the whole page."""
    parts = [INTRODUCTION]
    left = list(CASES)
    for title, starts in ROOMS:
        mine = sorted((case for case in left if case.file.startswith(starts)), key=lambda case: case.file)
        left = [case for case in left if case not in mine]
        if mine:
            parts += [f"## {title}\n", *(block(case) for case in mine)]
    assert not left, f"no title for {sorted({case.file for case in left})}"
    parts.append("## Remedies that no test can carry out\n")
    parts += [
        f"- {_plain(text)} ({reason})" for (file, says), reason in EXEMPT.items() for text in meant(file, says)
    ]
    return "\n".join(parts) + "\n"


def block(case: Case) -> str:
    """Return one message that opens into its input and its remedy."""
    given = shown(case.given, "")
    before = given if given and len(given.splitlines()) <= _LONGEST else ""
    met, right = shown(case.wrong, ""), shown(case.right, whole(case))
    return (
        f"<details><summary>{_plain(whole(case))}</summary>\n\n"
        f"```python\n{before}{met}```\n\nDo:\n\n```python\n{right}```\n\n</details>\n"
    )


def whole(case: Case) -> str:
    """Return the message as the source has it, with what it ends in."""
    (text,) = meant(case.file, case.says)
    if case.within:
        (frame,) = meant(case.file, case.within)
        text = frame[: frame.rindex(VALUE)] + text
    if case.ends:
        text = text[: text.rindex(VALUE)] + case.ends
    return " ".join(text.split())


def shown(code: str, message: str) -> str:
    """Return code as a reader likes it: commands after ``$``, no imports, the message's words in their place."""
    text = ADVISED.sub(lambda found: _words(found[1], message), dedent(code).strip("\n"))
    marked = text.replace(VALUE, _MARK)
    try:
        parts = [_statement(marked, one) for one in ast.parse(marked).body]
    except SyntaxError:
        parts = [line.rstrip() for line in marked.splitlines()]
    return "".join(f"{part}\n" for part in parts if part is not None).replace(_MARK, VALUE)


def _statement(code: str, one: ast.stmt) -> str | None:
    """Return a statement's lines: a command after ``$``, None for an import."""
    match one:
        case ast.Import() | ast.ImportFrom():
            return None
        case ast.Expr(ast.Call(ast.Name("memdef"), [ast.Constant(str(line))])):
            return f"$ {line}"
    return ast.get_source_segment(code, one)


def _words(pattern: str, message: str) -> str:
    """Return the words of a message that a remedy takes over, or the sign for a value."""
    found = re.search(pattern, message)
    return found[1] if found else VALUE


def _plain(text: str) -> str:
    return escape(" ".join(text.split()), quote=False)


if __name__ == "__main__":
    write_text(PAGE, page())
