"""Connections to the HTTP gateway that do not become requests."""

import asyncio
from typing import Optional

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 20.0
"""For the head of a request."""


class HurriedProtocol(H11Protocol):
    """Closes a connection on which the head of a request does not arrive: uvicorn would wait for it for ever.

    So is one on which more of a body comes although the request was answered, which is read and thrown away.
    """

    _timer: Optional[asyncio.TimerHandle] = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a head."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Expect the rest of a head that has begun, and nothing once it is complete."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._cancel()
        elif self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._expect()

    def connection_lost(self, exc: Optional[Exception]) -> None:
        """Expect nothing."""
        self._cancel()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
