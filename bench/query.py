"""Part ``query``: queries over HTTP, alone and with 8 clients at once, the start, and the memory of each process."""

from __future__ import annotations

import os
import time
from base64 import b64encode
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench import application, material
from bench.figures import Goal, Row, alone, difference, ratio
from bench.processes import Process, started
from bench.size import Size
from progress import Progress

CLIENTS = 8
CROWD = 4  # times as many queries are asked by all clients together as by one alone
PERCENTILES = (50, 95, 99)
OVERHEAD, AT_ONCE, START = Goal(8, at_most=True), Goal(2.5), Goal(6, at_most=True)
EMBEDDED = "clip-small"


def settings(size: Size) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "index": f"{size.held} pairs, 10 answers to a query",
        "queries": f"{size.queries} of each kind in each of {size.rounds} rounds, no text twice, a kept connection",
        "encoder alone": f"1 to {os.cpu_count()} threads, the fastest counts; the same texts and pictures, one by one",
        "empty Flow": "`bench/empty`: the boxes that a text goes through, which do nothing, behind Jina's own gateway",
        "clients": f"threads of one process on the same machine; {CLIENTS} at once ask {CROWD} times as many queries",
        "memory": "VmHWM after all queries; what processes share counts in each of them",
    }


def measure(size: Size) -> list[Row]:
    """Measure all models."""
    folder = material.pictures(max(CROWD * size.queries, size.pairs))
    return [row for model in size.models for row in _model(model, folder, size)] + _start(size)


def _model(model: str, folder: Path, size: Size) -> list[Row]:
    environment = material.settings(model)
    paths = sorted(map(str, folder.glob("*.jpg")))[: CROWD * size.queries]
    uris = [f"data:image/jpeg;base64,{b64encode(Path(path).read_bytes()).decode()}" for path in paths]
    said = material.captions(folder, CROWD * size.queries)
    times: dict[str, list[list[float]]] = {}
    rates: dict[str, list[float]] = {}

    def note(name: str, seconds: list[float]) -> None:
        times.setdefault(name, []).append([1000 * value for value in seconds])

    with (
        TemporaryDirectory() as workspace,
        started("-m", "bench.encoders", model, 1, 1, **environment) as encoders,
        started("-m", "bench.empty") as empty,
        Progress(f"query, {model}", total=size.rounds, unit="rounds") as progress,
    ):
        facts = encoders.ask(do="facts")
        material.fill(Path(workspace), facts["fingerprint"], facts["dimension"], size.held)
        with application.server(Path(workspace), **environment) as (port, process, notes):
            for number in range(size.rounds + 1):
                texts = [f"{text} {number}" for text in said[: size.queries]]
                measured = {
                    "text": application.ask(port, texts),
                    "text encoder": _fastest(encoders, "texts", texts=texts),
                    "empty Flow": empty.ask(do="texts", texts=texts),
                    "picture": application.ask(port, uris[: size.queries]),
                    "picture encoder": _fastest(encoders, "pictures", paths=paths[: size.queries]),
                }
                crowds = {
                    "text": _at_once(port, [f"{text} {number} again" for text in said]),
                    "picture": _at_once(port, uris),
                }
                if not number:
                    continue  # the first one warms up
                for name, seconds in measured.items():
                    note(name, seconds)
                for name, (seconds, rate) in crowds.items():
                    note(f"{name} at once", seconds)
                    rates.setdefault(name, []).append(rate)
                progress.advance()
            peaks = application.peak_memory(process, notes)
    return [row for kind in ("text", "picture") for row in _rows(kind, model, times, rates[kind])] + [
        alone(f"query Flow, {model}: peak memory of {name}", "MB", [peak]) for name, peak in sorted(peaks.items())
    ]


def _rows(kind: str, model: str, times: dict[str, list[list[float]]], rates: list[float]) -> list[Row]:
    def percentile(name: str, percent: int) -> list[float]:
        return [float(np.percentile(seconds, percent)) for seconds in times[name]]

    what = f"one {kind} query over HTTP, {model}"
    one = [len(seconds) / sum(seconds) * 1000 for seconds in times[kind]]
    rows = [
        difference(
            f"{what}: p50",
            "ms",
            percentile(kind, 50),
            f"{kind} encoder alone",
            percentile(f"{kind} encoder", 50),
            OVERHEAD if kind == "text" else None,
        )
    ]
    if kind == "text":
        rows.append(difference(f"{what}: p50", "ms", percentile(kind, 50), "empty Flow", percentile("empty Flow", 50)))
    rows += [alone(f"{what}: p{percent}", "ms", percentile(kind, percent)) for percent in PERCENTILES[1:]]
    rows += [
        alone(f"{what}, {CLIENTS} clients: p{percent}", "ms", percentile(f"{kind} at once", percent))
        for percent in PERCENTILES
    ]
    goal = AT_ONCE if kind == "text" else None
    return [*rows, ratio(f"{kind} queries, {CLIENTS} clients, {model}", "queries/s", rates, "one client", one, goal)]


def _fastest(encoders: Process, do: str, **inputs: list[str]) -> list[float]:
    """The encoder's seconds with the number of threads that suits it best."""
    tries = [encoders.ask(do=do, threads=threads + 1, **inputs) for threads in range(os.cpu_count() or 1)]
    return min(tries, key=lambda seconds: float(np.median(seconds)))


def _at_once(port: int, queries: Sequence[str]) -> tuple[list[float], float]:
    """The seconds of each query where 8 clients share them out, and queries per second."""
    shares = [queries[number::CLIENTS] for number in range(CLIENTS)]
    start = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        seconds = [second for taken in pool.map(application.ask, [port] * CLIENTS, shares) for second in taken]
    return seconds, len(seconds) / (time.perf_counter() - start)


def _start(size: Size) -> list[Row]:
    with TemporaryDirectory() as workspace, started("-m", "bench.encoders", EMBEDDED, 0, 0) as encoders:
        facts = encoders.ask(do="facts")
        material.fill(Path(workspace), facts["fingerprint"], facts["dimension"], size.held)
        seconds = []
        with Progress("start", total=size.rounds, unit="starts") as progress:
            for _ in range(size.rounds):
                seconds.append(application.seconds_to_first_answer(Path(workspace), "a dog"))
                progress.advance()
    return [alone(f"start of the query Flow to its first answer, {EMBEDDED}, {size.held} pairs", "s", seconds, START)]
