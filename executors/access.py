"""Who may ask the HTTP gateway: by which name of the server, from which pages, and with which token."""

import os
import re
from typing import FrozenSet, List, NamedTuple

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"
_TOKEN = re.compile(r"[!-~]{16,}")
_ORIGIN = re.compile(r"https?://[\w.-]+(:\d+)?", re.ASCII)


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
