"""Box ``image_encoder``."""

from typing import Any

import numpy as np
import open_clip
import torch
from docarray import DocList
from jina import Executor, requests

from bench.naive.document import NaiveDocument


class ImageEncoder(Executor):
    """The whole model in float32, of which the image tower is used."""

    def __init__(self, model: str, pretrained: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = open_clip.create_model(model, pretrained=pretrained or None).eval()

    @requests(on="/index")
    def encode(self, docs: DocList[NaiveDocument], **_: Any) -> DocList[NaiveDocument]:
        """Add ``embedding``."""
        if docs:
            with torch.no_grad():
                pixels = torch.from_numpy(np.stack([doc.pixels for doc in docs]))
                vectors = self.model.encode_image(pixels, normalize=True).numpy()
            for doc, vector in zip(docs, vectors, strict=True):
                doc.embedding = vector
        return docs
