"""The command line: thin, and nothing heavy is imported before the arguments are checked."""

from __future__ import annotations

import os
import signal
import sys

USER_ERROR = 2
PATIENCE = ("GOMP_SPINCOUNT", "5000")
"""Time that an OpenMP thread spins before it sleeps. The default slows small networks 30 times down as soon as
another program wants one of the cores; this costs nothing measurable on a quiet machine."""


def main() -> None:
    """Run ``memdef``; users' mistakes end in one message and exit status 2, a signal in 128 and its number."""
    os.environ.setdefault(*PATIENCE)
    from memory_defense.cli.stopping import end_at_once_on_signals, heard, quiet_end

    with heard() as wish:
        try:
            from memory_defense.cli.app import app

            status = app(prog_name="memdef", standalone_mode=False)
        except KeyboardInterrupt:
            status = 128 + signal.SIGINT
        except BrokenPipeError:
            quiet_end()
            sys.exit(0)
        except Exception as error:
            # After a signal, foreign code may have turned the interruption into an error of its own.
            status = _failed(error) if wish.number is None else 128 + wish.number
    if not isinstance(status, int) or not status:
        return  # also where a signal came too late to stop anything
    if status == 128 + signal.SIGINT:
        wish.number = wish.number or signal.SIGINT
    if wish.number is not None:
        _say(_stopped(signal.Signals(wish.number)))
        status = 128 + wish.number
        end_at_once_on_signals(status)
    sys.exit(status)


def _failed(error: Exception) -> int:
    """Say what a user did wrong and return the exit status; raise anything else again."""
    if isinstance(error, (ValueError, OSError)):
        _say(f"error: {error}")
        return USER_ERROR
    code = _usage(error)
    if code is None:
        raise error
    return code


def _stopped(number: signal.Signals) -> str:
    by = "" if number == signal.SIGINT else f" by {number.name}"
    return f"stopped{by}; what was finished is kept, continue with the same command (train: with --resume)"


def _usage(error: Exception) -> int | None:
    """Show a usage error of the option parser and return its exit status; None for any other exception."""
    show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
    if isinstance(code, int):
        if show is not None:
            show()
        return code
    return None


def _say(text: str) -> None:
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:  # nobody reads it any more
        return
