"""The checks that every request passes first.

The studio has no login: what protects it is that only pages of its own may talk to it. So the Host header must
name this machine (or DNS rebinding would make a foreign page one of its own), a request that makes work must
carry the page's own Origin, and no CORS header is ever sent. Bodies are counted while they are read, and against a
clock. A refusal is sent at once, whatever of the body is still to come; that is then read and forgotten, since a
connection closed on unread bytes would be reset before the refusal is read. When the server stops, requests under
way have a moment to be answered, and are refused after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("memory_defense.studio")

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

UPLOAD_PATH = "/api/image"

STOPPING = "the studio is stopping; start it again and send this once more"

INSIDE = "something went wrong inside; the terminal in which the studio runs shows what"

_SAFE_METHODS = ("GET", "HEAD")
_AUTHORITY = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?")
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}


class RefusedError(Exception):
    """The request goes no further."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Limits of time and size; a request beyond them is refused.

    Parameters
    ----------
    body_seconds
        Time from a request's headers to the last byte of its body.
    request_seconds
        Time from a request's body to the last byte of the answer.
    upload_bytes, json_bytes
        Largest size of an uploaded image, and of every other body.
    held_bytes
        Largest size of all bodies that are in memory at once.
    forget_seconds
        Time for which the rest of a refused body is read.
    last_seconds
        Time that requests under way have when the server stops.
    """

    body_seconds: float = 10.0
    request_seconds: float = 90.0
    upload_bytes: int = 8 << 20
    json_bytes: int = 1 << 18
    held_bytes: int = 64 << 20
    forget_seconds: float = 10.0
    last_seconds: float = 1.5


class Guard:
    """An ASGI application around another.

    Parameters
    ----------
    app
        The application to guard.
    local_only
        The server listens on this machine alone, so nothing but a loopback address may be in the Host header.
    patience
        Limits of time and size.
    """

    def __init__(self, app: ASGIApp, *, local_only: bool = True, patience: Patience | None = None) -> None:
        self._app = app
        self._local_only = local_only
        self._patience = patience or Patience()
        self._held = 0  # bytes of bodies in memory
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Give requests under way a moment, then refuse them; to be called in the server's loop."""
        self._stopping.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it as JSON that says what to do."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer, coming = _Answer(send), _Coming(receive)
        work = asyncio.ensure_future(self._answered(scope, coming, answer))
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                await asyncio.wait({work}, timeout=self._patience.last_seconds)
            if work.done():
                work.result()
                return
        finally:
            stop.cancel()
            work.cancel()
        await asyncio.wait({work}, timeout=self._patience.last_seconds)
        if not answer.started:  # else nobody reads it
            await answer.refuse(HTTPStatus.SERVICE_UNAVAILABLE, STOPPING, coming, self._patience.last_seconds)

    async def _answered(self, scope: Scope, receive: _Coming, answer: _Answer) -> None:
        uploading = scope["path"] == UPLOAD_PATH
        body: list[bytes] = []
        try:
            check_request(scope["method"], scope["path"], Headers(scope=scope), local_only=self._local_only)
            await self._read(body, uploading, Headers(scope=scope), receive)
            if scope["method"] == "POST":
                _check_type(uploading, Headers(scope=scope).get("content-type", ""))
            async with asyncio.timeout(self._patience.request_seconds):
                await self._app(scope, _replayed(b"".join(body), receive), answer)
        except RefusedError as refusal:
            self._held -= sum(map(len, body))
            body.clear()
            rest = receive if refusal.status != HTTPStatus.REQUEST_TIMEOUT else None
            await answer.refuse(refusal.status, str(refusal), rest, self._patience.forget_seconds)
        except TimeoutError:
            await answer.refuse(HTTPStatus.SERVICE_UNAVAILABLE, "the answer took too long; try again")
        except Exception:
            log.exception("a request of the studio failed")
            if not answer.whole:  # Starlette answers, then raises again
                await answer.refuse(HTTPStatus.INTERNAL_SERVER_ERROR, INSIDE)
        finally:
            self._held -= sum(map(len, body))

    async def _read(self, body: list[bytes], uploading: bool, headers: Headers, receive: Receive) -> None:
        """Read a whole body; refuse what is too long, by its header or while it comes, or too slow."""
        patience = self._patience
        limit = patience.upload_bytes if uploading else patience.json_bytes
        smaller = "send a smaller image" if uploading else "the page never sends as much; send less"
        too_long = RefusedError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request has more than {limit} bytes; {smaller}"
        )
        announced = headers.get("content-length", "0")
        if not announced.isdecimal() or len(announced) > 18 or int(announced) > limit:
            raise too_long
        size, more = 0, True
        try:
            async with asyncio.timeout(patience.body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RefusedError(HTTPStatus.BAD_REQUEST, "the connection was closed")
                    part, more = message.get("body", b""), message.get("more_body", False)
                    body.append(part)
                    size += len(part)
                    self._held += len(part)
                    if size > limit:
                        raise too_long
                    if self._held > patience.held_bytes:
                        raise RefusedError(
                            HTTPStatus.SERVICE_UNAVAILABLE, "too many uploads at once; try again in a few seconds"
                        )
        except TimeoutError as error:
            raise RefusedError(
                HTTPStatus.REQUEST_TIMEOUT,
                f"the request took more than {patience.body_seconds:g} s to arrive; try again",
            ) from error


def check_request(method: str, path: str, headers: Mapping[str, str], *, local_only: bool) -> None:
    """Raise a refusal unless the request was made by a page of this very server, or by typing its address."""
    host = headers.get("host", "")
    if not is_own_name(host, local_only=local_only):
        raise RefusedError(
            HTTPStatus.MISDIRECTED_REQUEST,
            f"the studio does not answer to the name {host[:80]!r}; open it by its number, such as 127.0.0.1",
        )
    if method not in (*_SAFE_METHODS, "POST"):
        raise RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, f"{method[:20]} is never used here")
    if method == "POST" and headers.get("origin", "") != f"http://{host}":
        raise RefusedError(
            HTTPStatus.FORBIDDEN,
            f"only the studio's own page may ask for this; set the header Origin: http://{host}",
        )
    site = headers.get("sec-fetch-site", "none")
    if path.startswith(("/api/", "/report")) and site not in ("none", "same-origin"):
        raise RefusedError(HTTPStatus.FORBIDDEN, "only the studio's own page may ask for this; use it there")


def _check_type(uploading: bool, header: str) -> None:
    """Raise a refusal for a body of a type that is not taken here; an upload may leave it out."""
    kind = header.partition(";")[0].strip().lower()
    if uploading:
        if kind and not kind.startswith("image/") and kind != "application/octet-stream":
            raise RefusedError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                f"the body is {kind[:80]!r}; send the bytes of the image file alone, as image/png or "
                "application/octet-stream",
            )
    elif kind != "application/json":
        raise RefusedError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the body is {kind[:80] or 'of no type'!r}; send application/json"
        )


def is_own_name(host: str, *, local_only: bool) -> bool:
    """Return whether a Host header names this machine by a number or as localhost, which no foreign DNS decides."""
    match = _AUTHORITY.fullmatch(host)
    if match is None:
        return False
    name = match["name"].strip("[]").lower()
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or not local_only


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that hands out a body that was read already, then whatever comes."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


class _Coming:
    """A `receive` that knows whether the whole body has come."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.whole = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self.whole = self.whole or not message.get("more_body", False)
        return message


class _Answer:
    """A `send` that adds the headers every answer has, and can refuse as long as nothing was sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self.whole = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            for name, value in {**_HEADERS, "content-security-policy": CONTENT_SECURITY_POLICY}.items():
                headers.setdefault(name, value)
        await self._send(message)
        self.whole = message["type"] == "http.response.body" and not message.get("more_body", False)

    async def refuse(self, status: HTTPStatus, why: str, rest: _Coming | None = None, seconds: float = 0.0) -> None:
        """Send an error as JSON and close the connection; break it off where an answer had begun.

        What is still to come of the body is read from `rest` for so many seconds before that.
        """
        if self.started:
            raise ConnectionError("an answer that had begun was given up")
        body = json.dumps({"error": why}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        await self({"type": "http.response.start", "status": int(status), "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": rest is not None})
        if rest is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while not rest.whole:
                        await rest()
            await self._send({"type": "http.response.body", "body": b""})
