"""The HTTP gateway's door: it lets in whom ``access.py`` names, and refuses strangers."""

import hmac
import ipaddress
import re
from base64 import b64decode
from contextlib import suppress
from typing import List, Optional

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from executors import answers
from executors.access import Settings

WRITING = {"/index"}
"""Paths that change the index; all others read."""
_HOST = re.compile(r"(?P<name>[\w.-]+|\[[\da-f:.]+\])(:\d+)?", re.ASCII | re.IGNORECASE)


class Access:
    """Refuses strangers before anything of their request is read.

    A name of the server that is not known is refused where no token is asked for: a page elsewhere could give this
    server's address to a name of its own, and would then be taken for a page of this server (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self.app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Optional[JSONResponse]:
        headers = Headers(scope=scope)
        host = _HOST.fullmatch(headers.get("host", ""))
        if not host:
            return _refused(400, "the name of the server in the header Host is none")
        if not self.settings.read_token and not self._knows(host["name"].lower()):
            return _refused(421, f"this server is not known as {host['name'][:80]}: name it in JINA_ALLOWED_HOSTS")
        tokens = self._tokens(scope["path"])
        if tokens and not _has(headers.get("authorization", ""), tokens):
            challenge = {"WWW-Authenticate": 'Basic realm="the token is the password", charset="UTF-8"'}
            return _refused(401, "a token is needed: Authorization: Bearer …, or as a password", challenge)
        return None

    def _knows(self, host: str) -> bool:
        with suppress(ValueError):
            ipaddress.ip_address(host.strip("[]"))
            return True
        return host == "localhost" or host in self.settings.hosts

    def _tokens(self, path: str) -> List[str]:
        """The tokens one of which is needed for a path; none: no token is, as for the page's own files."""
        if path == "/" or path.startswith("/web/"):
            return []
        read, write = self.settings.read_token, self.settings.write_token
        return [write] if path in WRITING and write else [read, write] if read else []


def _has(authorization: str, tokens: List[str]) -> bool:
    kind, _, given = authorization.partition(" ")
    if kind.lower() == "basic":  # what a browser asks a person for: any name, and the token as the password
        try:
            given = b64decode(given, validate=True).decode().partition(":")[2]
        except ValueError:
            return False
    elif kind.lower() != "bearer":
        return False
    # Each is compared in a time that does not tell where they differ.
    return any(hmac.compare_digest(given.encode(), token.encode()) for token in tokens)


def _refused(status: int, message: str, headers: Optional[dict[str, str]] = None) -> JSONResponse:
    return JSONResponse(answers.refusal(message, html=False), status, headers)
