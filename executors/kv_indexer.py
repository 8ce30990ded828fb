"""Box ``image_kv_indexer``: the pictures themselves, by their ids."""

from pathlib import Path
from typing import Any, Dict

import numpy as np
from docarray import DocList
from jina import requests

from executors.document import Document, Match, picture_id, source
from executors.indexer import Indexer
from executors.picture import PictureError, inspect, read
from executors.protocol import data_uri
from storage.store import Record


class KVIndexer(Indexer):
    """Keeps the encoded pictures with their captions, and puts them on the matches that a vector indexer found.

    Args:
        root: folder below which files may be read, as the loader's.
    """

    def __init__(self, root: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = Path(root).resolve() if root else None

    def record(self, doc: Document) -> Record:
        """The file as it is, its type and its caption."""
        data = read(doc.uri, self.root)
        if picture_id(data) != doc.id:
            raise PictureError("changed while it was being indexed: index again")
        return Record(id=doc.id, mime_type=inspect(data), text=doc.text, picture=data, source=source(doc))

    @requests(on="/search")
    def attach(self, docs: DocList[Document], parameters: Dict[str, Any], **_: Any) -> DocList[Document]:
        """Complete the matches whose pictures this shard holds, and leave the others to their shards.

        ``uri`` becomes the picture's path on the gateway, or with the parameter ``data_uri`` the picture itself.
        """
        embed = bool(parameters.get("data_uri"))
        records = self.store.records({match.id for doc in docs for match in doc.matches}, picture=embed)
        for doc in docs:
            doc.matches = DocList[Match](match for match in doc.matches if match.id in records)
            for match in doc.matches:
                record = records[match.id]
                match.uri = data_uri(record.mime_type, record.picture or b"") if embed else f"/images/{match.id}"
                match.text, match.mime_type = record.text, record.mime_type
                match.tags = {"id": match.id, "file": Path(record.source.path).name}
        return docs

    @requests(on="/picture")
    def picture(self, docs: DocList[Document], **_: Any) -> DocList[Document]:
        """Put the encoded pictures that this shard holds into ``data``; the others are not answered."""
        records = self.store.records([doc.id for doc in docs], picture=True)
        docs = DocList[Document](doc for doc in docs if doc.id in records)
        for doc in docs:
            record = records[doc.id]
            doc.data, doc.mime_type = np.frombuffer(record.picture or b"", np.uint8), record.mime_type
        return docs
