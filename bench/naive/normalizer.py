"""Box ``normalizer``."""

from io import BytesIO
from typing import Any

import open_clip
from docarray import DocList
from jina import Executor, requests
from PIL import Image

from bench.naive.document import NaiveDocument


class Normalizer(Executor):
    """Decodes, resizes and normalises as open_clip does it."""

    def __init__(self, model: str, pretrained: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _, _, self.preprocess = open_clip.create_model_and_transforms(model, pretrained=pretrained or None)

    @requests(on="/index")
    def normalize(self, docs: DocList[NaiveDocument], **_: Any) -> DocList[NaiveDocument]:
        """Replace ``data`` by ``pixels``."""
        for doc in docs:
            doc.pixels = self.preprocess(Image.open(BytesIO(doc.data.tobytes()))).numpy()
            doc.data = None
        return docs
