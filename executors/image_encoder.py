"""Box ``image_encoder``: from pixels to a vector."""

from typing import Any

import numpy as np
import torch
from docarray import DocList
from jina import Executor, requests

import models
from executors.document import Document


class ImageEncoder(Executor):
    """The image tower of CLIP or VSE++.

    Args:
        model: one of ``models.NAMES``.
        threads: processor cores that one copy of this executor may use.
    """

    def __init__(self, model: str, threads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        torch.set_num_threads(threads)
        self.model = models.load(model, image=True, text=False)

    @requests(on=["/index", "/search"])
    def encode(self, docs: DocList[Document], **_: Any) -> DocList[Document]:
        """Replace ``pixels`` by ``embedding``."""
        pictures = [doc for doc in docs if not doc.error]
        if pictures:
            vectors = self.model.encode_images(np.stack([doc.pixels for doc in pictures]))
            for doc, vector in zip(pictures, vectors, strict=True):
                doc.pixels, doc.embedding, doc.model = None, vector, self.model.fingerprint
        return docs
