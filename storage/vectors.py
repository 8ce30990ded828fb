"""Nearest neighbours among a store's vectors: exact, or with the help of an approximate index."""

from __future__ import annotations

import numpy as np

from storage.approximate import open_approximate
from storage.blocks import Blocks
from storage.store import Store


class VectorIndex:
    """Finds the documents of one store with the greatest inner products, in memory and rebuilt from the store.

    Args:
        store: where the vectors are; what other processes commit there is found as well.
        approximate: a setting of `storage.approximate`, or none for an exact search. What is committed after that
            index was made is searched exactly.
    """

    def __init__(self, store: Store, approximate: str | None = None) -> None:
        self._store = store
        self._last_removal = store.last_removal()
        self._approximate = open_approximate(store, approximate) if approximate else None
        self._last_row = self._approximate.last_row if self._approximate else 0
        self._blocks = Blocks()

    def refresh(self) -> None:
        """Take over what was committed to the store since the last time."""
        for rows, vectors in self._store.vectors_after(self._last_row):
            self._blocks.add(rows, vectors)
            self._last_row = int(rows[-1])
        removals = self._store.removals_after(self._last_removal)
        if removals:
            self._last_removal = removals[-1][0]
            self._blocks.remove(np.array([row for _, row in removals], np.int64))

    def search(self, queries: np.ndarray, top_k: int) -> list[list[tuple[str, float]]]:
        """The nearest documents of each query, nearest first, of equally near ones the smaller id first.

        Args:
            queries: float32 ``[n, dimension]`` of unit length.
            top_k: how many to find for each; there are fewer in a smaller store.

        Returns:
            For each query pairs of a document's id and its cosine distance (0..2).
        """
        self.refresh()
        queries = np.ascontiguousarray(queries, np.float32)
        found = self._blocks.nearest(queries, top_k)
        if self._approximate:
            for query, nearest in zip(queries, found, strict=True):
                older = self._approximate.nearest(query, top_k)
                nearest.take(older.rows, older.scores)
        ids = self._store.ids_of_rows({row for nearest in found for row in nearest.rows.tolist()})
        answers = []
        for nearest in found:
            pairs = zip(nearest.rows.tolist(), nearest.scores.tolist(), strict=True)
            ranked = sorted((1.0 - score, ids[row]) for row, score in pairs if row in ids)  # it may be gone meanwhile
            answers.append([(id_, distance) for distance, id_ in ranked[:top_k]])
        return answers
