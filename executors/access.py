"""Who may ask the HTTP gateway: by which name of the server, from which pages, and with which token."""

import hmac
import ipaddress
import os
import re
from base64 import b64decode
from contextlib import suppress
from typing import FrozenSet, List, NamedTuple, Optional

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from executors import answers

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"
WRITING = {"/index"}
"""Paths that change the index; all others read."""
_TOKEN = re.compile(r"[!-~]{16,}")
_ORIGIN = re.compile(r"https?://[\w.-]+(:\d+)?", re.ASCII)
_HOST = re.compile(r"(?P<name>[\w.-]+|\[[\da-f:.]+\])(:\d+)?", re.ASCII | re.IGNORECASE)


class AccessError(Exception):
    """A setting of this file is none; the message is one line that says what to do, and holds no token."""


class Settings(NamedTuple):
    """Who may ask. A token that is not set is not asked for; the one for reading may stand for both."""

    read_token: str
    write_token: str
    origins: List[str]
    """Other pages whose scripts may ask, such as ``https://example.org``."""
    hosts: FrozenSet[str]
    """Names of this server beside ``localhost`` and addresses."""

    @property
    def any_token(self) -> bool:
        """Whether a stranger cannot write."""
        return bool(self.write_token)


def settings() -> Settings:
    """Read the environment.

    Raises:
        AccessError: something in it makes no sense.
    """
    read, write = _token("JINA_READ_TOKEN"), _token("JINA_WRITE_TOKEN")
    origins = os.environ.get("JINA_CORS_ORIGINS", "").replace(",", " ").split()
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise AccessError(f"JINA_CORS_ORIGINS: {origin!r} is no origin: name them like https://example.org")
    hosts = os.environ.get("JINA_ALLOWED_HOSTS", "").replace(",", " ").lower().split()
    return Settings(read, write or read, origins, frozenset(hosts))


def check(host: str, *, http: bool, insecure: bool) -> None:
    """Refuse to serve strangers who need no token.

    Args:
        host: the address to listen on.
        http: whether tokens are asked for at all: gRPC has none.
        insecure: whether that is wanted.

    Raises:
        AccessError: says what to do.
    """
    if host not in (LOOPBACK, EVERYWHERE):
        raise AccessError(f"JINA_HOST={host} is neither {LOOPBACK} (this machine only) nor {EVERYWHERE} (everybody)")
    has_token = settings().any_token and http
    if host == EVERYWHERE and not has_token and not insecure:
        tokens = "set JINA_READ_TOKEN or JINA_WRITE_TOKEN" if http else "gRPC asks for no token"
        raise AccessError(f"JINA_HOST={host} would let everybody in: {tokens}, or say --insecure")


def _token(name: str) -> str:
    token = os.environ.get(name, "")
    if token and not _TOKEN.fullmatch(token):
        raise AccessError(f"{name} has fewer than 16 characters or others than ASCII's: try `openssl rand -hex 32`")
    return token


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
