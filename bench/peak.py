"""``python -m bench.peak THREADS``: how fast PyTorch multiplies matrices: the most that any network could reach."""

from __future__ import annotations

import sys
import time

import torch

from bench.worker import Worker

SIDE = 2048


def main() -> None:
    """Answer."""
    worker = Worker()
    torch.set_num_threads(int(sys.argv[1]))

    def multiply(kind: str, times: int) -> float:
        """TFLOP/s in the fastest of some products of square matrices."""
        matrix = torch.ones((SIDE, SIDE), dtype=getattr(torch, kind))
        seconds = []
        for _ in range(times):
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            seconds.append(time.perf_counter() - start)
        return 2 * SIDE**3 / min(seconds) / 1e12

    worker.serve({"multiply": multiply})


if __name__ == "__main__":
    main()
