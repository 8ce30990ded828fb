"""Box ``text_encoder``."""

from typing import Any

import open_clip
import torch
from docarray import DocList
from jina import Executor, requests

from bench.naive.document import NaiveDocument


class TextEncoder(Executor):
    """The whole model in float32, of which the text tower reads all of its context."""

    def __init__(self, model: str, pretrained: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = open_clip.create_model(model, pretrained=pretrained or None).eval()
        self.tokenizer = open_clip.get_tokenizer(model)

    @requests(on="/index")
    def encode(self, docs: DocList[NaiveDocument], **_: Any) -> DocList[NaiveDocument]:
        """Add ``embedding``."""
        if docs:
            with torch.no_grad():
                vectors = self.model.encode_text(self.tokenizer([doc.text for doc in docs]), normalize=True).numpy()
            for doc, vector in zip(docs, vectors, strict=True):
                doc.embedding = vector
        return docs
