"""``python -m bench.bandwidth ROWS DIMENSION THREADS``: how long it takes to read an array of float32 once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from bench.worker import Worker, timed


def main() -> None:
    """Make the array, and answer."""
    worker = Worker()
    rows, dimension, threads = map(int, sys.argv[1:])
    torch.set_num_threads(threads)
    array = np.ones((rows, dimension), np.float32)
    tensor, vector = torch.from_numpy(array), torch.ones(dimension)
    parts = np.array_split(array.reshape(-1), threads)
    pool = ThreadPoolExecutor(threads)
    sweeps: dict[str, Callable[[], object]] = {
        "sum of PyTorch": tensor.sum,
        "product with a vector of PyTorch": lambda: torch.mv(tensor, vector),
        "largest of NumPy, a thread for each part": lambda: list(pool.map(np.max, parts)),
    }

    def read(times: int) -> dict[str, float]:
        """The least seconds that each kind of sweep took."""
        return {name: min(timed(sweep)() for _ in range(times)) for name, sweep in sweeps.items()}

    worker.serve({"read": read})


if __name__ == "__main__":
    main()
