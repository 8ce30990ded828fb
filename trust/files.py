"""Bad files: ``python -m trust.files TARGET SEED CASES`` reads mutated ones and prints how many.

Whatever is in a file, its reader answers or raises its own error, on one line; it starts no program and connects to
nobody.
"""

from __future__ import annotations

import json
import pickle
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

import flow as flows
from dataset import DataError, open_data_set
from executors.picture import PictureError, decode, inspect, read, thumbnail
from models import ModelError
from models.checkpoint import read_checkpoint
from models.vocabulary import SPECIAL, Vocabulary
from models.vse import VseModel
from trust.cases import forbid, mutations, tried


def _one_line(error: Exception) -> None:
    assert len(str(error).splitlines()) == 1, f"{error!r} is not one line"


# ------------------------------------------------------------------------------------------------------- pictures


def pictures(seed: int, cases: int) -> int:
    """JPEG, PNG, WebP, GIF, BMP and TIFF: head, pixels and thumbnail."""
    return tried(_see, mutations(_encoded_pictures()), seed=seed, cases=cases)


def _encoded_pictures() -> list[bytes]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 31, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[str, str, dict[str, object]]] = [
        ("JPEG", "RGB", {"exif": exif}),
        ("JPEG", "CMYK", {"progressive": True}),
        ("PNG", "RGBA", {"exif": exif}),
        ("PNG", "P", {}),
        ("PNG", "I;16", {}),
        ("WEBP", "RGB", {"exif": exif}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("GIF", "P", {"save_all": True, "append_images": [noise.rotate(90).convert("P")]}),
        ("BMP", "RGB", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw", "exif": exif}),
        ("TIFF", "1", {"compression": "group4"}),
        ("TIFF", "RGB", {"compression": "jpeg"}),
    ]
    files = []
    for kind, mode, options in kinds:
        file = BytesIO()
        (noise.convert("L").convert(mode) if mode == "I;16" else noise.convert(mode)).save(file, kind, **options)
        files.append(file.getvalue())
    return files


def _see(data: bytes) -> None:
    for use in (inspect, decode, lambda data: thumbnail(data, 320)):
        try:
            use(data)
        except PictureError as error:
            _one_line(error)


def addresses(seed: int, cases: int) -> int:
    """``uri`` of pictures: nothing but base64 ``data:`` is read, and no path without a data set."""
    pieces = st.sampled_from(
        ["data:", "DATA:", "image/png", ";base64", ",", "file://", "http://", "/", "..", "%2e", "=="]
    )
    return tried(_resolve, st.lists(pieces | st.text(max_size=8), max_size=8).map("".join), seed=seed, cases=cases)


def _resolve(uri: str) -> None:
    try:
        read(uri, None)
    except PictureError as error:
        _one_line(error)
    else:
        assert uri[:5].lower() == "data:", uri


# ------------------------------------------------------------------------------------------------------- data sets


def captions(seed: int, cases: int) -> int:
    """``captions.txt`` of a folder: what is wrong is named, and no picture from elsewhere comes out."""
    text = st.lists(st.sampled_from(["a.png", "b/c.png", ",", '"', '""', "\n", "\r\n", "..", "/", "\0"]) | st.text())
    content = st.binary() | text.map(lambda parts: "".join(parts).encode("utf-8", "surrogatepass"))
    with tempfile.TemporaryDirectory() as folder:
        _paint(Path(folder, "a.png"))
        return tried(lambda data: _list(folder, data), content, seed=seed, cases=cases)


def _list(folder: str, content: bytes) -> None:
    Path(folder, "captions.txt").write_bytes(content)
    try:
        data_set = open_data_set(folder)
    except DataError as error:
        return _one_line(error)
    skipped: list[str] = []
    for pair in data_set.pairs(skip=lambda name, reason: skipped.append(name + reason)):
        assert pair.path.resolve() == Path(folder, "a.png").resolve()
    assert all(line.isprintable() for line in skipped)


def sentences(seed: int, cases: int) -> int:
    """Flickr30k's JSON."""
    image = {"filename": "a.png", "split": "test", "sentences": [{"raw": "A red square ."}]}
    original = json.dumps({"images": [image, {**image, "filename": "b.png"}], "dataset": "flickr30k"}).encode()
    trees = st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.sampled_from(["a.png", "test", "../a.png"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["images", "filename", "split", "sentences", "raw"]), inner, max_size=5)
        ),
    )
    content = mutations([original]) | trees.map(lambda tree: json.dumps(tree).encode())
    with tempfile.TemporaryDirectory() as data:
        folder = Path(data, "f30k")
        (folder / "images").mkdir(parents=True)
        _paint(folder / "images/a.png")
        return tried(lambda data: _list_f30k(folder, data), content, seed=seed, cases=cases)


def _list_f30k(folder: Path, content: bytes) -> None:
    (folder / "dataset_flickr30k.json").write_bytes(content)
    try:
        pairs = open_data_set("f30k", data=folder.parent).pairs(skip=lambda *_: None)
    except DataError as error:
        return _one_line(error)
    assert all(pair.path.resolve() == (folder / "images/a.png").resolve() for pair in pairs)


def _paint(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path)


# ------------------------------------------------------------------------------------------------------- models


def vocabularies(seed: int, cases: int) -> int:
    """The authors' pickle and this project's JSON."""
    words = [*SPECIAL, "a", "dog"]
    module = ModuleType("vocab")
    author = type("Vocabulary", (), {"__module__": "vocab"})
    sys.modules["vocab"], module.Vocabulary = module, author  # type: ignore[attr-defined]
    vocabulary = author()
    vocabulary.word2idx = {word: number for number, word in enumerate(words)}
    attack = _Attack()
    pickles = [pickle.dumps(one, protocol) for one in (vocabulary, attack, [attack]) for protocol in (0, 2, 4)]
    files = mutations(pickles).map(lambda data: (".pkl", data))
    files |= mutations([json.dumps(words).encode()]).map(lambda data: (".json", data))
    with tempfile.TemporaryDirectory() as folder:
        return tried(lambda file: _read_vocabulary(Path(folder), *file), files, seed=seed, cases=cases)


class _Attack:
    """What runs a program when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        import os

        return os.system, ("true",)


def _read_vocabulary(folder: Path, suffix: str, content: bytes) -> None:
    path = folder / f"vocabulary{suffix}"
    path.write_bytes(content)
    try:
        Vocabulary.read(path).encode("a dog")
    except ModelError as error:
        _one_line(error)


def checkpoints(seed: int, cases: int) -> int:
    """Weights of CLIP: PyTorch's formats, TorchScript and safetensors; weights of VSE++."""
    weights = {f"module.layer{number}.weight": torch.ones(3, number + 1) for number in range(3)}
    files = [save(weights), _saved(weights), _saved(weights, _use_new_zipfile_serialization=False)]
    files += [_saved({"opt": Namespace(cnn_type="vgg19"), "model": [weights, weights]}), _saved(_Attack()), _script()]
    with tempfile.TemporaryDirectory() as folder:
        return tried(
            lambda data: _read_weights(Path(folder, "model.pt"), data), mutations(files), seed=seed, cases=cases
        )


def _saved(content: object, **options: bool) -> bytes:
    file = BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def _script() -> bytes:
    file = BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(3, 2), torch.ones(1, 3)), file)  # type: ignore[no-untyped-call]
    return file.getvalue()


def _read_weights(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    for use in (read_checkpoint, VseModel.load_own):
        try:
            use(file)
        except ModelError as error:
            _one_line(error)


TARGETS: dict[str, Callable[[int, int], int]] = {
    target.__name__: target for target in (pictures, addresses, captions, sentences, vocabularies, checkpoints)
}


def main() -> int:
    """Try one target; returns the exit code."""
    name, seed, cases = sys.argv[1:]
    flows.quiet()
    forbid()
    print(TARGETS[name](int(seed), int(cases)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
