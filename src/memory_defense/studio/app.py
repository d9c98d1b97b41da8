"""The studio's few addresses: one page with its files, and JSON. Every computation goes through the workshop."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from memory_defense.data.limits import OtherTypeError, TooLargeError
from memory_defense.studio.describe import Described, Shelf, Thumbnails, describe_run, shelf, thumbnails
from memory_defense.studio.duel import compare
from memory_defense.studio.guard import INSIDE, UPLOAD_PATH
from memory_defense.studio.library import Library
from memory_defense.studio.messages import Compared, CompareRequest, Message, Played, PlayRequest
from memory_defense.studio.play import play
from memory_defense.studio.records import Records, records_of, report_of
from memory_defense.studio.tickets import BusyError, StoppedError, Ticket, TooSlowError, Workshop
from memory_defense.studio.uploads import decode

RunName = Annotated[str, Query(max_length=200)]

REPORT_POLICY = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'self'"
"""The report has its styles inside and no script; the sandbox makes sure of it."""

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_STATUS: dict[type[Exception], int] = {
    ValueError: 422,
    TooLargeError: 413,
    OtherTypeError: 415,
    FileNotFoundError: 422,
    BusyError: 503,
    TooSlowError: 503,
    StoppedError: 499,
}


class Pixels(Message):
    """An uploaded image, as the other requests take it."""

    pixels: str
    """Base64 of C x H x W grey levels."""


def create_app(library: Library, workshop: Workshop) -> FastAPI:
    """Return the application, still without its `guard.Guard`."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        yield
        workshop.close()

    app = FastAPI(title="Memory Defense studio", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    for kind, status in _STATUS.items():
        app.add_exception_handler(kind, _teller(status))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unforeseen)
    _add_static(app)
    _add_reading(app, library, workshop)
    _add_playing(app, library, workshop)
    return app


def _add_static(app: FastAPI) -> None:
    """Serve the files that lie in ``static``, read once; nothing is looked up by a name that a request brings."""
    pages = {one.name: one.read_bytes() for one in files("memory_defense.studio").joinpath("static").iterdir()}

    async def page() -> Response:
        return Response(pages["index.html"], media_type=_TYPES[".html"])

    async def file(name: str) -> Response:
        if name not in pages:
            raise HTTPException(404)
        return Response(pages[name], media_type=_TYPES[PurePosixPath(name).suffix])

    app.add_api_route("/", page, methods=["GET", "HEAD"])
    app.add_api_route("/static/{name}", file, methods=["GET"])


def _add_reading(app: FastAPI, library: Library, workshop: Workshop) -> None:
    async def studio(request: Request) -> Shelf:
        return await workshop.run(lambda _: shelf(library), request.is_disconnected)

    async def run_info(request: Request, run: RunName) -> Described:
        return await workshop.run(lambda _: describe_run(library, run), request.is_disconnected)

    async def tests(
        request: Request,
        run: RunName,
        start: Annotated[int, Query(ge=0, lt=1 << 31)] = 0,
        count: Annotated[int, Query(ge=1, le=24)] = 12,
    ) -> Thumbnails:
        return await workshop.run(lambda _: thumbnails(library, run, start, count), request.is_disconnected)

    async def records(request: Request) -> Records:
        return await workshop.run(lambda _: records_of(library.runs), request.is_disconnected)

    async def report(request: Request, name: RunName) -> HTMLResponse:
        page = await workshop.run(lambda _: report_of(library.runs.evaluation(name)), request.is_disconnected)
        return HTMLResponse(page, headers={"content-security-policy": REPORT_POLICY})

    app.add_api_route("/api/studio", studio, methods=["GET"])
    app.add_api_route("/api/run", run_info, methods=["GET"])
    app.add_api_route("/api/tests", tests, methods=["GET"])
    app.add_api_route("/api/records", records, methods=["GET"])
    app.add_api_route("/report", report, methods=["GET"])


def _add_playing(app: FastAPI, library: Library, workshop: Workshop) -> None:
    async def image(request: Request, run: RunName, invert: bool = False) -> Pixels:
        content = await request.body()

        def job(_: Ticket) -> Pixels:
            levels = decode(content, library.shape(library.find(run)), invert=invert)
            return Pixels(pixels=base64.b64encode(levels.numpy().tobytes()).decode("ascii"))

        return await workshop.run(job, request.is_disconnected)

    async def one(request: Request, wanted: PlayRequest) -> Played:
        def job(ticket: Ticket) -> Played:
            subject = library.subject(wanted.run)
            posed = library.pose(wanted.image, wanted.label, library.find(wanted.run))
            return play(subject, posed, wanted.attack, ticket)[0]

        return await workshop.run(job, request.is_disconnected)

    async def two(request: Request, wanted: CompareRequest) -> Compared:
        return await workshop.run(lambda ticket: compare(library, wanted, ticket), request.is_disconnected)

    app.add_api_route(UPLOAD_PATH, image, methods=["POST"])
    app.add_api_route("/api/play", one, methods=["POST"])
    app.add_api_route("/api/compare", two, methods=["POST"])


def _teller(status: int) -> Callable[[Request, Exception], Any]:
    async def tell(_: Request, error: Exception) -> JSONResponse:
        headers = {"retry-after": "3"} if isinstance(error, BusyError) else None
        return JSONResponse({"error": str(error) or "nobody waited"}, status, headers)

    return tell


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")[:100]
    return JSONResponse({"error": f"{where or 'the request'}: {str(first['msg'])[:200]}"}, 422)


async def _http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    why = "there is nothing at this address; start at /" if error.status_code == 404 else str(error.detail)
    return JSONResponse({"error": why}, error.status_code)


async def _unforeseen(_: Request, error: Exception) -> JSONResponse:
    del error  # the guard writes it to the log
    return JSONResponse({"error": INSIDE}, 500)
