"""What holds for all of the HTTP gateway: headers, limits, the page's files, how an error is answered."""

import re
from os import stat_result
from pathlib import Path
from typing import Any, Optional, Tuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from executors import answers, protocol
from executors.access import settings
from executors.admission import Admission
from executors.guard import Access
from executors.schema import place
from models.errors import one_line

WEB = Path(__file__).resolve().parent.parent / "web"
DOCS = "/docs"
HEADERS = {
    # Jina Box writes style attributes into its markup; pictures of the camera and of the clipboard are blobs.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "style-src 'self'; style-src-attr 'unsafe-inline'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# FastAPI's page of the API has a script in its markup, and loads another from the network.
DOCS_HEADERS = {**HEADERS, "Content-Security-Policy": "object-src 'none'; base-uri 'none'; frame-ancestors 'none'"}
_SERVED = re.compile(r"(?!node_modules/)[\w/-]+\.(html|css|js|svg|png|ico)|node_modules/jinabox/dist/[\w.-]+\.js")


class RequestError(Exception):
    """A request cannot be answered.

    Args:
        status: the HTTP status code.
        message: one line for a person.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class AddHeaders:
    """Puts ``HEADERS`` on every answer, whatever it is."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in (DOCS_HEADERS if scope["path"] == DOCS else HEADERS).items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


class PageFiles(StaticFiles):
    """The page's own files and Jina Box: of the packages beside them nothing else is given out.

    A browser keeps them, and asks each time whether they have changed.
    """

    def lookup_path(self, path: str) -> Tuple[str, Optional[stat_result]]:
        """The file of a path without ``..``, if there is one that is served."""
        return super().lookup_path(path) if _SERVED.fullmatch(path) else ("", None)

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """The file, or 304 if the browser's copy is the same."""
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


def prepare(app: FastAPI) -> None:
    """Give an application the headers, who may ask, the limits, the page and the answers to errors."""
    app.add_middleware(Admission)
    access = settings()
    app.add_middleware(Access, settings=access)
    if access.origins:
        headers = ["Authorization", "Content-Type"]
        app.add_middleware(CORSMiddleware, allow_origins=access.origins, allow_methods=["POST"], allow_headers=headers)
    app.add_middleware(AddHeaders)
    for error in (RequestError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(error, _refuse)
    files = PageFiles(directory=WEB)
    app.mount("/web", files, name="web")

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    """Every error has an HTTP status and a body that also Jina Box understands."""
    status, message = _told(error)
    # A body that was refused is only in the error.
    html = getattr(request.state, "html", False) or protocol.is_from_jina_box(getattr(error, "body", None))
    # What nobody has foreseen is answered outside of the middleware.
    return JSONResponse(answers.refusal(one_line(message), html=html), status, HEADERS)


def _told(error: Exception) -> Tuple[int, str]:
    if isinstance(error, RequestError):
        return error.status, str(error)
    if isinstance(error, HTTPException) and error.status_code == 400:  # FastAPI's, for what Python cannot parse
        return 422, "the body is not JSON that can be read: it is nested too deeply, or has too long a number"
    if isinstance(error, HTTPException):
        return error.status_code, str(error.detail)
    if isinstance(error, RequestValidationError):
        first, *others = error.errors()
        if first["type"] == "json_invalid":
            return 422, f"the body is not JSON: {first['ctx']['error']}"
        more = f" (and {len(others)} more errors)" if others else ""
        return 422, f"{place(first) or 'the body'}: {first['msg']}{more}"
    return 500, f"an error of the server: {error or type(error).__name__}"
