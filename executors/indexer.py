"""What the three indexers have in common: a store, and which of its shards a document belongs to."""

from pathlib import Path
from typing import Any

from docarray import DocList
from jina import Executor, requests

from executors.document import Document, Match, source
from executors.picture import PictureError
from storage.store import Record, Store, shard_of


class Indexer(Executor):
    """Keeps documents on disk. Which part of a document it keeps is what a subclass says in ``record``.

    Every shard is sent every request, and the shard that a document's id names is the one that acts and answers.
    So a document that is indexed again can never lie on two shards.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name = self.metas.name
        self.shard, self.shards = self.runtime_args.shard_id, self.runtime_args.shards
        self.store = Store(Path(self.workspace), shards=self.shards)

    def record(self, doc: Document) -> Record:
        """The part of a document that is stored here.

        Raises:
            PictureError: the document is no picture that could be stored.
        """
        raise NotImplementedError

    def owned(self, docs: DocList[Document]) -> DocList[Document]:
        """Those of ``docs`` that belong to this shard."""
        return DocList[Document](doc for doc in docs if shard_of(doc.id, self.shards) == self.shard)

    @requests(on="/index")
    def index(self, docs: DocList[Document], **_: Any) -> DocList[Document]:
        """Store documents; what is answered is on disk. One with an error is not stored."""
        docs = self.owned(docs)
        for model in {doc.model for doc in docs if doc.model}:
            self.store.require_model(model)
        records = [self._try_record(doc) for doc in docs if not doc.error]
        self.store.add(record for record in records if record)
        for doc in docs:
            doc.held_by = doc.held_by if doc.error else [*doc.held_by, self.name]
            doc.embedding = None
        return docs

    def _try_record(self, doc: Document) -> Record | None:
        try:
            return self.record(doc)
        except PictureError as error:
            doc.error = str(error)
            return None

    @requests(on="/update")
    def update(self, docs: DocList[Document], **_: Any) -> DocList[Document]:
        """Say which documents are held already, and complete their captions and sources: nothing is encoded for it."""
        docs = self.owned(docs)
        held = self.store.update([Record(id=doc.id, text=doc.text, source=source(doc)) for doc in docs])
        for doc in docs:
            if doc.id in held:
                doc.held_by = [*doc.held_by, self.name]
        return docs

    @requests(on="/delete")
    def delete(self, docs: DocList[Document], **_: Any) -> DocList[Document]:
        """Remove what each document names in ``text``: an id or a picture's path. What is gone becomes its matches."""
        for doc in docs:
            doc.matches.extend(Match(id=id_) for id_ in self.store.delete([doc.text]))
        return docs

    @requests(on="/status")
    def status(self, docs: DocList[Document], **_: Any) -> DocList[Document]:
        """Add a report of this shard to the matches."""
        facts = {"indexer": self.name, "documents": str(len(self.store)), "model": self.store.fact("model") or ""}
        for doc in docs:
            doc.matches.append(Match(id=f"{self.name}/{self.shard}", tags=facts))
        return docs

    def close(self) -> None:
        """Close the store when the Flow stops."""
        self.store.close()
