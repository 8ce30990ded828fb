"""What the tests of the running application share: folders of pictures, runs of the programs, a server."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
STAND_IN = {
    f"JINA_{box.upper()}": f"tests/stand_in/{box}.yml" for box in ("normalizer", "image_encoder", "text_encoder")
}
PATIENCE = 90.0


def environment(workspace: Path, **settings: str) -> dict[str, str]:
    """The environment of a program on the stand-in model and a workspace of its own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("JINA_", "CLIP_", "VSE_"))}
    return {**own, **STAND_IN, "JINA_WORKSPACE": str(workspace), **settings}


def run(program: str, *options: str, workspace: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run ``app.py`` or ``evaluate.py`` to its end."""
    command = [sys.executable, str(ROOT / program), *options]
    return subprocess.run(
        command, env=environment(workspace, **settings), capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@contextlib.contextmanager
def started(program: str, *options: str, workspace: Path, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """Start a program, and kill what is left of it at the end."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / program), *options],
        env=environment(workspace, **settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextlib.contextmanager
def served(workspace: Path, **settings: str) -> Iterator[Server]:
    """A query server over an index."""
    port = free_port()
    with started("app.py", "-t", "query", "-m", "vse", workspace=workspace, JINA_PORT=str(port), **settings) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("http://localhost:"), line + process.stdout.read()
        yield Server(port)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE)


class Server:
    """A running query server."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        return self._open(Request(self.address + path))

    def post(self, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        """Status and JSON of the answer to a JSON body, or to bytes as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, _, answer = self._open(Request(self.address + path, data, {"Content-Type": "application/json"}))
        return status, json.loads(answer)

    def matches(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        """The matches of one query."""
        status, answer = self.post("/search", {"data": [query], "parameters": parameters})
        assert status == 200, answer
        found: list[dict[str, Any]] = answer["data"]["docs"][0]["matches"]
        return found

    def _open(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        try:
            with urlopen(request, timeout=PATIENCE) as response:
                return response.status, dict(response.headers), response.read()
        except HTTPError as error:
            return error.code, dict(error.headers), error.read()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)  # a poll, not a guess of how long something takes


def paint(folder: Path, number: int, *, seed: int = 0) -> None:
    """Fill a folder with pictures of random colours, each with a caption that starts with its colour."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["image,caption"]
    for index, colour in enumerate(np.random.default_rng(seed).integers(0, 256, (number, 3))):
        pixels = np.full((24, 32, 3), colour, np.uint8)
        pixels[0, 0] = index % 256, index // 256, seed  # so that no two files are the same
        Image.fromarray(pixels).save(folder / f"{index:04}.png")
        lines.append(f'{index:04}.png,"{colour_name(colour)} is the colour, number {index}"')
    (folder / "captions.txt").write_text("\n".join(lines) + "\n")


def colour_name(colour: np.ndarray) -> str:
    """A colour as the stand-in model reads it in a text."""
    return "#" + bytes(colour.astype(np.uint8)).hex()


def data_uri(file: Path) -> str:
    """A picture's file as a ``data:`` URI."""
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


def stored(workspace: Path, indexer: str) -> list[str]:
    """The ids that an indexer holds on disk, in all its shards."""
    ids: list[str] = []
    for database in sorted((workspace / indexer).glob("*/documents.sqlite")):
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=PATIENCE)) as connection:
            try:
                ids += [row[0] for row in connection.execute("SELECT id FROM documents")]
            except sqlite3.OperationalError:  # it is just being made
                continue
    return ids
