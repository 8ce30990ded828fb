"""Box ``join_all``: one answer from the answers of all branches and shards."""

from typing import Any, Dict

from docarray import DocList
from jina import Executor, requests

from executors.document import Document, Match
from executors.vector_indexer import DEFAULT_TOP_K


class Merger(Executor):
    """Joins branches by the documents' ids. Jina's own join would let the last branch win and drop our fields."""

    @requests(on=["/index", "/update", "/delete", "/status", "/sample", "/captions"])
    def merge(self, docs: DocList[Document], docs_map: Dict[str, DocList[Document]], **_: Any) -> DocList[Document]:
        """One light document for each id: held by whoever holds it, wrong if it is wrong anywhere, all its matches."""
        merged: Dict[str, Document] = {}
        for doc in (doc for docs in docs_map.values() for doc in docs):
            one = merged.setdefault(doc.id, Document(id=doc.id, modality=doc.modality))
            one.held_by = sorted({*one.held_by, *doc.held_by})
            one.error = one.error or doc.error
            one.matches.extend(doc.matches)
        return DocList[Document](merged.values())

    @requests(on=["/picture", "/thumbnail"])
    def gather(self, docs: DocList[Document], docs_map: Dict[str, DocList[Document]], **_: Any) -> DocList[Document]:
        """The documents of all branches as they are."""
        return DocList[Document](doc for docs in docs_map.values() for doc in docs)

    @requests(on="/search")
    def rank(
        self, docs: DocList[Document], docs_map: Dict[str, DocList[Document]], parameters: Dict[str, Any], **_: Any
    ) -> DocList[Document]:
        """The ``top_k`` best matches of all shards, nearest first; of equally near ones the smaller id first."""
        top_k = int(parameters.get("top_k", DEFAULT_TOP_K))
        answers: Dict[str, Document] = {}
        for doc in self.gather(docs, docs_map):
            if doc.query:
                continue  # a branch without work hands the question on, with its parts
            answer = answers.setdefault(doc.id, doc)
            if answer is not doc:
                answer.error = answer.error or doc.error
                answer.matches.extend(doc.matches)
        for doc in answers.values():
            doc.embedding = None
            best = sorted(
                {match.id: match for match in doc.matches}.values(), key=lambda match: (match.score, match.id)
            )
            doc.matches = DocList[Match](best[:top_k])
        return DocList[Document](answers.values())
