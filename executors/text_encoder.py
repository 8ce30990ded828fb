"""Box ``text_encoder``: from a text to a vector."""

from typing import Any

import torch
from docarray import DocList
from jina import Executor, requests

import models
from executors.document import Document


class TextEncoder(Executor):
    """The text tower of CLIP or VSE++.

    Args:
        model: one of ``models.NAMES``.
        threads: processor cores that one copy of this executor may use.
    """

    def __init__(self, model: str, threads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        torch.set_num_threads(threads)
        self.model = models.load(model, image=False, text=True)

    @requests(on=["/index", "/search"])
    def encode(self, docs: DocList[Document], **_: Any) -> DocList[Document]:
        """Put the vector of ``text`` into ``embedding``."""
        if docs:
            vectors = self.model.encode_texts([doc.text for doc in docs])
            for doc, vector in zip(docs, vectors, strict=True):
                doc.embedding, doc.model = vector, self.model.fingerprint
        return docs
