"""``python -m bench.peak THREADS``: how fast PyTorch multiplies matrices: the most that any network could reach."""

from __future__ import annotations

import sys

import torch

from bench.worker import Worker, timed

SIDE = 2048


def main() -> None:
    """Answer."""
    worker = Worker()
    torch.set_num_threads(int(sys.argv[1]))

    def multiply(kind: str, times: int) -> float:
        """TFLOP/s in the fastest of some products of square matrices."""
        matrix = torch.ones((SIDE, SIDE), dtype=getattr(torch, kind))
        product = timed(torch.mm)
        return 2 * SIDE**3 / min(product(matrix, matrix) for _ in range(times)) / 1e12

    worker.serve({"multiply": multiply})


if __name__ == "__main__":
    main()
