"""What the HTTP gateway takes on: bodies of a bounded size in a bounded time, bounded numbers of requests and bytes.

The rest is refused as soon as it is seen, with a status and a body that Jina Box understands, and leaves nothing.
"""

import asyncio
from typing import List, Optional

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from executors import answers
from executors.limits import MAX_BODY, MAX_IN_FLIGHT, MAX_ITEMS, MAX_REQUESTS, MAX_SECONDS, MAX_TEXT

HEALTH = "/health"
"""Answered however many requests are worked on."""
UNCOUNTED = 64 * 2**10
"""Bytes of a body that do not count among those in flight, so that texts are still answered while pictures wait."""
MAX_ARRIVING = 1000
"""Requests whose bodies are arriving at a time."""
ARRIVAL_SECONDS, ARRIVAL_RATE = 10.0, 128 * 2**10
"""A body has 10 seconds, and another one for each 128 KB that have come."""
SEND_SECONDS, SENT_AT_ONCE = 30.0, 256 * 2**10
"""An answer is sent in pieces of 256 KB, and who does not take one within 30 seconds gets no more."""
MAX_MARKS = MAX_ITEMS * MAX_TEXT
"""Brackets, braces and commas in a body: as many as its texts may have. Python needs 20 times the bytes for ``[]``."""


class Refused(Exception):
    """A request is not taken on.

    Args:
        status: the HTTP status code.
        message: one line for a person.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Gone(Exception):
    """Nobody is there any more to be answered."""


class Share:
    """The bytes that one request holds of those that all may hold together.

    Args:
        held: the bytes of all, in a list of one that they have in common.
    """

    def __init__(self, held: List[int]) -> None:
        self._held, self._size = held, 0

    def grow(self, size: int) -> None:
        """Hold more.

        Raises:
            Refused: there is no room.
        """
        more = max(0, self._size + size - UNCOUNTED) - max(0, self._size - UNCOUNTED)
        if self._held[0] + more > MAX_IN_FLIGHT:
            raise Refused(503, "the server is busy with large requests: send the same again in a moment")
        self._held[0] += more
        self._size += size

    def shrink(self, size: int) -> None:
        """Hold less again."""
        self._held[0] -= max(0, self._size - UNCOUNTED) - max(0, self._size - size - UNCOUNTED)
        self._size -= size

    def release(self) -> None:
        """Hold nothing any more."""
        self.shrink(self._size)


class Admission:
    """Reads a request's body before anything is made of it, and bounds what follows."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._arriving = self._working = 0
        self._held = [0]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        share = Share(self._held)
        try:
            try:
                body = await self._arrived(scope, receive, share)
                if sum(map(body.count, (b"[", b"{", b","))) > MAX_MARKS:
                    raise Refused(422, f"the body has more than {MAX_MARKS:,} brackets, braces and commas")
            except BaseException:
                share.release()
                raise
            await self._answered(scope, body, receive, send, share)
        except Refused as refused:
            headers = {"Retry-After": "1"} if refused.status in (429, 503) else None
            answer = JSONResponse(answers.refusal(str(refused), html=False), refused.status, headers)
            await answer(scope, receive, send)
        except Gone:
            return

    async def _arrived(self, scope: Scope, receive: Receive, share: Share) -> bytes:
        """The whole body of a request."""
        if int(Headers(scope=scope).get("content-length", "0")) > MAX_BODY:
            raise _too_large()
        if self._arriving >= MAX_ARRIVING:
            raise Refused(503, f"the bodies of {MAX_ARRIVING} requests are arriving: ask again")
        self._arriving += 1
        try:
            async with asyncio.timeout(ARRIVAL_SECONDS) as deadline:
                start = asyncio.get_running_loop().time()
                pieces, size, more = [], 0, True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    more = message.get("more_body", False)
                    pieces.append(message.get("body", b""))
                    size += len(pieces[-1])
                    if size > MAX_BODY:
                        raise _too_large()
                    share.grow(len(pieces[-1]))
                    deadline.reschedule(start + ARRIVAL_SECONDS + size / ARRIVAL_RATE)
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        except TimeoutError:
            raise Refused(503, "the request arrived too slowly: it was given up") from None
        finally:
            self._arriving -= 1

    async def _answered(self, scope: Scope, body: bytes, receive: Receive, send: Send, share: Share) -> None:
        """Let a request be worked on. One that takes too long keeps its place: what was begun goes on behind it."""
        if self._working >= MAX_REQUESTS and scope["path"] != HEALTH:
            share.release()
            raise Refused(429, f"{MAX_REQUESTS} requests are being worked on: send the same again in a moment")

        def done(task: "asyncio.Task[None]") -> None:
            self._working -= 1
            share.release()
            if not task.cancelled():
                task.exception()  # of one that was given up, nobody else asks for it

        self._working += 1
        answer = _Answer(send, share)
        task = asyncio.create_task(_work(self.app, scope, _Body(body, receive), answer))
        task.add_done_callback(done)
        try:
            await asyncio.wait({task}, timeout=MAX_SECONDS)
            if not task.done() and not answer.begun:
                answer.is_wanted = False
                raise Refused(503, f"the request took more than {MAX_SECONDS} seconds: it was given up")
            await task
        except asyncio.CancelledError:
            task.cancel()
            raise


async def _work(app: ASGIApp, scope: Scope, body: "_Body", answer: "_Answer") -> None:
    await app(scope, body.receive, answer.send)


def _too_large() -> Refused:
    return Refused(413, f"the request is larger than {MAX_BODY // 2**20} MB: send less at once")


class _Body:
    """Hands on a body that has arrived, in one piece, and then what else comes: that the other side is gone."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: Optional[bytes] = body
        self._receive = receive

    async def receive(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _Answer:
    """Sends an answer in pieces, the next one when the last has been taken."""

    def __init__(self, send: Send, share: Share) -> None:
        self._send, self._share = send, share
        self._start: Optional[Message] = None
        self.begun, self.is_wanted = False, True

    async def send(self, message: Message) -> None:
        if not self.is_wanted:
            return
        if message["type"] == "http.response.start":
            self._start = message  # kept until it is known that there is room for what follows
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        self._share.grow(len(body))
        try:
            await self._send_body(body, more)
        finally:
            self._share.shrink(len(body))

    async def _send_body(self, body: bytes, more: bool) -> None:
        self.begun = True
        if self._start is not None:
            start, self._start = self._start, None
            await self._send(start)
        for offset in range(0, len(body) or 1, SENT_AT_ONCE):
            piece = body[offset : offset + SENT_AT_ONCE]
            async with asyncio.timeout(SEND_SECONDS):
                last = offset + len(piece) == len(body)
                await self._send({"type": "http.response.body", "body": piece, "more_body": more or not last})
