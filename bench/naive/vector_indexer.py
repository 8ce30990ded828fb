"""Boxes ``image_vector_indexer`` and ``text_indexer``."""

from pathlib import Path
from typing import Any, Optional

import faiss
import numpy as np
from docarray import DocList
from jina import Executor, requests

from bench.naive.document import NaiveDocument


class VectorIndexer(Executor):
    """A faiss index in memory, and the vectors appended to a file."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.index: Optional[faiss.IndexFlatIP] = None
        self.file = (Path(self.workspace) / "vectors").open("ab")

    @requests(on="/index")
    def add(self, docs: DocList[NaiveDocument], **_: Any) -> DocList[NaiveDocument]:
        """Keep the vectors."""
        if docs:
            vectors = np.stack([doc.embedding for doc in docs])
            self.index = self.index or faiss.IndexFlatIP(vectors.shape[1])
            self.index.add(vectors)
            self.file.write(vectors.tobytes())
            self.file.flush()
        return docs
