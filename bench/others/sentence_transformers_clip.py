"""``python -m bench.others.sentence_transformers_clip WEIGHTS``: CLIP of sentence-transformers, all defaults."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from bench.worker import Worker


def main() -> None:
    """Load, and answer."""
    worker = Worker()
    from PIL import Image
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import CLIPModel

    folder = str(Path(sys.argv[1]) / "transformers")
    model: Any = SentenceTransformer(modules=[CLIPModel(folder)], device="cpu")

    def pairs(paths: list[str], texts: list[str]) -> float:
        """The seconds that pairs of pictures and captions take."""
        start = time.perf_counter()
        model.encode([Image.open(path) for path in paths])
        model.encode(texts)
        return time.perf_counter() - start

    def each(texts: list[str]) -> list[float]:
        """The seconds that each text takes by itself."""
        seconds = []
        for text in texts:
            start = time.perf_counter()
            model.encode([text])
            seconds.append(time.perf_counter() - start)
        return seconds

    worker.serve({"pairs": pairs, "each": each})


if __name__ == "__main__":
    main()
