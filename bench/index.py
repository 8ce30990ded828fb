"""Part ``index``: indexing through the Flow against the encoders alone, a naive Flow and a plain loop; growth."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import flow as flows
from bench import application, material
from bench.figures import Goal, Row, alone, ratio
from bench.processes import Process, started
from bench.size import Size
from models import EMBEDDED
from progress import Progress

LIMIT, NAIVE, PLAIN, GROWTH = Goal(0.85), Goal(5), Goal(5), Goal(0.95)
FASTEST = "clip-small"
"""The model that growth is measured with: a slow one would hide what the indexers cost."""

Contender = Callable[[list[str], list[str]], float]


def settings(size: Size) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "ours": f"`python app.py -t index -n {size.pairs} -m MODEL` with all defaults, into an empty workspace; "
        "pairs a second from the first acknowledgement to the last while requests are still being sent",
        "pictures": "JPEGs of 500 x 375, quality 90, with one caption each, cached by the system",
        "limit": "decoding, preprocessing and both encoders of `models.load` in one process, batches of 32, "
        f"{size.pairs} pairs; decoding before or while encoding, 1 to {os.cpu_count()} threads each, the fastest way",
        "naive port": f"`bench/naive/flow.yml`: the same boxes in float32, 77 tokens a text, float pixels in messages, "
        f"16 documents a request, one request at a time, {size.slow_pairs} pairs",
        "plain open_clip": f"float32, DataLoader without workers, batches of 32, 77 tokens a text, faiss; "
        f"{size.slow_pairs} pairs",
        "growth": f"{FASTEST}, {size.added} pairs into indexes of {size.growth[0]:,} and {size.growth[1]:,} pairs",
        "rounds": f"{size.rounds}, in each all contenders once, after one pass of each that is not counted",
    }


def measure(size: Size) -> list[Row]:
    """Measure all models, then the growth."""
    folder = material.pictures(max(size.pairs, size.added))
    return [row for model in size.models for row in _model(model, folder, size)] + _growth(folder, size)


def _model(model: str, folder: Path, size: Size) -> list[Row]:
    environment = material.settings(model)
    rates: dict[str, list[float]] = {}
    peaks: dict[str, list[float]] = {}
    with ExitStack() as stack, Progress(f"index, {model}", total=size.rounds, unit="rounds") as progress:
        contenders = _contenders(model, environment, folder, size, stack)
        for _ in range(size.rounds):
            with TemporaryDirectory() as workspace:
                ours = application.index(folder, Path(workspace), model, size.pairs, **environment)
            rates.setdefault("ours", []).append(ours.pairs_per_second)
            for name, peak in ours.memory.items():
                peaks.setdefault(name, []).append(peak)
            for name, (number, contender) in contenders.items():
                rates.setdefault(name, []).append(number / _timed(contender, folder, number))
            progress.advance()
    goals = {"limit": LIMIT, "naive port": NAIVE, "plain open_clip": PLAIN}
    ours_rates = rates.pop("ours")
    rows = [
        ratio(f"indexing, {model}", "pairs/s", ours_rates, name, theirs, goals[name]) for name, theirs in rates.items()
    ]
    return rows + [
        alone(f"index Flow, {model}: peak memory of {name}", "MB", peak) for name, peak in sorted(peaks.items())
    ]


def _contenders(
    model: str, environment: dict[str, Any], folder: Path, size: Size, stack: ExitStack
) -> dict[str, tuple[int, Contender]]:
    """How many pairs each contender is given in a round, and what takes them; all have been run once."""
    encoders = stack.enter_context(started("-m", "bench.encoders", model, 1, 1, **environment))
    contenders = {"limit": (size.pairs, _fastest_way(encoders, folder, size.tried))}
    if model != "vse":  # which open_clip does not know
        embedded = model != "clip"
        name, pretrained = ("local-dir:.", "") if embedded else ("ViT-B-32", environment["CLIP_PRETRAINED"])
        place = EMBEDDED / model if embedded else flows.ROOT  # its configuration names files beside itself
        naive = {"NAIVE_MODEL": name, "NAIVE_PRETRAINED": pretrained}
        workspace = stack.enter_context(TemporaryDirectory())
        for title, process in (
            ("naive port", started("-m", "bench.naive", folder=place, NAIVE_WORKSPACE=workspace, **naive)),
            ("plain open_clip", started("-m", "bench.plain", name, pretrained, folder=place)),
        ):
            contenders[title] = (size.slow_pairs, _asked(stack.enter_context(process)))
            _timed(contenders[title][1], folder, size.tried)
    return contenders


def _asked(process: Process, **way: int) -> Contender:
    return lambda paths, texts: float(process.ask(do="pairs", paths=paths, texts=texts, **way))


def _timed(contender: Contender, folder: Path, number: int) -> float:
    return contender(sorted(map(str, folder.glob("*.jpg")))[:number], material.captions(folder, number))


def _fastest_way(encoders: Process, folder: Path, tried: int) -> Contender:
    cores = range(1, (os.cpu_count() or 1) + 1)
    ways = [_asked(encoders, decoders=len(cores), threads=len(cores), ahead=0)]
    ways += [_asked(encoders, decoders=decoders, threads=threads, ahead=2) for decoders in cores for threads in cores]
    for way in ways:
        _timed(way, folder, tried)
    return min(ways, key=lambda way: median(_timed(way, folder, tried) for _ in range(3)))


def _growth(folder: Path, size: Size) -> list[Row]:
    """Index the same pairs into copies of a small and of a large index."""
    with TemporaryDirectory() as place, Progress("growth", total=size.rounds, unit="rounds") as progress:
        with started("-m", "bench.encoders", FASTEST, 0, 0) as encoders:
            facts = encoders.ask(do="facts")
        full = {held: Path(place, str(held)) for held in size.growth}
        for held, workspace in full.items():
            material.fill(workspace, facts["fingerprint"], facts["dimension"], held)
        rates: dict[int, list[float]] = {held: [] for held in size.growth}
        for _ in range(size.rounds):
            for held, workspace in full.items():
                copy = shutil.copytree(workspace, Path(place, "copy"))
                rates[held].append(application.index(folder, copy, FASTEST, size.added).pairs_per_second)
                shutil.rmtree(copy)
            progress.advance()
    few, many = size.growth
    title = f"indexing into {many:,} pairs, {FASTEST}"
    return [ratio(title, "pairs/s", rates[many], f"into {few:,} pairs", rates[few], GROWTH)]
