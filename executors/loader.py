"""Box ``loader``: from a reference to the encoded picture."""

from pathlib import Path
from typing import Any, Optional

import numpy as np
from docarray import DocList
from jina import Executor, requests

from executors.document import Document, picture_id
from executors.picture import PictureError, data_root, inspect, read


class Loader(Executor):
    """Reads the pictures that documents refer to and refuses what is none. Pixels are not made yet: a file is lighter.

    Args:
        root: folder below which files may be read, by default the Flow's; empty: none may, only ``data:`` URIs.
    """

    def __init__(self, root: Optional[str] = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        folder = data_root() if root is None else root
        self.root = Path(folder).resolve() if folder else None

    @requests(on="/index")
    def load(self, docs: DocList[Document], **_: Any) -> DocList[Document]:
        """Put the encoded picture into ``data``, or the reason why not into ``error``."""
        for doc in docs:
            self._load(doc)
            if not doc.error and picture_id(doc.data.tobytes()) != doc.id:
                doc.error = "changed while it was being indexed: index again"
        return docs

    @requests(on="/search")
    def load_query(self, docs: DocList[Document], **_: Any) -> DocList[Document]:
        """As for indexing, but the reference has done its work and need not travel on."""
        for doc in docs:
            self._load(doc)
            doc.uri = ""
        return docs

    def _load(self, doc: Document) -> None:
        if doc.error:
            return
        try:
            data = read(doc.uri, self.root)
            doc.mime_type = inspect(data).mime_type
            doc.data = np.frombuffer(data, np.uint8)
        except PictureError as error:
            doc.error = str(error)
