"""A faiss index in a file, with a checksum and what it was made of: reading a damaged one could crash the process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import faiss

_CHECKSUM = len(sha256().hexdigest())


def save(path: Path, index: faiss.Index, made_of: dict[str, Any]) -> None:
    """Write the file whole or not at all: the checksum of the rest, ``made_of`` as a line of JSON, and faiss's bytes.

    Raises:
        OSError: it cannot be written.
    """
    for left in path.parent.glob(f"{path.name}.*"):  # by a process that was killed
        left.unlink()
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    digest = sha256()
    try:
        with unfinished.open("wb") as file:

            def write(content: bytes) -> int:
                digest.update(content)
                return file.write(content)

            file.write(bytes(_CHECKSUM))
            write(json.dumps(made_of).encode() + b"\n")
            faiss.write_index(index, faiss.PyCallbackIOWriter(write))  # type: ignore[attr-defined]
            file.seek(0)
            file.write(digest.hexdigest().encode())
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def load(path: Path, fits: Callable[[dict[str, Any]], bool]) -> tuple[faiss.Index, dict[str, Any]] | None:
    """The index and what it was made of; ``None`` if there is no such file, it is damaged, or that does not fit.

    Raises:
        OSError: it cannot be read.
    """
    if not path.exists():
        return None
    with path.open("rb") as file:
        checksum = file.read(_CHECKSUM)
        if file_digest(file, sha256).hexdigest().encode() != checksum:
            return None
        file.seek(_CHECKSUM)
        made_of = json.loads(file.readline())
        if not fits(made_of):
            return None
        return faiss.read_index(faiss.PyCallbackIOReader(file.read)), made_of  # type: ignore[attr-defined]
