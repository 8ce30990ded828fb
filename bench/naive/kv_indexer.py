"""Box ``image_kv_indexer``."""

import sqlite3
from pathlib import Path
from typing import Any

from docarray import DocList
from jina import Executor, requests

from bench.naive.document import NaiveDocument


class KVIndexer(Executor):
    """The files in a database."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.database = sqlite3.connect(Path(self.workspace) / "pictures.sqlite", check_same_thread=False)
        self.database.execute("CREATE TABLE IF NOT EXISTS pictures (id TEXT PRIMARY KEY, file BLOB)")

    @requests(on="/index")
    def add(self, docs: DocList[NaiveDocument], **_: Any) -> DocList[NaiveDocument]:
        """Keep the pictures."""
        with self.database:
            rows = [(doc.id, Path(doc.uri).read_bytes()) for doc in docs]
            self.database.executemany("INSERT OR REPLACE INTO pictures VALUES (?, ?)", rows)
        return docs
