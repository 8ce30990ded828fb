"""The application as it is measured: its own command lines, started through ``bench.launch`` where notes are needed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from bench.processes import PATIENCE, BenchError, Process, memory, started
from client import IN_FLIGHT
from flow import free_port

_STEP = 0.1  # seconds between two looks at the memory


class Indexing(NamedTuple):
    """A run of ``app.py -t index``: its throughput, and the peak memory of its processes in MB by their names."""

    pairs_per_second: float
    memory: dict[str, float]


def index(folder: Path, workspace: Path, model: str, pairs: int, **settings: Any) -> Indexing:
    """Index pairs of a folder by the application's own command.

    The throughput is that from the first acknowledgement to the last that comes while as many requests are under way as
    then: without the start, without the documents that came with the first, and without the end.
    """
    with TemporaryDirectory() as place:
        notes = Path(place, "notes")
        command = ("-m", "bench.launch", notes, "-t", "index", "-d", folder, "-n", pairs, "-m", model)
        peaks: dict[str, float] = {}
        with started(*command, JINA_WORKSPACE=workspace, **settings) as process:
            while process.popen.poll() is None:
                peaks |= peak_memory(process, notes)
                time.sleep(_STEP)
            process.wait()
        acknowledged = [(note["time"], note["documents"]) for note in read_notes(notes) if note.get("documents")]
    total = sum(documents for _, documents in acknowledged)
    if total != 2 * pairs:
        raise BenchError(f"{total} documents were indexed, not {2 * pairs}: {folder} is not as it was made")
    (first, _), *steady = acknowledged[:-IN_FLIGHT]
    return Indexing(sum(documents for _, documents in steady) / 2 / (steady[-1][0] - first), peaks)


def peak_memory(process: Process, notes: Path) -> dict[str, float]:
    """The peak memory in MB of a launched application's processes that are alive, by their names."""
    named = {"app.py": process.popen.pid} | {note["name"]: note["pid"] for note in read_notes(notes) if "pid" in note}
    return {name: peak for name, pid in named.items() if (peak := memory(pid)) is not None}


def read_notes(notes: Path) -> list[dict[str, Any]]:
    """What `bench.launch` has noted so far."""
    if not notes.exists():
        return []
    return [json.loads(line) for line in notes.read_text().splitlines(keepends=True) if line.endswith("\n")]


def ask(port: int, queries: Iterable[object]) -> list[float]:
    """Ask a query Flow one after the other, over one connection: the server closes one that rests for some seconds.

    Returns:
        For each query the seconds until the whole answer has arrived.

    Raises:
        BenchError: one was refused.
    """
    taken = []
    with closing(HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
        for query in queries:
            body = json.dumps({"data": [query]}).encode()
            start = time.perf_counter()
            connection.request("POST", "/search", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            taken.append(time.perf_counter() - start)
            if answer.status != 200:
                raise BenchError(f"/search answered {answer.status}: {content[:200]!r}")
    return taken


@contextmanager
def server(workspace: Path, **settings: Any) -> Iterator[tuple[int, Process, Path]]:
    """A query Flow that has answered; its port, its process, and the file of its notes."""
    port = free_port()
    with TemporaryDirectory() as place:
        notes = Path(place, "notes")
        command = ("-m", "bench.launch", notes, "-t", "query")
        with started(*command, JINA_WORKSPACE=workspace, JINA_PORT=port, **settings) as process:
            first_answer(port, process)
            yield port, process, notes


def seconds_to_first_answer(workspace: Path, query: str, **settings: Any) -> float:
    """From the start of ``python app.py -t query`` to the first answer of its `/search`."""
    port = free_port()
    start = time.monotonic()
    with started("app.py", "-t", "query", JINA_WORKSPACE=workspace, JINA_PORT=port, **settings) as process:
        return first_answer(port, process, query) - start


def first_answer(port: int, process: Process, query: str = "a dog") -> float:
    """Ask until there is an answer; returns when it came, by the monotonic clock."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        process.require_alive()
        try:
            ask(port, [query])
            return time.monotonic()
        except (OSError, HTTPException, BenchError):
            time.sleep(0.01)
    raise BenchError("the query Flow does not answer")
