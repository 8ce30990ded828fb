"""``python -m bench.vectors STORE``: a process that holds the vector index of one store, and little else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.worker import Worker
from storage.store import Store
from storage.vectors import VectorIndex

Search = Callable[[np.ndarray, int], list[list[tuple[str, float]]]]


def searches(index: VectorIndex) -> dict[str, Search]:
    """The ways in which an index can be searched. An approximate one, once there is one, belongs here."""
    return {"exact": index.search}


def main() -> None:
    """Build, and answer."""
    worker = Worker()
    index = VectorIndex(Store(Path(sys.argv[1]), shards=1))
    index.refresh()
    ways = searches(index)

    def search(way: str, queries: list[list[float]], top_k: int) -> dict[str, Any]:
        """The seconds of each query by itself, and the ids that it finds."""
        seconds, found = [], []
        for query in np.array(queries, np.float32):
            start = time.perf_counter()
            [nearest] = ways[way](query[None], top_k)
            seconds.append(time.perf_counter() - start)
            found.append([id_ for id_, _ in nearest])
        return {"seconds": seconds, "found": found}

    worker.serve({"search": search, "ways": lambda: list(ways)})


if __name__ == "__main__":
    main()
