"""More than the server takes on: it is refused in words, holds nothing, and others are answered meanwhile and after."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import signal
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest
from starlette.types import Message, Receive, Scope, Send

from bench.processes import members
from executors import admission, connection
from executors.admission import Admission
from tests.conftest import (
    Answer,
    Indexed,
    Server,
    as_data_uri,
    assert_refused,
    gateway,
    picture,
    refused_start,
    server,
    wait_until,
)

LIMITS = {
    "JINA_MAX_BODY_MB": 1,
    "JINA_MAX_IN_FLIGHT_MB": 2,
    "JINA_MAX_REQUESTS": 3,
    "JINA_MAX_SECONDS": 15,
    "JINA_MAX_ITEMS": 4,
    "JINA_MAX_TEXT": 1000,
    "JINA_MAX_TOP_K": 2,
    "JINA_MAX_PICTURE_MB": 1,
    "JINA_MAX_MEGAPIXELS": 1,
}


@pytest.fixture(scope="module")
def small(indexed: Indexed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a small limit for everything."""
    workspace = shutil.copytree(indexed.workspace, tmp_path_factory.mktemp("small") / "workspace")
    with server(workspace, **LIMITS) as running:
        yield running


@contextmanager
def posting(running: Server, length: int, sent: bytes = b"") -> Iterator[http.client.HTTPConnection]:
    """A request that says how long its body is, and has sent some of it."""
    with closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)) as client:
        client.putrequest("POST", "/search")
        client.putheader("Content-Type", "application/json")
        client.putheader("Content-Length", str(length))
        client.endheaders(sent)
        yield client


def answered(client: http.client.HTTPConnection) -> Answer:
    response = client.getresponse()
    return Answer(response.status, response.headers, response.read())


def assert_as_before(running: Server) -> None:
    assert running.search("red", top_k=1)[0][0]["text"] == "red square"
    assert running.search(picture("lime"), top_k=1)[0][0]["text"] == "lime square"


def png(side: int) -> str:
    """A small file that says it is a square picture of so many black pixels, and has them all."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    lines = zlib.compress(bytes((side + 7) // 8 + 1) * side)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")
    return as_data_uri(data, "image/png")


# ------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("name", "value"), [("JINA_MAX_BODY_MB", "0"), ("JINA_MAX_SECONDS", "-1"), ("JINA_MAX_MEGAPIXELS", "many")]
)
def test_a_limit_that_is_none(indexed: Indexed, name: str, value: str) -> None:
    line = refused_start(indexed.workspace, **{name: value})
    assert f"{name}={value} is not a whole number from 1 on" in line


# ------------------------------------------------------------------------------------------------------- one request


def test_bodies(small: Server) -> None:
    body = json.dumps({"data": ["red"], "top_k": 1}).encode()
    assert small.post("/search", body.ljust(2**20)).status == 200
    assert_refused(small.post("/search", body.ljust(2**20 + 1)), 413, "1 MB")
    with closing(http.client.HTTPConnection("127.0.0.1", small.port, timeout=60)) as client:
        client.request("POST", "/index", (b" " * 2**16 for _ in range(17)), encode_chunked=True)
        assert_refused(answered(client), 413, "1 MB")


def test_items_and_texts(small: Server) -> None:
    assert small.post("/search", {"data": ["red"] * 4}).status == 200
    for path in ("/search", "/index"):
        assert_refused(small.post(path, {"data": ["red"] * 5}), 422, "4")
    assert small.post("/search", {"data": ["x" * 1000]}).status == 200
    assert_refused(small.post("/search", {"data": ["x" * 1001]}), 422, "1000 characters")


def test_matches(small: Server) -> None:
    answer = small.post("/search", {"data": ["red"], "top_k": 3}).body
    assert len(answer["data"]["docs"][0]["matches"]) == 2
    assert answer["status"]["description"] == "top_k was cut from 3 to 2"


def test_a_small_question_with_a_large_answer(searching: Server) -> None:
    """256 queries with 1,000 matches each would be a quarter of a million."""
    answer = searching.post("/search", {"data": ["red"] * 256, "top_k": 1000})
    assert answer.status == 200
    assert answer.body["status"]["description"] == "top_k was cut from 1000 to 78"


def test_pixels_are_counted_before_they_are_made(small: Server) -> None:
    assert small.post("/search", {"data": [png(1000)]}).status == 200
    for path in ("/search", "/index"):
        answer = small.post(path, {"data": [png(1001)]})
        assert answer.status == 422
        assert "1001 x 1001 pixels are more than 1 million" in answer.body["status"]["description"]


@pytest.mark.parametrize("bomb", [b"[" * 5000, b'{"":' * 5000, b'{"data":[' + b"[]," * 3000, b"[" + b"0," * 5000])
def test_nested_and_endless_json(small: Server, bomb: bytes) -> None:
    assert_refused(small.post("/search", bomb), 422, "more than 4,000 brackets, braces and commas")


# ------------------------------------------------------------------------------------------------------- all of them


@contextmanager
def stopped(running: Server) -> Iterator[None]:
    """The executors stand still, the gateway does not."""
    pids = [pid for pid in members(running.process.pid) if pid not in (running.process.pid, gateway(running))]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_bytes_in_flight(small: Server) -> None:
    """Two large requests that are worked on fill the memory; small ones are taken nevertheless."""
    body = json.dumps({"data": ["red"], "top_k": 1}).encode().ljust(2**20)
    given_up: list[Answer] = []
    with stopped(small):
        asking = [threading.Thread(target=lambda: given_up.append(small.post("/search", body))) for _ in range(2)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        for answer in given_up:
            assert_refused(answer, 503, "more than 15 seconds")
        refused = small.post("/search", body)
        assert_refused(refused, 503, "busy with large requests")
        assert refused.headers["Retry-After"] == "1"
        assert small.get("/web/page.css").status == 200
    wait_until(lambda: small.post("/search", body).status == 200, "the memory is free again")
    assert_as_before(small)


def test_an_answer_for_which_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not sent, and the next one that is small enough is; pieces of a file count one at a time."""
    monkeypatch.setattr(admission, "MAX_IN_FLIGHT", 2**20)
    pieces = [b"x" * 2**21]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number, piece in enumerate(pieces, 1):
            await send({"type": "http.response.body", "body": piece, "more_body": number < len(pieces)})

    admitted = Admission(app)

    def ask() -> tuple[int, bytes]:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request"}

        async def send(message: Message) -> None:
            sent.append(message)

        asyncio.run(admitted({"type": "http", "path": "/", "headers": []}, receive, send))
        return sent[0]["status"], b"".join(message["body"] for message in sent[1:])

    status, content = ask()
    assert status == 503
    assert b"busy with large requests" in content
    pieces[:] = [b"x" * 2**19] * 8
    assert ask() == (200, b"x" * 2**22)


def test_requests_in_flight_and_seconds(small: Server) -> None:
    answers: list[Answer] = []

    def ask() -> None:
        answers.append(small.post("/search", {"data": ["red"]}))

    with stopped(small):
        asking = [threading.Thread(target=ask) for _ in range(3)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        for answer in answers:
            assert_refused(answer, 503, "more than 15 seconds")
        refused = small.post("/search", {"data": ["red"]})  # the others are still worked on
        assert_refused(refused, 429, "3 requests are being worked on")
        assert refused.headers["Retry-After"] == "1"
        assert_refused(small.get("/health"), 503, "no answer from")
    wait_until(lambda: small.get("/web/page.css").status == 200, "what was given up has ended")
    assert_as_before(small)


# ------------------------------------------------------------------------------------------------------- slow ones


def test_a_body_that_does_not_come(small: Server) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(posting(small, 1000, b"x")) for _ in range(20)]
        assert_as_before(small)
        for client in clients:
            assert_refused(answered(client), 503, "arrived too slowly")
    assert_as_before(small)


@pytest.mark.parametrize("head", [b"", b"GET /status HT", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
def test_a_head_that_does_not_come(small: Server, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", small.port), timeout=5 * connection.HEAD_SECONDS) as client:
        client.sendall(head)
        assert_as_before(small)
        assert client.recv(100) == b""  # closed


def test_a_head_after_an_answer_that_does_not_come(small: Server) -> None:
    with socket.create_connection(("127.0.0.1", small.port), timeout=5 * connection.HEAD_SECONDS) as client:
        client.sendall(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while not client.recv(10_000).endswith(b"}"):
            pass
        client.sendall(b"GET /st")
        assert client.recv(100) == b""


def test_a_head_that_does_not_end(small: Server) -> None:
    with socket.create_connection(("127.0.0.1", small.port), timeout=60) as client:
        client.sendall(b"GET / HTTP/1.1\r\nX-Long: ")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_for_ever(client)
    assert_as_before(small)


def send_for_ever(client: socket.socket) -> None:
    while True:
        client.sendall(b"x" * 2**16)


@pytest.mark.parametrize(
    "leave",
    [
        lambda client: client.close(),
        lambda client: client.shutdown(socket.SHUT_WR),
        lambda client: client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)),
    ],
)
def test_clients_that_leave(small: Server, leave: Callable[[socket.socket], None]) -> None:
    for _ in range(10):
        with posting(small, 2**20, b" " * 10_000) as client:
            leave(client.sock)
    assert_as_before(small)
