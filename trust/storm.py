"""Part ``storm``: far more than the server takes on, all at once. Every client is answered, and the server stands."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from bench.processes import Process
from trust.report import Row
from trust.serving import Answer, Watch, flat, noise, post, search, serving

CLIENTS, QUICK_CLIENTS = 200, 20
MEGABYTES, SIDE = 20.0, 10_000  # of a picture; pixels
ROOM = 4096.0
"""MB that all processes together may use beyond what they had: the bytes in flight, and copies of them."""
EXPECTED = {200, 413, 422, 429, 503}
PROBES = 20
SLOW_SECONDS = 60.0


def measure(seed: int, quick: bool) -> list[Row]:
    """Storm one server three times."""
    clients = QUICK_CLIENTS if quick else CLIENTS
    large = search(noise(MEGABYTES / (10 if quick else 1), seed))
    giant = search(flat(SIDE // (10 if quick else 1)))
    with serving() as (port, process):
        before = _probe(port)
        return [
            _storm(
                port,
                process,
                before,
                f"{clients} clients, a picture of {len(large) / 2**20:.0f} MB each",
                clients,
                large,
            ),
            _storm(
                port,
                process,
                before,
                f"{clients} clients, a picture of {SIDE:,} x {SIDE:,} pixels each",
                clients,
                giant,
            ),
            _slow(port, process, before, clients),
        ]


def _storm(port: int, process: Process, before: Answer, tried: str, clients: int, body: bytes) -> Row:
    def ask(_: int) -> Answer:
        return post(port, "/search", body)

    return _judged(port, process, before, f"storm of pictures: {tried}", lambda: _at_once(ask, clients))


def _at_once(ask: Callable[[int], Answer], clients: int) -> list[Answer]:
    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(ask, range(clients)))


def _slow(port: int, process: Process, before: Answer, clients: int) -> Row:
    """Bodies that say they have 1 MB, of which a byte comes each second; others are answered meanwhile."""

    def drip(_: int) -> Answer:
        head = b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
        with closing(socket.create_connection(("127.0.0.1", port), timeout=1.0)) as client:
            client.sendall(head)
            deadline = time.monotonic() + SLOW_SECONDS
            while time.monotonic() < deadline:
                try:
                    client.sendall(b"x")
                    if answer := client.recv(2**16):
                        status = int(answer.split()[1])
                        return Answer(status, answer.partition(b"\r\n\r\n")[2])
                    return Answer(0, b"closed")
                except TimeoutError:
                    continue
                except OSError as error:
                    return Answer(0, repr(error).encode())
        return Answer(0, b"held for ever")

    return _judged(
        port, process, before, f"slow bodies: {clients} clients, a byte a second each", lambda: _at_once(drip, clients)
    )


def _judged(port: int, process: Process, before: Answer, tried: str, storm: Callable[[], list[Answer]]) -> Row:
    what, _, tried = tried.partition(": ")
    with Watch(process) as watch:
        answers = storm()
    statuses = Counter(answer.status for answer in answers)
    lost = sum(answer.status not in EXPECTED or not answer.is_understood for answer in answers)
    grown = watch.peak - watch.samples[0]
    after = _probe(port)
    said = ", ".join(f"{count} x {status or 'no answer'}" for status, count in sorted(statuses.items()))
    same = "answers as before" if after == before else f"answers {after.status} instead of {before.status}"
    alive = process.popen.poll() is None
    ok = alive and not lost and grown <= ROOM and after == before
    return Row(what, tried, f"{lost} without a proper answer ({said}); {grown:,.0f} MB more memory; then {same}", ok)


def _probe(port: int) -> Answer:
    """What the server says to a text; an abandoned storm may still be worked on."""
    for _ in range(PROBES):
        answer = post(port, "/search", search("a cat"))
        if answer.status == 200:
            break
        time.sleep(1.0)
    return answer
