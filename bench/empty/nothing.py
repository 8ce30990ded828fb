"""A box that does nothing."""

from typing import Any

from docarray import BaseDoc, DocList
from jina import Executor, requests


class Text(BaseDoc):
    """The smallest document that carries a text."""

    text: str = ""


class Nothing(Executor):
    """Gives back what it is given."""

    @requests(on="/search")
    async def give_back(self, docs: DocList[Text], **_: Any) -> DocList[Text]:
        """The same documents."""
        return docs
