"""``python -m bench.vectors STORE [SETTING]``: a process that holds the vector index of one store, and little else."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.worker import Worker
from storage.store import Store
from storage.vectors import VectorIndex


def main() -> None:
    """Build, and answer."""
    worker = Worker()
    start = time.perf_counter()
    index = VectorIndex(Store(Path(sys.argv[1]), shards=1), *sys.argv[2:])
    index.refresh()
    built = time.perf_counter() - start

    def search(queries: list[list[float]], top_k: int) -> dict[str, Any]:
        """The seconds of each query by itself, and the ids that it finds."""
        seconds, found = [], []
        for query in np.array(queries, np.float32):
            start = time.perf_counter()
            [nearest] = index.search(query[None], top_k)
            seconds.append(time.perf_counter() - start)
            found.append([id_ for id_, _ in nearest])
        return {"seconds": seconds, "found": found}

    worker.serve({"search": search, "built": lambda: built})


if __name__ == "__main__":
    main()
