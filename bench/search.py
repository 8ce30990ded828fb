"""Part ``search``: the vector index alone, against the memory's bandwidth; and how much memory it takes."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench import material
from bench.figures import Goal, Row, alone, ratio
from bench.processes import Process, memory, started
from bench.size import Size
from progress import Progress
from storage.approximate import FEWEST
from storage.store import Store

DIMENSION, TOP_K, SWEEPS = 512, 10, 5
SETTING = "IVF1024,SQ8 nprobe=16"
MILLION = 1_000_000
"""Vectors from which on the goals hold."""
BANDWIDTH, APPROXIMATE, RECALL, MEMORY = Goal(1.3, at_most=True), Goal(20), Goal(0.95), Goal(1.25, at_most=True)


def settings(size: Size) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "vectors": f"float32, {DIMENSION} dimensions, 1,000 Gaussians of {material.INTRINSIC} dimensions each with "
        "some noise: `bench/material.py`",
        "exact": f"`storage.vectors.VectorIndex`, one query at a time, {TOP_K} answers with their ids; the median of "
        f"{size.vector_queries} queries in each of {size.rounds} rounds",
        "approximate": f"the same with `JINA_INDEX={SETTING}`, from {FEWEST:,} vectors on; recall against exact",
        "memory bandwidth": f"the fastest of {SWEEPS} sweeps of three kinds, {os.cpu_count()} threads, over an array "
        "of the vectors' size",
        "memory": "of a process that holds the index and has searched: VmRSS, and VmHWM as the peak",
    }


def measure(size: Size) -> list[Row]:
    """Measure all stores."""
    return [row for number in size.stores for row in _store(number, size)]


def _store(number: int, size: Size) -> list[Row]:
    queries = material.Vectors(DIMENSION).queries(size.vector_queries).tolist()
    times: dict[str, list[float]] = {}
    found: dict[str, list[list[str]]] = {}
    with TemporaryDirectory() as place, ExitStack() as running:
        with closing(Store(Path(place), shards=1)) as store:
            material.fill_store(store, number, DIMENSION)
        indexes = {"exact": running.enter_context(started("-m", "bench.vectors", place))}
        if number >= FEWEST:
            indexes["approximate"] = running.enter_context(started("-m", "bench.vectors", place, SETTING))
        built = {way: index.ask(do="built") for way, index in indexes.items()}
        reader = running.enter_context(started("-m", "bench.bandwidth", number, DIMENSION, os.cpu_count() or 1))
        with Progress(f"search, {number:,} vectors", total=size.rounds, unit="rounds") as progress:
            for _ in range(size.rounds):
                for way, index in indexes.items():
                    answer = index.ask(do="search", queries=queries, top_k=TOP_K)
                    times.setdefault(way, []).append(1000 * median(answer["seconds"]))
                    found[way] = answer["found"]
                read = min(reader.ask(do="read", times=SWEEPS).values())
                times.setdefault("read", []).append(1000 * read)
                progress.advance()
        rows = _rows(number, times, found)
        for way, index in indexes.items():
            rows.append(alone(f"{way} index of {number:,} vectors: made in", "s", [built[way]]))
            rows += _memory(number, way, index)
        return rows


def _rows(number: int, times: dict[str, list[float]], found: dict[str, list[list[str]]]) -> list[Row]:
    counts = number >= MILLION
    what = f"search in {number:,} vectors"
    exact, read = times["exact"], times["read"]
    rows = [
        ratio(f"exact {what}", "ms", exact, "memory bandwidth", read, BANDWIDTH if counts else None),
        alone("memory bandwidth in this size", "GB/s", [number * DIMENSION * 4 / 1e6 / value for value in read]),
    ]
    if "approximate" in found:
        recall = _recall(found["approximate"], found["exact"])
        rows += [
            ratio(
                f"approximate {what}, times faster",
                "ms",
                exact,
                "approximate",
                times["approximate"],
                APPROXIMATE if counts else None,
            ),
            alone(f"approximate {what}: recall@{TOP_K}", "", [recall], RECALL if counts else None),
        ]
    return rows


def _recall(found: list[list[str]], right: list[list[str]]) -> float:
    """How much of what is nearest was found, on average over the queries."""
    return mean(len(set(one) & set(other)) / len(other) for one, other in zip(found, right, strict=True))


def _memory(number: int, way: str, index: Process) -> list[Row]:
    goal = MEMORY if number >= MILLION else None
    raw = number * DIMENSION * np.dtype(np.float32).itemsize / 1e6
    return [
        ratio(f"{title} of an indexer with {number:,} vectors, {way}", "MB", [used], "raw vectors", [raw], goal)
        for title, what in (("memory", "VmRSS"), ("peak memory", "VmHWM"))
        if (used := memory(index.popen.pid, what)) is not None
    ]
