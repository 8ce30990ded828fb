"""Vectors in memory, and their exact inner products with a query: as fast as the memory can be read."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np

_BLOCK_BYTES = 8 << 20
"""Of a full block: little enough to stay in a processor's cache for the next query of a request."""
_LANES = 16
"""Vectors are filled up with zeros to a multiple: shorter ones faiss sums in an order that depends on their place."""
_THREADS = len(os.sched_getaffinity(0))


class Nearest:
    """The rows with the greatest scores so far. Those that are as near as the last one all count.

    Args:
        top_k: how many are wanted.
    """

    def __init__(self, top_k: int) -> None:
        self.rows, self.scores = np.empty(0, np.int64), np.empty(0, np.float32)
        self._top_k = top_k
        self._least = np.float32(-np.inf)

    def take(self, rows: np.ndarray, scores: np.ndarray) -> None:
        """Consider more rows: int64 ``[n]`` and float32 ``[n]``."""
        near = np.flatnonzero(scores >= self._least)
        if not len(near):
            return
        self.rows = np.concatenate([self.rows, rows[near]])
        self.scores = np.concatenate([self.scores, scores[near]])
        if len(self.scores) > self._top_k:
            self._least = np.partition(self.scores, -self._top_k)[-self._top_k]
            near = np.flatnonzero(self.scores >= self._least)
            self.rows, self.scores = self.rows[near], self.scores[near]


class Blocks:
    """Vectors by their rows. Blocks have a fixed size: an array that grows would take up to twice its memory."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._threads = ThreadPoolExecutor(_THREADS)

    def add(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Take in more: int64 ``[n]`` and float32 ``[n, dimension]``."""
        while len(rows):
            if not self._blocks or self._blocks[-1].full:
                self._blocks.append(_Block(vectors.shape[1]))
            taken = self._blocks[-1].add(rows, vectors)
            rows, vectors = rows[taken:], vectors[taken:]

    def remove(self, rows: np.ndarray) -> None:
        """Forget those of int64 ``[n]`` that are here; the last vectors move to where they were."""
        for block in reversed(self._blocks):
            for hole in np.flatnonzero(np.isin(block.rows, rows))[::-1]:
                block.replace(hole, self._blocks[-1])
                if not self._blocks[-1].count:
                    self._blocks.pop()

    def nearest(self, queries: np.ndarray, top_k: int) -> list[Nearest]:
        """The ``top_k`` nearest to each of float32 ``[n, dimension]``."""
        queries = padded(queries)
        blocks = iter(self._blocks)  # shared: a thread takes the next one when it is done with one

        def scan() -> list[Nearest]:
            found = [Nearest(top_k) for _ in queries]
            for block in blocks:
                for query, nearest in zip(queries, found, strict=True):
                    nearest.take(block.rows, inner_products(query, block.vectors))
            return found

        others = [self._threads.submit(scan) for _ in self._blocks[1:_THREADS]]
        found = scan()
        for other in others:
            for nearest, part in zip(found, other.result(), strict=True):
                nearest.take(part.rows, part.scores)
        return found


class _Block:
    def __init__(self, dimension: int) -> None:
        self.count = 0
        width = _width(dimension)
        capacity = max(1, _BLOCK_BYTES // (width * np.dtype(np.float32).itemsize))
        self._dimension = dimension
        self._vectors = np.zeros((capacity, width), np.float32)  # pages that are not used yet take no memory
        self._rows = np.empty(capacity, np.int64)

    @property
    def full(self) -> bool:
        return self.count == len(self._rows)

    @property
    def rows(self) -> np.ndarray:
        return self._rows[: self.count]

    @property
    def vectors(self) -> np.ndarray:
        return self._vectors[: self.count]

    def add(self, rows: np.ndarray, vectors: np.ndarray) -> int:
        """Take as many as there is room for, and say how many."""
        taken = min(len(rows), len(self._rows) - self.count)
        place = slice(self.count, self.count + taken)
        self._rows[place] = rows[:taken]
        self._vectors[place, : self._dimension] = vectors[:taken]
        self.count += taken
        return taken

    def replace(self, hole: int, block: _Block) -> None:
        """Fill a place with the last vector of a block, which loses it."""
        block.count -= 1
        self._rows[hole], self._vectors[hole] = block._rows[block.count], block._vectors[block.count]


def inner_products(query: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Float32 ``[n]`` of ``padded`` ones ``[width]`` and ``[n, width]``; the same to the bit whatever n is."""
    scores = np.empty(len(vectors), np.float32)
    pointers = map(faiss.swig_ptr, (scores, query, vectors))
    faiss.fvec_inner_products_ny(*pointers, vectors.shape[1], len(vectors))  # type: ignore[attr-defined]
    return scores


def padded(vectors: np.ndarray) -> np.ndarray:
    """Float32 ``[n, dimension]`` with zeros at the end of each, as `inner_products` needs them."""
    number, dimension = vectors.shape
    result = np.zeros((number, _width(dimension)), np.float32)
    result[:, :dimension] = vectors
    return result


def _width(dimension: int) -> int:
    return -(-dimension // _LANES) * _LANES
