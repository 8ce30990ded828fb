"""Part ``load``: as many clients as the server takes on, for a long time: no error, and no memory that grows."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException

import numpy as np

from bench.processes import PATIENCE, Process
from trust.report import Row
from trust.serving import Watch, noise, serving

CROWDS = (8, 32, 128)
SECONDS, QUICK_SECONDS = 600.0, 5.0
FLAT = 300.0
"""MB an hour: what grows less would need a day to fill what one storm may use."""
PICTURES = 5
"""Every fifth query is a picture."""


def measure(seed: int, quick: bool) -> list[Row]:
    """Load one server with one crowd after the other."""
    seconds = QUICK_SECONDS if quick else SECONDS
    pictures = [noise(0.05, seed + number) for number in range(8)]
    with serving() as (port, process):
        return [_load(port, process, clients, seconds, seed, pictures, judged=not quick) for clients in CROWDS]


def _load(
    port: int, process: Process, clients: int, seconds: float, seed: int, pictures: list[str], *, judged: bool
) -> Row:
    ended = threading.Event()

    def ask(client: int) -> tuple[list[float], list[str]]:
        random = np.random.default_rng([seed, clients, client])
        taken: list[float] = []
        errors: list[str] = []
        connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        while not ended.is_set():
            number = int(random.integers(2**31))
            query = pictures[number % len(pictures)] if number % PICTURES == 0 else f"picture number {number}"
            start = time.perf_counter()
            try:
                connection.request(
                    "POST", "/search", json.dumps({"data": [query]}), {"Content-Type": "application/json"}
                )
                response = connection.getresponse()
                content = response.read()
                if response.status != 200:
                    errors.append(f"{response.status} {content[:100]!r}")
            except (OSError, HTTPException) as error:
                connection.close()
                errors.append(repr(error))
            taken.append(time.perf_counter() - start)
        connection.close()
        return taken, errors

    with Watch(process) as watch, ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(ask, client) for client in range(clients)]
        time.sleep(seconds)
        ended.set()
        results = [future.result() for future in asking]
    taken = np.array([second for seconds, _ in results for second in seconds])
    errors = [error for _, errors in results for error in errors]
    slope = watch.slope()
    rate, p99 = len(taken) / seconds, 1000 * np.quantile(taken, 0.99)
    held = f"{len(taken):,} queries in {seconds:,.0f} s, {rate:,.0f} a second, p99 {p99:,.0f} ms"
    grew = f"memory {watch.peak:,.0f} MB at most, {slope:+,.0f} MB an hour"
    wrong = f"{len(errors)} errors" + (f", the first: {errors[0]}" if errors else "")
    return Row(f"{clients} clients at once", held, f"{wrong}; {grew}", not errors and (slope <= FLAT or not judged))
