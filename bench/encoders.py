"""``python -m bench.encoders MODEL IMAGE TEXT``: a model alone in one process, which a Flow cannot beat."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

import models
from bench.worker import Worker, timed
from executors.picture import decode

BATCH = 32


class Encoders:
    """The towers of a model, and what pictures need before them.

    Args:
        name: one of ``models.NAMES``.
        image: whether the image tower is needed.
        text: whether the text tower is.
    """

    def __init__(self, name: str, *, image: bool, text: bool) -> None:
        self.model = models.load(name, image=image, text=text)

    def facts(self) -> dict[str, Any]:
        """Fingerprint and dimension."""
        return {"fingerprint": self.model.fingerprint, "dimension": self.model.dimension}

    def texts(self, texts: list[str], threads: int) -> list[float]:
        """The seconds that each text takes by itself."""
        torch.set_num_threads(threads)
        encode = timed(self.model.encode_texts)
        return [encode([text]) for text in texts]

    def pictures(self, paths: list[str], threads: int) -> list[float]:
        """The seconds that each picture takes by itself, from its file's bytes on."""
        torch.set_num_threads(threads)

        @timed
        def encode(data: bytes) -> None:
            self.model.encode_images(self._pixels(data)[None])

        return [encode(data) for data in [Path(path).read_bytes() for path in paths]]

    def pairs(self, paths: list[str], texts: list[str], decoders: int, threads: int, ahead: int) -> float:
        """The seconds that pairs of pictures and captions take.

        Args:
            decoders: threads that decode and resize.
            threads: of the encoders.
            ahead: how many batches are decoded while one is encoded; with 0 one is done after the other.
        """
        torch.set_num_threads(threads)

        @timed
        def encode() -> None:
            with ThreadPoolExecutor(decoders) as pool:
                for place, pixels in enumerate(self._decoded(paths, pool, ahead)):
                    self.model.encode_images(pixels)
                    self.model.encode_texts(texts[place * BATCH : (place + 1) * BATCH])

        return encode()

    def _decoded(self, paths: list[str], pool: ThreadPoolExecutor, ahead: int) -> Iterator[np.ndarray]:
        waiting: deque[list[Future[np.ndarray]]] = deque()
        for start in range(0, len(paths), BATCH):
            batch = paths[start : start + BATCH]
            waiting.append([pool.submit(lambda path=path: self._pixels(Path(path).read_bytes())) for path in batch])  # type: ignore[misc]
            if len(waiting) > ahead:
                yield np.stack([future.result() for future in waiting.popleft()])
        while waiting:
            yield np.stack([future.result() for future in waiting.popleft()])

    def _pixels(self, data: bytes) -> np.ndarray:
        return self.model.preprocessing.crop(decode(data))


def main() -> None:
    """Load, and answer."""
    worker = Worker()
    _, name, image, text = sys.argv
    encoders = Encoders(name, image=image == "1", text=text == "1")
    answers = (encoders.facts, encoders.texts, encoders.pictures, encoders.pairs)
    worker.serve({answer.__name__: answer for answer in answers})


if __name__ == "__main__":
    main()
