"""``python -m bench.others.sentence_transformers_clip WEIGHTS``: CLIP of sentence-transformers, all defaults."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from bench.worker import Worker, timed


def main() -> None:
    """Load, and answer."""
    worker = Worker()
    from PIL import Image
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import CLIPModel

    folder = str(Path(sys.argv[1]) / "transformers")
    model: Any = SentenceTransformer(modules=[CLIPModel(folder)], device="cpu")

    @timed
    def pairs(paths: list[str], texts: list[str]) -> None:
        """Encode pairs of pictures and captions."""
        model.encode([Image.open(path) for path in paths])
        model.encode(texts)

    encode = timed(model.encode)
    worker.serve({"pairs": pairs, "each": lambda texts: [encode([text]) for text in texts]})


if __name__ == "__main__":
    main()
