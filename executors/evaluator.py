"""Box ``evaluator``, added to the query Flow by ``evaluate.py``: how far down the right answer stands."""

from typing import Any

from docarray import DocList
from jina import Executor, requests

from executors.document import Document


class ReciprocalRankEvaluator(Executor):
    """Compares the tag ``id`` of each match with the one that is right."""

    @requests
    def pass_on(self, docs: DocList[Document], **_: Any) -> DocList[Document]:
        """Every endpoint of the box before this one has to lead somewhere."""
        return docs

    @requests(on="/search")
    def evaluate(self, docs: DocList[Document], **_: Any) -> DocList[Document]:
        """Put 1 / position of the right match into ``reciprocal_rank``; 0 if it is not among the matches."""
        for doc in docs:
            found = (place for place, match in enumerate(doc.matches, 1) if match.tags.get("id") == doc.relevant)
            place = next(found, None)
            doc.reciprocal_rank = 1 / place if place else 0.0
        return docs
