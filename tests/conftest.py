"""Fixtures and helpers that several test files share: programs of this project in processes of their own."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from hashlib import sha1
from io import BytesIO
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image, ImageColor

from bench.processes import members
from flow import free_port

ROOT = Path(__file__).resolve().parent.parent
COLOURS = ("red", "lime", "blue", "yellow", "white", "magenta")
SPLITS = {"train": 24, "dev": 8, "test": 8}
WORDS = ("red", "green", "blue", "dark", "bright", "square")
UNKNOWN = "0" * 40
"""The id of no picture."""
PATIENCE = 180.0
"""Seconds after which whatever is waited for is given up; on a busy machine a Flow starts slowly."""
_SETTINGS = ("JINA_", "CLIP_", "VSE_")


@pytest.fixture(scope="session")
def flickr8k() -> Path:
    """The folder of the real Flickr8k data set beside the repository; the test is skipped without it."""
    folder = ROOT.parent / "shared" / "flickr8k"
    if not folder.is_dir():
        pytest.skip("no Flickr8k at ../shared/flickr8k")
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in Flickr8k's layout: 40 pictures of noise with five captions each."""
    folder = tmp_path_factory.mktemp("f8k")
    (folder / "images").mkdir()
    (folder / "splits").mkdir()
    random = np.random.default_rng(0)
    with (folder / "captions.txt").open("w", newline="") as stream:
        captions = csv.writer(stream)
        captions.writerow(["image", "caption"])
        for split, count in SPLITS.items():
            names = [f"{split}{number}.jpg" for number in range(count)]
            (folder / "splits" / f"Flickr_8k.{split}Images.txt").write_text("\n".join(names))
            for name in names:
                pixels = random.integers(0, 256, (6, 8, 3), np.uint8)
                Image.fromarray(pixels).resize((64, 48)).save(folder / "images" / name)
                captions.writerows([name, ", ".join(random.choice(WORDS, 3)) + " ."] for _ in range(5))
    return folder


class Result(NamedTuple):
    """What a program left behind."""

    code: int
    out: str
    err: str


class Indexed(NamedTuple):
    """An index of ``COLOURS``, which tests copy before they change it, and the run that made it."""

    folder: Path
    workspace: Path
    run: Result


@pytest.fixture(scope="session")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Indexed:
    """One picture of each of ``COLOURS`` with the caption "<colour> square", indexed with the stand-in model."""
    folder = paint(tmp_path_factory.mktemp("pictures"), {f"{colour}.png": colour for colour in COLOURS})
    workspace = tmp_path_factory.mktemp("index") / "workspace"
    return Indexed(folder, workspace, run("app.py", "-t", "index", "-d", folder, "-m", "vse", workspace=workspace))


@pytest.fixture(scope="module")
def searching(indexed: Indexed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A query server on a copy of the index. Tests add to it, but nothing that is near to ``COLOURS``."""
    workspace = shutil.copytree(indexed.workspace, tmp_path_factory.mktemp("searching") / "workspace")
    with server(workspace) as running:
        yield running


def paint(folder: Path, colours: Mapping[str, str], caption: str = "{} square") -> Path:
    """Make 8 x 8 pictures, each with the caption of its own colour."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, colour in colours.items():
        Image.new("RGB", (8, 8), colour).save(folder / name)
    write_captions(folder, {name: caption.format(colour) for name, colour in colours.items()})
    return folder


def paint_random(folder: Path, number: int, *, noise: int = 0, seed: int = 7) -> list[tuple[np.ndarray, np.ndarray]]:
    """Make 8 x 8 pictures of random patterns; a caption's first word is a colour that is off by up to ``noise``.

    Returns:
        For each picture its mean colour and that of its caption, in the order of the names.
    """
    random = np.random.default_rng(seed)
    captions, colours = {}, []
    for place in range(number):
        pixels = np.clip(random.integers(20, 236, 3) + random.integers(-20, 20, (8, 8, 3)), 0, 255).astype(np.uint8)
        name = f"{place:04}.png"
        Image.fromarray(pixels).save(folder / name)
        said = np.clip(pixels.mean((0, 1)).round() + random.integers(-noise, noise + 1, 3), 0, 255).astype(int)
        captions[name] = "#{:02x}{:02x}{:02x} pattern {}".format(*said, place)
        colours.append((pixels.mean((0, 1)), said))
    write_captions(folder, captions)
    return colours


def write_captions(folder: Path, captions: Mapping[str, str]) -> None:
    """Write a captions.txt in the format of Flickr8k."""
    lines = ["image,caption", *(f"{name},{caption}" for name, caption in captions.items())]
    (folder / "captions.txt").write_text("\n".join(lines) + "\n")


def unit(colour: np.ndarray | str) -> np.ndarray:
    """The stand-in model's vector of a colour, computed here once more: float32 ``[4]``."""
    rgb = ImageColor.getrgb(colour)[:3] if isinstance(colour, str) else colour
    raised = np.append(np.asarray(rgb, np.float32), np.float32(64))
    return raised / np.linalg.norm(raised)


def settings(workspace: Path, **environment: Any) -> dict[str, str]:
    """The environment of a program that uses the stand-in model."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    boxes = ("normalizer", "image_encoder", "text_encoder")
    stand_in = {f"JINA_{box.upper()}": str(ROOT / "tests" / "stand_in" / f"{box}.yml") for box in boxes}
    given = {name: str(value) for name, value in environment.items()}
    return {**clean, **stand_in, "JINA_WORKSPACE": str(workspace), **given}


@contextmanager
def process(
    *command: object, workspace: Path, out: IO[str] | int = subprocess.PIPE, **environment: Any
) -> Iterator[subprocess.Popen[str]]:
    """A running Python program in a session of its own, no process of which outlives the block."""
    with subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=settings(workspace, **environment),
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        try:
            yield running
        finally:
            kill(running)


def kill(running: subprocess.Popen[str]) -> None:
    """Kill -9 for a program and all its processes."""

    def gone() -> bool:
        alive = members(running.pid)
        for process in alive:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return not alive

    wait_until(gone, "the killed processes are gone")
    running.wait(PATIENCE)


def run(*command: object, workspace: Path, **environment: Any) -> Result:
    """Run a Python program to its end."""
    with process(*command, workspace=workspace, **environment) as running:
        out, err = running.communicate(timeout=PATIENCE)
        return Result(running.returncode, out, err)


def wait_until(holds: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Look again and again until a condition holds; the test fails if it never does."""
    deadline = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.002)  # only so that the processes that are waited for get the processor


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    headers: Any
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)


class Server(NamedTuple):
    """A running Flow with an HTTP gateway."""

    port: int
    process: subprocess.Popen[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return _fetch(Request(path if path.startswith("http") else self.url + path, headers=dict(headers or {})))

    def post(self, path: str, body: object) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return _fetch(Request(self.url + path, data, {"Content-Type": "application/json"}))

    def search(self, *queries: object, **fields: object) -> list[list[dict[str, Any]]]:
        """The matches of each query."""
        answer = self.post("/search", {"data": queries, **fields})
        assert answer.status == 200, answer.body
        return [doc["matches"] for doc in answer.body["data"]["docs"]]


def _fetch(request: Request) -> Answer:
    try:
        with urlopen(request, timeout=PATIENCE) as response:
            return Answer(response.status, response.headers, response.read())
    except HTTPError as error:
        return Answer(error.code, error.headers, error.read())


@contextmanager
def server(workspace: Path, *options: str, **environment: Any) -> Iterator[Server]:
    """A query server that is ready; by default it takes the model of the index."""
    port = free_port()
    with process("app.py", "-t", "query", *options, workspace=workspace, JINA_PORT=port, **environment) as running:
        assert running.stdout
        first = running.stdout.readline()
        assert f"localhost:{port}" in first, f"{first}{running.stderr.read() if running.stderr else ''}"
        yield Server(port, running)


def refused_start(workspace: Path, *options: str, **environment: Any) -> str:
    """Start a query server that must refuse to; gives the line that it ends with."""
    done = run("app.py", "-t", "query", *options, workspace=workspace, JINA_PORT=free_port(), **environment)
    assert (done.code, done.out) == (1, "")
    [line] = done.err.splitlines()
    assert line.startswith("app.py: ")
    return line


def listening(pid: int) -> list[tuple[IPv4Address | IPv6Address, int]]:
    """The addresses and ports that a process listens on."""
    links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    lines = [line.split() for file in ("tcp", "tcp6") for line in Path("/proc/net", file).read_text().splitlines()]
    found = []
    for _, local, _, state, *_, inode in (line[:10] for line in lines):
        if state == "0A" and f"socket:[{inode}]" in links:
            host, _, port = local.partition(":")
            words = struct.unpack(f"={len(host) // 8}I", bytes.fromhex(host))
            address = ip_address(struct.pack(f"!{len(words)}I", *words))
            found.append((getattr(address, "ipv4_mapped", None) or address, int(port, 16)))
    return found


def gateway(running: Server) -> int:
    """The process of a server that its port belongs to."""
    return next(pid for pid in members(running.process.pid) if running.port in {port for _, port in listening(pid)})


def as_data_uri(data: bytes, mime_type: str) -> str:
    """An encoded picture as queries have it."""
    return f"data:{mime_type};base64,{b64encode(data).decode()}"


def picture(colour: str, kind: str = "PNG") -> str:
    """A picture of one colour as a data URI."""
    file = BytesIO()
    Image.new("RGB", (9, 7), colour).save(file, kind)
    return as_data_uri(file.getvalue(), f"image/{kind.lower()}")


def truncated_picture() -> str:
    """A JPEG as a data URI, the second half of which is missing."""
    file = BytesIO()
    Image.fromarray(np.random.default_rng(5).integers(0, 255, (64, 64, 3), np.uint8)).save(file, "JPEG")
    return as_data_uri(file.getvalue()[: len(file.getvalue()) // 2], "image/jpeg")


def stored_id(indexed: Indexed, colour: str) -> str:
    """The id of the picture of a colour."""
    return sha1((indexed.folder / f"{colour}.png").read_bytes()).hexdigest()


def assert_refused(answer: Any, status: int, *words: str) -> None:
    """An HTTP error with a body that Jina Box understands."""
    assert answer.status == status
    body = answer.body
    assert body["data"] == {"docs": []}
    assert body["search"] == {"docs": []}
    assert body["status"]["code"] == "ERROR"
    description = body["status"]["description"]
    assert description
    assert "\n" not in description
    for word in words:
        assert word in description


@contextmanager
def taken_port() -> Iterator[tuple[socket.socket, int]]:
    """A port that somebody else uses; asked for a connection it does not wait for one."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        yield listener, listener.getsockname()[1]


def held(workspace: Path, indexer: str, columns: str = "id", table: str = "documents") -> list[Any]:
    """The rows of all shards of an indexer, read beside whoever uses them; a single column comes bare."""
    rows: list[Any] = []
    for path in sorted(workspace.glob(f"{indexer}/*/documents.sqlite")):
        try:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
                rows += connection.execute(f"SELECT {columns} FROM {table}").fetchall()
        except sqlite3.OperationalError:  # being made at this moment
            continue
    return [row[0] if len(row) == 1 else row for row in rows]
