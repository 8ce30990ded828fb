"""Box ``join_all``."""

from typing import Any, Dict

from docarray import DocList
from jina import Executor, requests

from bench.naive.document import NaiveDocument


class Merger(Executor):
    """One document for each id."""

    @requests(on="/index")
    def merge(
        self, docs: DocList[NaiveDocument], docs_map: Dict[str, DocList[NaiveDocument]], **_: Any
    ) -> DocList[NaiveDocument]:
        """Join the branches."""
        merged = {doc.id: NaiveDocument(id=doc.id) for docs in docs_map.values() for doc in docs}
        return DocList[NaiveDocument](merged.values())
