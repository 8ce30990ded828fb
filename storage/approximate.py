"""An approximate index of a store's vectors: any of faiss's, kept in a file that is made anew when it does not fit."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np

from progress import Progress
from storage import index_file
from storage.blocks import Nearest, inner_products, padded
from storage.store import APPROXIMATE, StorageError, Store

FEWEST = 10_000
"""Vectors from which on it is worth while: fewer are searched exactly in a millisecond."""
_TRAINED_ON = 200_000
_RERANKED = 4
"""Times as many candidates as are wanted are compared by their own vectors: the score of a coded vector is rough."""
_CHANGED = 0.1
"""Share of the vectors that may have come or gone since: more, and the index is made anew at the next start."""
_SETTING = re.compile(r"\S+( \w+=\d+)*")
_EXAMPLE = "IVF1024,SQ8 nprobe=16"


class ApproximateIndex:
    """Proposes rows that are near to a query; the store's own vectors say how near, and which are still there.

    Args:
        store: where the vectors are.
        index: of faiss, with all rows up to ``last_row``.
        last_row: what is newer has to be searched in another way.
    """

    def __init__(self, store: Store, index: faiss.Index, last_row: int) -> None:
        self._store = store
        self._index = index
        self.last_row = last_row

    def nearest(self, query: np.ndarray, top_k: int) -> Nearest:
        """The ``top_k`` nearest to float32 ``[dimension]`` as far as they are found, with exact scores."""
        faiss.omp_set_num_threads(1)  # to share a single query out takes longer than to answer it
        wanted = _RERANKED * top_k
        while True:
            [found] = self._index.search(query[None], wanted)[1]
            rows, vectors = self._store.vectors_of_rows(found[found >= 0].tolist())  # -1 fills up a short answer
            if len(rows) >= top_k or found[-1] < 0:
                break
            wanted *= _RERANKED  # too many of them are gone
        nearest = Nearest(top_k)
        nearest.take(rows, inner_products(padded(query[None])[0], padded(vectors)))
        return nearest


def open_approximate(store: Store, setting: str) -> ApproximateIndex | None:
    """The approximate index of a store, from its file if that fits, else made anew and saved.

    Args:
        store: where the vectors are.
        setting: a name for faiss's ``index_factory``, then parameters of the search: ``"IVF1024,SQ8 nprobe=16"``.

    Returns:
        ``None`` where there are fewer than `FEWEST` vectors, or it cannot be made of them: a line on standard error
        says why.
    """
    path = store.path.with_name(APPROXIMATE)
    facts = {
        "factory": setting.split()[0],
        "faiss": faiss.__version__,
        "model": store.fact("model"),
        "store": store.identity(),
    }

    def fits(made_of: dict[str, Any]) -> bool:
        changes = store.last_row() - made_of["last_row"] + store.last_removal() - made_of["last_removal"]
        return facts.items() <= made_of.items() and changes <= _CHANGED * made_of["vectors"]

    try:
        if not (loaded := index_file.load(path, fits)):
            if len(store) < FEWEST:
                return None
            index, state = _build(store, setting)
            index_file.save(path, index, facts | state)
            del index  # its arrays have grown to up to twice of what is in them
            loaded = index_file.load(path, fits)
    except (OSError, StorageError) as error:
        print(f"{store.path.parent} is searched exactly: {error}", file=sys.stderr, flush=True)
        return None
    if not loaded:
        return None
    index, made_of = loaded
    _set_parameters(index, setting)
    return ApproximateIndex(store, index, made_of["last_row"])


def check(setting: str, dimension: int) -> None:
    """Refuse a setting that faiss does not know what to do with.

    Raises:
        StorageError: names it, and shows one that is right.
    """
    _new(setting, dimension)


def _build(store: Store, setting: str) -> tuple[faiss.Index, dict[str, int]]:
    number, last_row, last_removal = len(store), 0, store.last_removal()
    index = _trained(store, setting, step=-(-number // _TRAINED_ON))
    with Progress(f"{store.path.parent.parent.name}: {setting}", total=number, unit="vectors") as progress:
        for rows, vectors in store.vectors_after(0):
            index.add_with_ids(vectors, rows)
            last_row = int(rows[-1])
            progress.advance(len(rows))
    return index, {"last_row": last_row, "last_removal": last_removal, "vectors": index.ntotal}


def _trained(store: Store, setting: str, *, step: int) -> faiss.Index:
    """An empty index that has seen one in ``step`` vectors, from the first to the last."""
    sample = np.concatenate([vectors[::step].copy() for _, vectors in store.vectors_after(0)])
    index = _new(setting, sample.shape[1])
    with _blamed(setting):
        index.train(sample)
    return index


def _new(setting: str, dimension: int) -> faiss.Index:
    with _blamed(setting):
        if not _SETTING.fullmatch(setting):
            raise RuntimeError("parameters are NAME=NUMBER")
        index = faiss.index_factory(dimension, f"IDMap,{setting.split()[0]}", faiss.METRIC_INNER_PRODUCT)
        _set_parameters(index, setting)
    return index


def _set_parameters(index: faiss.Index, setting: str) -> None:
    for parameter in setting.split()[1:]:
        faiss.ParameterSpace().set_index_parameters(index, parameter)  # type: ignore[arg-type]


@contextmanager
def _blamed(setting: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split(": ")[-1].split())
        raise StorageError(
            f"JINA_INDEX={setting!r} cannot be used ({reason}): use one like {_EXAMPLE}, or none"
        ) from error
