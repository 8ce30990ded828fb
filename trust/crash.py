"""Part ``crash``: a random process of the Flow is killed again and again while it indexes, and the Flow is stopped."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.request import Request, urlopen

import numpy as np
from PIL import Image

from bench.application import read_notes
from bench.processes import PATIENCE, BenchError, Process, members, started
from executors.document import picture_id, text_id
from executors.protocol import data_uri
from flow import INDEXERS, ROOT, free_port
from trust.report import Row

VECTORS, PICTURES, TEXTS = INDEXERS
KILLS, QUICK_KILLS = 100, 3
MOST = 40
"""After how many acknowledgements of a run a process is killed at most."""
PICTURES_EACH = 320
"""For each kill, so that the last one still has something to interrupt: a run goes on until it notices."""
START = 0.25
"""The share of the kills that come while the Flow starts."""
SHARDS = 2
HANGS = 120.0
"""Seconds after which a program hangs that has lost one of its processes or was told to stop."""
LIMIT = 5.0
"""Seconds within which a stopped program is gone, with all its processes."""
AT_ONCE = 64
"""Queries in one request."""
CLIENT = "app.py"
_STEP = 0.005  # seconds between two looks
_STAND_IN: dict[str, Any] = {
    f"JINA_{box.upper()}": str(ROOT / "tests" / "stand_in" / f"{box}.yml")
    for box in ("normalizer", "image_encoder", "text_encoder")
}
"""A model that is quick; it is not what is tried here."""


def measure(seed: int, quick: bool) -> list[Row]:
    """Kill processes while a data set is indexed, look at what is there in the end, and stop Flows.

    Raises:
        BenchError: the data set was indexed before all kills were done.
    """
    with TemporaryDirectory(prefix="trust-crash-") as place:
        kills = QUICK_KILLS if quick else KILLS
        data = Data.paint(Path(place, "pictures"), seed, kills * PICTURES_EACH)
        workspace = Path(place, "workspace")
        crashes = _crash(data, workspace, random.Random(seed), kills)
        faults = [*crashes.faults, *examine(data, workspace, crashes.told)]
        victims = ", ".join(f"{name} {count}" for name, count in sorted(crashes.victims.items()))
        rows = [
            Row(
                "kill -9 of one process while it indexes: nothing acknowledged is lost or twice, the same command goes "
                "on, `-t verify` finds nothing, every document is found by itself",
                f"{sum(crashes.victims.values())} kills ({victims})",
                "; ".join(faults[:5]) or f"0 of {len(crashes.told):,} acknowledged documents",
                not faults,
            )
        ]
        return rows + [
            _stopped(data, Path(place), name, number, how)
            for number, name in ((signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C"))
            for how in ("index", "query")
        ]


# ------------------------------------------------------------------------------------------------------- material


class Data(NamedTuple):
    """A folder of pictures with one caption each: files by their pictures' ids, texts by theirs."""

    folder: Path
    pictures: dict[str, Path]
    texts: dict[str, str]

    @classmethod
    def paint(cls, folder: Path, seed: int, number: int) -> Data:
        """Make pictures of random colours; a caption begins with a colour, which the stand-in model understands."""
        folder.mkdir()
        colours = np.random.default_rng(seed).integers(0, 256, (number, 3), np.uint8)
        pictures, texts = {}, {}
        with (folder / "captions.txt").open("w", newline="", encoding="utf-8") as stream:
            lines = csv.writer(stream)
            lines.writerow(["image", "caption"])
            for place, colour in enumerate(colours):
                path = folder / f"{place:05}.png"
                Image.new("RGB", (8, 8 + place // 256), tuple(map(int, colour))).save(path)
                text = f"#{colour.tobytes().hex()} picture {place}"
                lines.writerow([path.name, text])
                pictures[picture_id(path.read_bytes())], texts[text_id(text)] = path, text
        return cls(folder, pictures, texts)

    @property
    def command(self) -> tuple[object, ...]:
        """The arguments that index it, few documents in a request so that there are many acknowledgements."""
        return ("-t", "index", "-d", self.folder, "-n", 2 * len(self.texts), "-m", "vse", "-s", 4)


# ------------------------------------------------------------------------------------------------------- kills


class Crashes(NamedTuple):
    """What was killed how often, what the client was told, and what did not end as it should."""

    victims: Counter[str]
    told: set[str]
    faults: list[str]


def _crash(data: Data, workspace: Path, chance: random.Random, kills: int) -> Crashes:
    crashes = Crashes(Counter(), set(), [])
    notes = workspace.with_name("notes")
    for number in range(1, kills + 1):
        notes.unlink(missing_ok=True)
        starting = chance.random() < START
        enough = chance.randint(1, 12) if starting else chance.randint(0, MOST)
        with _launched(notes, data, workspace) as process:
            _wait(lambda: _reached(notes, starting, enough), process)  # noqa: B023  # called before the next round
            time.sleep(chance.uniform(0, 0.05))
            victim, pid = chance.choice([(CLIENT, process.popen.pid), *_processes(notes)])
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            fault = _end(process)
        crashes.victims[victim.split("/")[0]] += 1
        crashes.told.update(acknowledged(notes))
        if fault:
            crashes.faults.append(f"kill {number}, of {victim}: {fault}")
    notes.unlink()
    with _launched(notes, data, workspace) as process:
        process.wait()
    crashes.told.update(acknowledged(notes))
    return crashes


@contextmanager
def _launched(notes: Path, data: Data, workspace: Path) -> Iterator[Process]:
    command = ("-m", "trust.launch", notes, *data.command)
    with started(*command, JINA_WORKSPACE=workspace, JINA_SHARDS=SHARDS, **_STAND_IN) as process:
        yield process


def _reached(notes: Path, starting: bool, enough: int) -> bool:
    """Whether so many processes have started, or the Flow has, and so many documents are acknowledged."""
    if starting:
        return len(_processes(notes)) >= enough
    return len(acknowledged(notes)) >= max(enough, 1)


def _processes(notes: Path) -> list[tuple[str, int]]:
    return [(note["name"], note["pid"]) for note in read_notes(notes) if "pid" in note]


def acknowledged(notes: Path) -> set[str]:
    """The ids of the documents whose acknowledgements reached a launched client."""
    return {note["acknowledged"] for note in read_notes(notes) if "acknowledged" in note}


def _wait(reached: Callable[[], bool], process: Process) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        if process.popen.poll() == 0:
            raise BenchError("everything was indexed before it could be killed")
        process.require_alive()
        if time.monotonic() > deadline:
            raise BenchError(f"the Flow did nothing for {PATIENCE:.0f} s")
        time.sleep(_STEP)


def _end(process: Process) -> str:
    """Wait until a program that has lost a process has ended; returns what was wrong with its end."""
    try:
        process.popen.wait(HANGS)
    except subprocess.TimeoutExpired:
        return f"it hung for {HANGS:.0f} s"
    deadline = time.monotonic() + HANGS
    while members(process.popen.pid):
        if time.monotonic() > deadline:
            return "processes were left"
        time.sleep(_STEP)
    return ""


# ------------------------------------------------------------------------------------------------------- what is left


def examine(data: Data, workspace: Path, told: set[str]) -> list[str]:
    """What is wrong with an index that should hold a whole data set, in words.

    Args:
        told: the ids of documents that were acknowledged.
    """
    faults = list(lost(data, workspace, told))
    command = [sys.executable, str(ROOT / "app.py"), "-t", "verify"]
    environment = {**os.environ, **_STAND_IN, "JINA_WORKSPACE": str(workspace)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    if done.returncode or not done.stdout.endswith("all is well\n"):
        faults.append(f"-t verify: {(done.stdout + done.stderr).strip()}")
    return faults + list(not_found(data, workspace))


def lost(data: Data, workspace: Path, told: set[str]) -> Iterator[str]:
    """As ``examine``, of the databases alone."""
    everything = {VECTORS: data.pictures.keys(), PICTURES: data.pictures.keys(), TEXTS: data.texts.keys()}
    for indexer, expected in everything.items():
        held = Counter(id_ for (id_,) in _rows(workspace, indexer, "SELECT id FROM documents"))
        yield from (f"{indexer} has lost {id_}, which was acknowledged" for id_ in (told & expected) - {*held})
        yield from (f"{indexer} lacks {id_}" for id_ in expected - told - {*held})
        yield from (f"{indexer} holds {id_} {count} times" for id_, count in held.items() if count > 1)
        yield from (f"{indexer} holds {id_}, which nobody indexed" for id_ in held.keys() - expected)
        files = {path: id_ for id_, path in data.pictures.items()}
        for id_, picture, path in _rows(workspace, indexer, "SELECT id, picture_id, path FROM sources"):
            if files.get(Path(path)) != picture or (indexer != TEXTS and picture != id_):
                yield f"{indexer} has {id_} from {path}"
    for id_, picture in _rows(workspace, PICTURES, "SELECT id, picture FROM documents"):
        if picture_id(picture) != id_:
            yield f"the picture {id_} is not what it was"
    for id_, text in _rows(workspace, TEXTS, "SELECT id, text FROM documents"):
        if text_id(text) != id_:
            yield f"the text {id_} is not what it was"


def _rows(workspace: Path, indexer: str, query: str) -> Iterator[tuple[Any, ...]]:
    for path in sorted(workspace.glob(f"{indexer}/*/documents.sqlite")):
        with closing(sqlite3.connect(path)) as connection:
            yield from connection.execute(query)


def not_found(data: Data, workspace: Path) -> Iterator[str]:
    """As ``examine``, by asking for each document with itself: it must be at distance 0."""
    port = free_port()
    with started("app.py", "-t", "query", JINA_WORKSPACE=workspace, JINA_PORT=port, **_STAND_IN) as process:
        _listening(process)
        pictures = [(id_, data_uri("image/png", path.read_bytes())) for id_, path in data.pictures.items()]
        for target, queries in (("image", pictures), ("text", list(data.texts.items()))):
            for start in range(0, len(queries), AT_ONCE):
                part = queries[start : start + AT_ONCE]
                for (id_, _), matches in zip(part, _search(port, [query for _, query in part], target), strict=True):
                    if not any(match["id"] == id_ and match["score"]["value"] < 1e-5 for match in matches):
                        yield f"{id_} is not found by itself"


def _listening(process: Process) -> None:
    assert process.popen.stdout
    if "localhost" not in process.popen.stdout.readline():
        process.popen.wait(HANGS)
        process.require_alive()


def _search(port: int, queries: list[str], target: str) -> list[list[dict[str, Any]]]:
    body = json.dumps({"data": queries, "parameters": {"target": target, "top_k": 10}}).encode()
    request = Request(f"http://127.0.0.1:{port}/search", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=PATIENCE) as response:
        return [doc["matches"] for doc in json.load(response)["data"]["docs"]]


# ------------------------------------------------------------------------------------------------------- stops


def _stopped(data: Data, place: Path, name: str, number: signal.Signals, how: str) -> Row:
    """Stop a program in the middle of its work, and look for what it leaves behind."""
    notes, port = place / f"notes-{name}-{how}", free_port()
    workspace = place / "workspace" if how == "query" else place / f"workspace-{name}"
    command = ("-t", "query") if how == "query" else data.command
    settings = _STAND_IN | {"JINA_WORKSPACE": str(workspace), "JINA_PORT": str(port)}
    with started("-m", "trust.launch", notes, *command, **settings) as process:
        if how == "query":
            _listening(process)
            _search(port, list(data.texts.values())[:AT_ONCE], "image")
        else:
            _wait(lambda: bool(acknowledged(notes)), process)
        begin = time.monotonic()
        process.popen.send_signal(number)
        fault = _end(process)
        seconds = time.monotonic() - begin
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            fault = fault or "its port was still open"
    doing = "serves" if how == "query" else "indexes"
    said = fault or f"0 processes, 0 ports, after {seconds:.1f} s"
    return Row(
        f"{name} while it {doing}: all is gone within {LIMIT:.0f} s", "1 stop", said, not fault and seconds <= LIMIT
    )
