"""Part ``storm``: far more than the server takes on, all at once. Every client is answered, and the server stands."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPException, HTTPResponse
from select import select
from typing import NamedTuple

from bench.processes import PATIENCE, Process
from trust.report import Row
from trust.serving import Answer, Watch, flat, noise, post, search, serving

CLIENTS, MEGABYTES, SIDE = 200, 20.0, 10_000
"""How many at once; of a picture; and pixels of one, each way."""
LESS = 10
"""By what these are divided in a quick run."""
ROOM = 4096.0
"""MB that all processes together may use beyond what they had: the bytes in flight, and copies of them."""
EXPECTED = {200, 413, 422, 429, 503}
PROBES = 120
SLOW_SECONDS = 60.0


def measure(seed: int, quick: bool) -> list[Row]:
    """Storm one server three times."""
    less = LESS if quick else 1
    clients, side = CLIENTS // less, SIDE // less
    large, giant = search(noise(MEGABYTES / less, seed)), search(flat(side))
    with serving() as (port, process):
        storm = _Storm(port, process, clients, _probe(port))
        return [
            storm.judged(f"pictures of {len(large) / 2**20:.0f} MB", lambda: post(port, "/search", large)),
            storm.judged(f"pictures of {side:,} x {side:,} pixels", lambda: post(port, "/search", giant)),
            storm.judged("slow bodies, a byte a second", lambda: _drip(port)),
        ]


class _Storm(NamedTuple):
    """A server, and what it said before it was stormed."""

    port: int
    process: Process
    clients: int
    before: Answer

    def judged(self, what: str, ask: Callable[[], Answer]) -> Row:
        """All clients at once, and then the question from before."""
        with Watch(self.process) as watch, ThreadPoolExecutor(self.clients) as pool:
            answers = [asked.result() for asked in [pool.submit(ask) for _ in range(self.clients)]]
        statuses = Counter(answer.status for answer in answers)
        lost = sum(answer.status not in EXPECTED or not answer.is_understood for answer in answers)
        grown = watch.peak - watch.samples[0]
        is_as_before = _probe(self.port) == self.before
        said = ", ".join(f"{count} x {status or 'no answer'}" for status, count in sorted(statuses.items()))
        then = "answers as before" if is_as_before else "**does not answer as before**"
        wrong = f"{lost} without a proper answer ({said}); {grown:,.0f} MB more memory; then it {then}"
        return Row(f"storm: {what}", f"{self.clients} clients", wrong, not lost and grown <= ROOM and is_as_before)


def _drip(port: int) -> Answer:
    """A body that says it has 1 MB, of which a byte comes each second, until there is an answer."""
    head = b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    try:
        with closing(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)) as client:
            client.sendall(head)
            deadline = time.monotonic() + SLOW_SECONDS
            while time.monotonic() < deadline:
                client.sendall(b"x")
                if select([client], [], [], 1.0)[0]:
                    with closing(HTTPResponse(client)) as response:
                        response.begin()
                        return Answer(response.status, response.read())
    except (OSError, HTTPException) as error:
        return Answer(0, repr(error).encode())
    return Answer(0, b"held for ever")


def _probe(port: int) -> Answer:
    """What the server says to a text; it may still be at work on what was given up."""
    for _ in range(PROBES):
        answer = post(port, "/search", search("a cat"))
        if answer.status == 200:
            break
        time.sleep(1.0)
    return answer
