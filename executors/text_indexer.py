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

    @requests(on="/sample")
    def sample(self, docs: DocList[Document], parameters: Dict[str, Any], **_: Any) -> DocList[Document]:
        """Put up to ``number`` texts of this shard, chosen at random, into the matches."""
        records = self.store.records(self.store.sample(int(parameters["number"])))
        for doc in docs:
            doc.matches = DocList[Match](Match(id=record.id, text=record.text) for record in records.values())
        return docs

    @requests(on="/captions")
    def captions(self, docs: DocList[Document], **_: Any) -> DocList[Document]:
        """Put this shard's captions of the picture that each document names in ``text`` into its matches."""
        for doc in docs:
            doc.matches = DocList[Match](Match(id=text, text=text) for text in self.store.captions(doc.text))
        return docs
