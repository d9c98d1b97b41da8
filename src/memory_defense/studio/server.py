"""The studio on a socket. Slow connections are cut, so that they never crowd out a normal one."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from memory_defense.names import check_seconds
from memory_defense.studio.app import create_app
from memory_defense.studio.guard import Guard, Patience
from memory_defense.studio.library import Library, OwnModel
from memory_defense.studio.runs import Runs
from memory_defense.studio.tickets import Workshop
from memory_defense.studio.uploads import UPLOAD_LIMITS

HEADER_SECONDS = 10.0
"""Time from a connection's start, or a request's first byte, to the last byte of the request's headers."""

SILENT_SECONDS = 20.0
"""Time for which a client may leave an answer unread in a full buffer."""

SAME_WISH_SECONDS = 1.0
"""Signals within this time are one: a terminal and a service manager may each send theirs."""

_ASKED = 1 << 16
"""Bytes that a request may have besides an image's grey levels."""

MOST_CONNECTIONS = 256
"""Largest number of connections; more are refused with status 503."""


@dataclass(frozen=True, kw_only=True)
class StudioOptions:
    """Options of the studio: its address, the runs it shows and its limits.

    Parameters
    ----------
    runs
        Root directory of the runs and records, or several.
    shipped
        Root of what comes with the package, listed after them; None leaves it out.
    flat
        A folder whose own files are looked at for records; None for none.
    host, port
        Address to listen on; port 0 takes any free one.
    data_dir
        Directory with datasets.
    seconds
        Time limit of one computation.
    own
        A classifier that is no run, shown first; None for none.
    patience
        Limits of requests; bodies of JSON may be larger where an image that is played with is.
    """

    runs: Path | Sequence[Path]
    shipped: Path | None = None
    flat: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8765
    data_dir: Path | None = None
    seconds: float = 20.0
    own: OwnModel | None = None
    patience: Patience = field(default_factory=lambda: Patience(upload_bytes=UPLOAD_LIMITS.file_bytes))

    def __post_init__(self) -> None:
        check_seconds(self.seconds)

    @property
    def local_only(self) -> bool:
        """Whether other machines cannot reach it."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


class PromptProtocol(H11Protocol):
    """HTTP with a time limit for clients: uvicorn itself waits for a request's headers without one."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the clock for the first request."""
        super().connection_made(transport)
        self._expect(HEADER_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Stop the clock once a request's headers are whole; start it where a next one has begun."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._relax()
        elif self._late is None:
            self._expect(HEADER_SECONDS)

    def pause_writing(self) -> None:
        """Start the clock for a client that does not read."""
        super().pause_writing()
        self._expect(SILENT_SECONDS)

    def resume_writing(self) -> None:
        """Stop it."""
        super().resume_writing()
        self._relax()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock for good."""
        self._relax()
        super().connection_lost(exc)

    def _expect(self, seconds: float) -> None:
        self._relax()
        self._late = self.loop.call_later(seconds, self.transport.abort)

    def _relax(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class StudioServer(uvicorn.Server):
    """A server that answers whatever is under way before it stops; a second signal ends the process at once."""

    hung_up = False
    """Whether it was SIGHUP that stopped it."""
    _first: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note SIGINT or SIGTERM; both are raised again afterwards."""
        if self._is_first(sig):
            super().handle_exit(sig, frame)

    def hang_up(self, sig: int, frame: FrameType | None) -> None:
        """Note SIGHUP."""
        del frame
        if self._is_first(sig):
            self.should_exit = self.hung_up = True

    def _is_first(self, sig: int) -> bool:
        """Return whether this is the first signal. Those within a second are one; another one ends it all."""
        now = time.monotonic()
        if self._first is not None and now - self._first >= SAME_WISH_SECONDS:
            os._exit(128 + sig)
        first, self._first = self._first is None, self._first or now
        return first

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests, let go of those under way, and stop."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # of clients that do not read their answer
        guard = self.config.app
        assert isinstance(guard, Guard)
        guard.stop()
        await super().shutdown(sockets)


def build_server(options: StudioOptions) -> StudioServer:
    """Return the server, not yet listening.

    Raises ValueError when there is no such directory of runs.
    """
    roots = [options.runs] if isinstance(options.runs, Path) else options.runs
    library = Library(Runs(*roots, shipped=options.shipped, flat=options.flat), options.data_dir, own=options.own)
    patience = options.patience
    patience = replace(patience, json_bytes=max(patience.json_bytes, _ASKED + 4 * library.most_pixels() // 3))
    app = create_app(library, Workshop(seconds=options.seconds))
    guarded = Guard(app, local_only=options.local_only, patience=patience)
    config = uvicorn.Config(
        guarded,
        host=options.host,
        port=options.port,
        http=PromptProtocol,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        h11_max_incomplete_event_size=1 << 14,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=6,
    )
    return StudioServer(config)


def serve(options: StudioOptions, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C, SIGTERM or SIGHUP, which are raised again once everything under way is answered.

    Parameters
    ----------
    options
        Address, runs and limits.
    say
        Receives the page's address once the server listens.

    Raises
    ------
    ValueError
        If there is no such directory of runs.
    OSError
        If the address cannot be listened on.
    """
    server = build_server(options)
    listening = _listening(options)
    port = listening.getsockname()[1]
    name = f"[{options.host}]" if ":" in options.host else options.host
    say(f"http://{name}:{port}/")
    with _hangup_too(server):
        server.run(sockets=[listening])


@contextmanager
def _hangup_too(server: StudioServer) -> Generator[None]:
    """Run a block in which a closed terminal stops the server as well, unless SIGHUP is ignored (nohup)."""
    number = getattr(signal, "SIGHUP", None)
    main = threading.current_thread() is threading.main_thread()
    if number is None or not main or signal.getsignal(number) == signal.SIG_IGN:
        yield
        return
    before = signal.signal(number, server.hang_up)
    try:
        yield
    finally:
        signal.signal(number, before)
    if server.hung_up:
        signal.raise_signal(number)


def _listening(options: StudioOptions) -> socket.socket:
    """Return a socket that listens already; raise OSError with what to do about it."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        return socket.create_server((options.host, options.port), family=family)
    except (OSError, OverflowError) as error:
        raise OSError(
            f"cannot listen on {options.host}, port {options.port} ({error}); choose another with --port or --host"
        ) from error
