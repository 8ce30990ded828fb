"""A server on a small real index, and what can be seen of it from outside."""

from __future__ import annotations

import json
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from bench.application import first_answer
from bench.processes import PATIENCE, Process, members, memory, started
from flow import ROOT, free_port

MODEL = "clip-small"
STEP = 0.5  # seconds between two looks at the memory


class Answer(NamedTuple):
    """What a request came to: its HTTP status, 0 where the connection was lost, and its body."""

    status: int
    content: bytes

    @property
    def is_understood(self) -> bool:
        """Whether Jina Box could show it."""
        try:
            body = json.loads(self.content)
            return isinstance(body["data"]["docs"], list) and body["status"]["code"] in ("SUCCESS", "ERROR")
        except (ValueError, KeyError, TypeError):
            return False


@contextmanager
def serving(**settings: Any) -> Iterator[tuple[int, Process]]:
    """The query Flow on the toy photographs; its port and its process."""
    boxes: dict[str, Any]
    boxes, model = ({}, MODEL) if settings.pop("encodes", True) else (stand_in(), "vse")
    port = free_port()
    with TemporaryDirectory() as folder:
        workspace = Path(folder, "workspace")
        with started(
            *("app.py", "-t", "index", "-d", "toy", "-m", model), JINA_WORKSPACE=workspace, **boxes
        ) as indexing:
            indexing.popen.communicate(timeout=PATIENCE)
            indexing.wait()
        command = ("app.py", "-t", "query")
        with started(*command, JINA_WORKSPACE=workspace, JINA_PORT=port, **boxes, **settings) as process:
            first_answer(port, process)
            yield port, process


def stand_in() -> dict[str, str]:
    """The environment of encoders that take no time, where the encoders are not what is tried."""
    boxes = ("normalizer", "image_encoder", "text_encoder")
    return {f"JINA_{box.upper()}": str(ROOT / "tests/stand_in" / f"{box}.yml") for box in boxes}


def post(port: int, path: str, body: bytes, *, timeout: float = PATIENCE) -> Answer:
    """Send one request over a connection of its own."""
    try:
        with closing(HTTPConnection("127.0.0.1", port, timeout=timeout)) as connection:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return Answer(response.status, response.read())
    except (OSError, HTTPException) as error:
        return Answer(0, repr(error).encode())


def search(query: object) -> bytes:
    """The body of a search."""
    return json.dumps({"data": [query]}).encode()


def noise(megabytes: float, seed: int) -> str:
    """A picture that cannot be compressed, of about so many MB, as a ``data:`` URI."""
    side = int((megabytes * 2**20 / 3) ** 0.5)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    return encoded(Image.fromarray(pixels), compress_level=0)


def flat(side: int) -> str:
    """A square picture of one colour, which is small however many pixels it has."""
    return encoded(Image.new("RGB", (side, side), "teal"))


def encoded(picture: Image.Image, **options: Any) -> str:
    """A picture as a PNG in a ``data:`` URI."""
    file = BytesIO()
    picture.save(file, "PNG", **options)
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"


def used(process: Process) -> float:
    """MB of memory that all processes of a server have in use, each counted without what it shares with others."""
    total = 0.0
    for pid in members(process.popen.pid):
        total += (memory(pid, "VmRSS") or 0.0) - (memory(pid, "RssShmem") or 0.0) - (memory(pid, "RssFile") or 0.0)
    return total


class Watch:
    """Looks at a server's memory again and again while inside; ``samples`` are MB."""

    def __init__(self, process: Process) -> None:
        self._process, self._ended = process, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.samples: list[float] = []

    def _look(self) -> None:
        while not self._ended.wait(STEP):
            self.samples.append(used(self._process))

    def __enter__(self) -> Watch:
        self.samples.append(used(self._process))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.samples.append(used(self._process))

    @property
    def peak(self) -> float:
        """The most, MB."""
        return max(self.samples)

    def slope(self) -> float:
        """MB an hour, by least squares over the second half: the first one fills caches."""
        half = self.samples[len(self.samples) // 2 :]
        if len(half) < 2:
            return 0.0
        return float(np.polyfit(np.arange(len(half)) * STEP / 3600, half, 1)[0])
