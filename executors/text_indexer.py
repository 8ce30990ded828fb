"""Box ``text_indexer``: the nearest captions to a vector, vectors and texts together."""

from typing import Any, Dict

from docarray import DocList
from jina import requests

from executors.document import Document, Match, source
from executors.vector_indexer import VectorIndexer
from storage.store import Record


class TextIndexer(VectorIndexer):
    """A vector indexer that keeps the text beside the vector."""

    def record(self, doc: Document) -> Record:
        """The vector and the text."""
        return Record(id=doc.id, mime_type="text/plain", text=doc.text, vector=doc.embedding, source=source(doc))

    @requests(on="/search")
    def search(self, docs: DocList[Document], parameters: Dict[str, Any], **_: Any) -> DocList[Document]:
        """Put the ``top_k`` nearest captions of this shard into ``matches``, nearest first."""
        docs = super().search(docs, parameters=parameters)
        records = self.store.records({match.id for doc in docs for match in doc.matches})
        for doc in docs:
            doc.matches = DocList[Match](match for match in doc.matches if match.id in records)
            for match in doc.matches:
                record = records[match.id]
                match.text, match.mime_type = record.text, record.mime_type
                match.tags = {"id": record.text, "picture": record.source.picture_id}
        return docs
