"""Box ``image_vector_indexer``: the nearest pictures to a vector."""

from typing import Any, Dict

import numpy as np
from docarray import DocList
from jina import requests

from executors.document import Document, Match, source
from executors.indexer import Indexer
from executors.query import combine
from storage.store import Record
from storage.vectors import VectorIndex

DEFAULT_TOP_K = 10


class VectorIndexer(Indexer):
    """Keeps vectors and finds the nearest ones; knows a document by its id only.

    Args:
        approximate: a setting of `storage.approximate`, or none for an exact search.
    """

    def __init__(self, approximate: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.vectors = VectorIndex(self.store, approximate)
        self.vectors.refresh()

    def record(self, doc: Document) -> Record:
        """The vector."""
        return Record(id=doc.id, vector=doc.embedding, source=source(doc))

    @requests(on="/search")
    def search(self, docs: DocList[Document], parameters: Dict[str, Any], **_: Any) -> DocList[Document]:
        """Put the ``top_k`` nearest of this shard into ``matches``, nearest first."""
        for model in {doc.model for doc in docs if not doc.error} if self.store else ():
            self.store.require_model(model)
        docs = combine(docs)
        queries = [doc for doc in docs if not doc.error]
        if queries:
            vectors = np.stack([doc.embedding for doc in queries])
            found = self.vectors.search(vectors, int(parameters.get("top_k", DEFAULT_TOP_K)))
            for doc, nearest in zip(queries, found, strict=True):
                doc.matches = DocList[Match](Match(id=id_, score=distance) for id_, distance in nearest)
        for doc in docs:
            doc.embedding = None
        return docs
