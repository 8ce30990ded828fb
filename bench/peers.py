"""Part ``peers``: other programs with the same purpose, in environments of their own; the machine's peak as context."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from bench import application, material
from bench.figures import Goal, Row, alone, ratio
from bench.processes import BenchError, Process, started
from bench.size import Size
from progress import Progress

MODEL = "clip"
KINDS = ("bfloat16", "float32")
PRODUCTS = 10
WARM = 8  # pairs and texts before anything is counted


class Peer(NamedTuple):
    """A program, what is installed for it, the module that runs it, and the goal for indexing."""

    name: str
    packages: tuple[str, ...]
    module: str
    goal: Goal | None = None


# All that is not beside them: clip-server pins a protobuf that no newer Jina takes, and runs without.
PEERS = (
    Peer(
        "clip-server",
        (
            "clip-server==0.8.3",
            "clip-client==0.8.3",
            "docarray==0.21.0",
            "open_clip_torch==2.8.0",
            "pillow-avif-plugin==1.6.0",
        ),
        "bench.others.clip_server_flow",
        Goal(5),
    ),
    Peer(
        "sentence-transformers",
        ("sentence-transformers==6.2.0", "scikit-learn==1.9.1", "joblib==1.6.0", "threadpoolctl==3.8.0"),
        "bench.others.sentence_transformers_clip",
    ),
)


def settings(size: Size) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "weights": "the same random ViT-B/32 for all",
        "environments": "venvs in the workspace that fall back on the packages of this one, above all PyTorch: "
        + "; ".join(" ".join(peer.packages) for peer in PEERS),
        "indexing": f"theirs is encoding alone, {size.slow_pairs} pairs; ours `app.py -t index`, {size.pairs} pairs",
        "one text": f"{size.queries} a round; theirs is encoding alone, ours the whole query over HTTP",
        "peak": "products of matrices 2048 x 2048 in PyTorch, the fastest of ten",
    }


def measure(size: Size) -> list[Row]:
    """Measure what can be run, and say why of what cannot."""
    folder = material.pictures(size.pairs)
    weights = material.random_weights()
    rows = _peak(size)
    for peer in PEERS:
        with ExitStack() as stack:
            try:
                process = stack.enter_context(started("-m", peer.module, weights, python=_environment(peer)))
                _pairs(process, folder, WARM)
            except BenchError as error:
                rows.append(_not_run(peer, str(error)))
            else:
                rows += _peer(peer, process, folder, size)
    return rows


def _peak(size: Size) -> list[Row]:
    with started("-m", "bench.peak", os.cpu_count() or 1) as process:
        rates = {
            kind: [process.ask(do="multiply", kind=kind, times=PRODUCTS) for _ in range(size.rounds)] for kind in KINDS
        }
    return [alone(f"matrix products, {kind}", "TFLOP/s", of_kind) for kind, of_kind in rates.items()]


def _not_run(peer: Peer, why: str) -> Row:
    return Row(f"indexing, {MODEL}", "pairs/s", contender=peer.name, goal=peer.goal, note=f"not run: {why}")


def _pairs(process: Process, folder: Path, number: int) -> float:
    """Pairs per second of a peer."""
    paths, texts = sorted(map(str, folder.glob("*.jpg")))[:number], material.captions(folder, number)
    return number / float(process.ask(do="pairs", paths=paths, texts=texts))


def _peer(peer: Peer, process: Process, folder: Path, size: Size) -> list[Row]:
    environment, texts = material.settings(MODEL), material.captions(folder, size.queries)
    ours, theirs, our_texts, their_texts = [], [], [], []
    with Progress(peer.name, total=2 * size.rounds + 1, unit="rounds") as progress, TemporaryDirectory() as place:
        for number in range(size.rounds):
            workspace = Path(place, str(number))
            ours.append(application.index(folder, workspace, MODEL, size.pairs, **environment).pairs_per_second)
            theirs.append(_pairs(process, folder, size.slow_pairs))
            progress.advance()
        with application.server(workspace, **environment) as (port, _, _):
            for number in range(size.rounds + 1):
                asked = [f"{text} {number}" for text in texts]
                our_texts.append(1000 * median(application.ask(port, asked)))
                their_texts.append(1000 * median(process.ask(do="each", texts=asked)))
                progress.advance()
    return [
        ratio(f"indexing, {MODEL}", "pairs/s", ours, peer.name, theirs, peer.goal),
        ratio(f"one text, {MODEL}", "ms", our_texts[1:], peer.name, their_texts[1:]),  # the first one warms up
    ]


def _environment(peer: Peer) -> Path:
    """The Python of a peer's environment, made if it is absent or was made otherwise.

    Raises:
        BenchError: it cannot be installed.
    """
    folder = material.cache() / "environments" / peer.name
    python, stamp = folder / "bin" / "python", folder / "installed"
    wanted = hashlib.sha1("\n".join([sys.version, *peer.packages]).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(folder))
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "beside.pth").write_text(sysconfig.get_path("purelib"))  # what is there already is not installed again
    _run(str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", *peer.packages)
    stamp.write_text(wanted)
    return python


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        wrong = [line for line in done.stderr.splitlines() if line.lower().startswith("error")]
        raise BenchError((wrong or [f"{command[0]} failed"])[-1])
