"""What is indexed, asked and searched: pictures of a real size, random weights, vectors with a structure, full indexes.

Pictures and weights are made once and kept in the folder ``bench`` of the workspace.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from hashlib import sha1
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

import flow as flows
from bench.processes import started
from dataset import open_data_set
from progress import Progress
from storage.store import Record, Source, Store

SIZE = (500, 375)
QUALITY = 90
SEED = 5
CLUSTERS, INTRINSIC, SPREAD, NOISE = 1_000, 32, 0.9, 0.1
_FLICKR8K = flows.ROOT.parent / "shared" / "flickr8k"
_AT_ONCE = 10_000


def cache() -> Path:
    """The folder for what is made once."""
    folder = flows.workspace() / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def pictures(number: int) -> Path:
    """A folder of at least ``number`` JPEGs of 500 x 375 pixels with a caption each, no two of them the same.

    They are enlarged from Flickr8k where it stands beside the repository, else from the toy set, whose photographs are
    repeated a little darker each time.
    """
    name, source = ("flickr8k", str(_FLICKR8K)) if _FLICKR8K.is_dir() else ("toy", "toy")
    pairs = {pair.path: pair for pair in reversed(list(open_data_set(source).pairs(skip=lambda *_: None)))}
    folder = cache() / f"pictures-{name}"
    folder.mkdir(exist_ok=True)
    captions: dict[str, str] = {}
    with Progress("pictures", total=number, unit="pictures") as progress:
        for place, pair in enumerate(islice(cycle(reversed(pairs.values())), number)):
            file = folder / f"{place:06}.jpg"
            captions[file.name] = f"{pair.caption} ({place})"
            if not file.exists():
                _write_whole(file, _enlarged(pair.path, darker=place // len(pairs)))
            progress.advance()
    text = folder / "captions.txt"
    if not text.exists() or len(text.read_text(encoding="utf-8").splitlines()) <= number:
        with text.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("image", "caption"), *captions.items()])
    return folder


def _enlarged(path: Path, *, darker: int) -> bytes:
    with Image.open(path) as picture:
        large = picture.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
    file = BytesIO()
    ImageEnhance.Brightness(large).enhance(1 - 0.001 * darker).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _write_whole(file: Path, content: bytes) -> None:
    unfinished = file.with_suffix(f".{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.replace(file)


def settings(model: str) -> dict[str, Any]:
    """The environment with which a model is measured: ``clip`` is ViT-B/32 with random weights."""
    if model != "clip":
        return {}
    return {"CLIP_MODEL": "ViT-B-32", "CLIP_PRETRAINED": str(random_weights() / "open_clip.safetensors")}


def random_weights() -> Path:
    """The folder that `bench.random_weights` writes, made if absent."""
    folder = cache() / "ViT-B-32"
    if not folder.exists():
        with started("-m", "bench.random_weights", folder) as process:
            process.wait()
    return folder


def captions(folder: Path, number: int) -> list[str]:
    """The captions of the first ``number`` pictures of `pictures`."""
    with (folder / "captions.txt").open(newline="", encoding="utf-8") as stream:
        return [row["caption"] for row in islice(csv.DictReader(stream), number)]


class Vectors:
    """Clustered unit vectors, the same in every run.

    Random directions have no neighbours worth finding, pictures have. So these are a mixture of 1,000 Gaussians: around
    a centre of length 1 in a random direction, about 0.9 long along 32 directions of the centre's own (the intrinsic
    dimension), plus about 0.1 in all directions; then scaled to length 1.

    Args:
        dimension: of the space.
    """

    def __init__(self, dimension: int) -> None:
        random = np.random.default_rng(SEED)
        self._dimension = dimension
        self._centres = random.standard_normal((CLUSTERS, dimension), np.float32) / np.float32(dimension**0.5)
        bases = random.standard_normal((CLUSTERS, INTRINSIC, dimension), np.float32)
        self._bases = bases * np.float32(SPREAD / (INTRINSIC * dimension) ** 0.5)

    def blocks(self, number: int) -> Iterator[np.ndarray]:
        """Float32 ``[up to 10,000, dimension]`` at a time."""
        for start in range(0, number, _AT_ONCE):
            yield self._block(min(_AT_ONCE, number - start), seed=start + 1)

    def queries(self, number: int) -> np.ndarray:
        """Float32 ``[number, dimension]`` from the same mixture, none of them among `blocks`."""
        return self._block(number, seed=0)

    def _block(self, number: int, *, seed: int) -> np.ndarray:
        random = np.random.default_rng((SEED, seed))
        owners = random.integers(CLUSTERS, size=number)
        inner = random.standard_normal((number, INTRINSIC), np.float32)
        noise = random.standard_normal((number, self._dimension), np.float32)
        block = self._centres[owners] + noise * np.float32(NOISE / self._dimension**0.5)
        for owner in np.unique(owners):
            block[owners == owner] += inner[owners == owner] @ self._bases[owner]
        return np.asarray(block / np.linalg.norm(block, axis=1, keepdims=True))


def fill_store(store: Store, number: int, dimension: int) -> None:
    """Put clustered vectors into a store, without anything else."""
    with Progress("vectors", total=number, unit="vectors") as progress:
        place = 0
        for block in Vectors(dimension).blocks(number):
            store.add(Record(id=f"{place + offset}", vector=vector) for offset, vector in enumerate(block))
            place += len(block)
            progress.advance(len(block))


def fill(workspace: Path, fingerprint: str, dimension: int, number: int) -> None:
    """Make an index of ``number`` pairs of random vectors, tiny pictures and short captions."""
    open_store = partial(Store, shards=1)
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    jpeg = file.getvalue()
    with (
        closing(open_store(workspace / "image_vector_indexer" / "0")) as pictures,
        closing(open_store(workspace / "image_kv_indexer" / "0")) as files,
        closing(open_store(workspace / "text_indexer" / "0")) as texts,
        Progress("filling", total=number, unit="pairs") as progress,
    ):
        for store in (pictures, texts):
            store.require_model(fingerprint)
        place = 0
        for block in Vectors(dimension).blocks(number):
            said = [f"filler {place + offset}" for offset in range(len(block))]
            blobs = [jpeg + text.encode() for text in said]  # what follows a JPEG's end is ignored
            ids = [sha1(blob).hexdigest() for blob in blobs]
            sources = [Source(id_, f"/{text}.jpg") for id_, text in zip(ids, said, strict=True)]
            pictures.add(
                Record(id=id_, vector=vector, source=source)
                for id_, vector, source in zip(ids, block, sources, strict=True)
            )
            files.add(
                Record(id=id_, mime_type="image/jpeg", text=text, picture=blob, width=8, height=8, source=source)
                for id_, text, blob, source in zip(ids, said, blobs, sources, strict=True)
            )
            texts.add(
                Record(
                    id=sha1(text.encode()).hexdigest(), mime_type="text/plain", text=text, vector=vector, source=source
                )
                for text, vector, source in zip(said, block, sources, strict=True)
            )
            place += len(block)
            progress.advance(len(block))
