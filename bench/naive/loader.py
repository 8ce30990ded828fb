"""Box ``loader``."""

from pathlib import Path
from typing import Any

import numpy as np
from docarray import DocList
from jina import Executor, requests

from bench.naive.document import NaiveDocument


class Loader(Executor):
    """Reads files."""

    @requests(on="/index")
    def load(self, docs: DocList[NaiveDocument], **_: Any) -> DocList[NaiveDocument]:
        """Put the file into ``data``."""
        for doc in docs:
            doc.data = np.frombuffer(Path(doc.uri).read_bytes(), np.uint8)
        return docs
