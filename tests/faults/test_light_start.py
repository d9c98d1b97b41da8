"""No command imports torch before its arguments are checked, and help needs none of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import typer.main
from typer.core import TyperArgument

from memory_defense.cli.app import app

HEAVY = ("torch", "numpy", "scipy", "PIL", "matplotlib", "safetensors")
COMMANDS = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]

PROBE = """
import json, sys
from memory_defense.cli import main
found = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["memdef", *arguments]
    status = 0
    try:
        main()
    except SystemExit as end:
        status = end.code
    found.append([status, [name for name in {heavy!r} if name in sys.modules]])
sys.stderr.write("\\nPROBE" + json.dumps(found))
"""


def probe(commands: list[list[str]]) -> list[tuple[int, list[str]]]:
    """Return exit status and heavy modules loaded, after each of these commands in one fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(heavy=HEAVY), json.dumps(commands)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
        check=True,
    )
    return [tuple(one) for one in json.loads(done.stderr.split("PROBE")[-1])]


def test_help_is_light_for_every_command() -> None:
    commands = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
    assert len(commands) > 7
    for arguments, (status, heavy) in zip(commands, probe(commands), strict=True):
        assert status == 0, arguments
        assert heavy == [], arguments


def wrong(name: str) -> list[list[str]]:
    """Return calls of a command that are wrong by its own signature."""
    calls = [[name, "--no-such-option"]]
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, TyperArgument):
            if parameter.required:
                calls.append([name])
        elif parameter.type_descriptor.annotation in (int, float):
            calls.append([name, parameter.opts[0], "many"])
    return calls


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_arguments_are_refused_before_anything_heavy_is_imported(name) -> None:
    commands = wrong(name)
    for arguments, (status, heavy) in zip(commands, probe(commands), strict=True):
        assert status == 2, arguments
        assert heavy == [], arguments
