"""Nearest neighbours among a store's vectors: a faiss index in memory, always rebuilt from the database."""

from __future__ import annotations

import os

import faiss
import numpy as np

from storage.store import Store

_ROWS_AT_ONCE = 10_000
_PARTS = len(os.sched_getaffinity(0))
"""For each core one: faiss takes a single query through a flat index on one core only."""

# The matrix product sums in an order that depends on how many vectors there are: without it a vector's score,
# and so the ranking, is the same to the bit however many shards there are.
faiss.cvar.distance_compute_blas_threshold = 1 << 30


class VectorIndex:
    """Exact inner products with the vectors of one store.

    Args:
        store: where the vectors are; what other processes commit there is found as well.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._parts: list[faiss.IndexIDMap] = []
        self._index = faiss.IndexShards(True, False)  # its parts are searched at once; ids are their own
        self._last_row = self._last_removal = 0

    def refresh(self) -> None:
        """Take over what was committed to the store since the last time."""
        rows: list[int] = []
        vectors: list[bytes] = []
        for row, vector in self._store.vectors_after(self._last_row):
            rows.append(row)
            vectors.append(vector)
            if len(rows) == _ROWS_AT_ONCE:
                self._append(rows, vectors)
        if rows:
            self._append(rows, vectors)
        removals = self._store.removals_after(self._last_removal)
        if removals:
            self._last_removal = removals[-1][0]
            gone = faiss.IDSelectorBatch(np.array([row for _, row in removals], np.int64))
            for part in self._parts:
                part.remove_ids(gone)

    def _append(self, rows: list[int], vectors: list[bytes]) -> None:
        array = np.frombuffer(b"".join(vectors), "<f4").reshape(len(rows), -1)
        if not self._parts:
            self._parts = [faiss.IndexIDMap(faiss.IndexFlatIP(array.shape[1])) for _ in range(_PARTS)]
            for part in self._parts:
                self._index.add_shard(part)
        min(self._parts, key=lambda part: int(part.ntotal)).add_with_ids(array, np.array(rows, np.int64))
        self._last_row = rows[-1]
        rows.clear()
        vectors.clear()

    def search(self, queries: np.ndarray, top_k: int) -> list[list[tuple[str, float]]]:
        """The nearest documents of each query, nearest first.

        Args:
            queries: float32 ``[n, dimension]`` of unit length.
            top_k: how many to find for each; there are fewer in a smaller store.

        Returns:
            For each query pairs of a document's id and its cosine distance (0..2).
        """
        self.refresh()
        if not self._parts or not len(queries):
            return [[] for _ in queries]
        similarities, rows = self._index.search(np.ascontiguousarray(queries, np.float32), top_k)
        ids = self._store.ids_of_rows({int(row) for row in rows.ravel() if row >= 0})
        return [
            [
                (ids[row], 1.0 - similarity)
                for row, similarity in zip(found, scores, strict=True)
                if row in ids  # -1 fills up a short answer; a row removed meanwhile is no answer
            ]
            for found, scores in zip(rows.tolist(), similarities.tolist(), strict=True)
        ]
