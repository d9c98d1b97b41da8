"""The command line: thin, and nothing heavy is imported before the arguments are checked."""

from __future__ import annotations

import os
import signal
import sys

INTERRUPTED = 128 + signal.SIGINT
USER_ERROR = 2
PATIENCE = ("GOMP_SPINCOUNT", "5000")
"""Time that an OpenMP thread spins before it sleeps. The default slows small networks 30 times down as soon as
another program wants one of the cores; this costs nothing measurable on a quiet machine."""


def main() -> None:
    """Run ``memdef``; users' mistakes end in one message and exit status 2, Ctrl-C in 130."""
    os.environ.setdefault(*PATIENCE)
    from memory_defense.cli.app import app

    try:
        status = app(prog_name="memdef", standalone_mode=False)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (ValueError, OSError) as error:
        _say(f"error: {error}")
        sys.exit(USER_ERROR)
    except Exception as error:
        code = _usage(error)
        if code is None:
            raise
        sys.exit(code)
    if status == INTERRUPTED:
        _say("stopped; what was finished is kept, continue with the same command (train: with --resume)")
    if isinstance(status, int):
        sys.exit(status)


def _usage(error: Exception) -> int | None:
    """Show a usage error of the option parser and return its exit status; None for any other exception."""
    show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
    if isinstance(code, int):
        if show is not None:
            show()
        return code
    return None


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
