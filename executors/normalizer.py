"""Box ``normalizer``: from the encoded picture to pixels of the model's size."""

from typing import Any

from docarray import DocList
from jina import Executor, requests

import models
from executors.document import Document
from executors.picture import PictureError, decode


class Normalizer(Executor):
    """Decodes, resizes and cuts out the centre. The floats are made in the encoder: they would be four times as heavy.

    Args:
        model: whose preprocessing to apply, one of ``models.NAMES``.
    """

    def __init__(self, model: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.preprocessing = models.load(model, image=False, text=False).preprocessing

    @requests(on=["/index", "/search"])
    def normalize(self, docs: DocList[Document], **_: Any) -> DocList[Document]:
        """Replace ``data`` by ``pixels``."""
        for doc in docs:
            if doc.error:
                continue
            try:
                doc.pixels = self.preprocessing.crop(decode(doc.data.tobytes()))
            except PictureError as error:
                doc.error = str(error)
            doc.data = None
        return docs
