"""Box ``image_kv_indexer``: the pictures themselves, by their ids."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

import numpy as np
from docarray import DocList
from jina import requests

from executors.document import IMAGE, Document, Match, picture_id, source
from executors.indexer import Indexer
from executors.picture import PictureError, inspect, read
from executors.protocol import data_uri
from executors.thumbnails import MIME_TYPE, Thumbnails
from storage.store import THUMBNAILS, Record, Store

THREADS = 2
"""How many thumbnails are made at once."""
_MEASURED_AT_ONCE = 1000


class KVIndexer(Indexer):
    """Keeps the encoded pictures with their captions, and puts them on the matches that a vector indexer found.

    Args:
        root: folder below which files may be read, as the loader's.
    """

    def __init__(self, root: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = Path(root).resolve() if root else None
        self.thumbnails = Thumbnails(Path(self.workspace) / THUMBNAILS)
        self.threads = ThreadPoolExecutor(THREADS)
        self.reader = Store(Path(self.workspace), shards=self.shards)  # for the threads: the other one may be writing
        unmeasured = self.store.unmeasured()
        for start in range(0, len(unmeasured), _MEASURED_AT_ONCE):
            self.store.measure(self._sizes(unmeasured[start : start + _MEASURED_AT_ONCE]))

    def _sizes(self, ids: list[str]) -> Iterator[Tuple[str, int, int]]:
        for id_ in ids:
            with suppress(PictureError, KeyError):  # KeyError: it was deleted meanwhile
                head = inspect(self.store.records([id_], picture=True)[id_].picture or b"")
                yield id_, head.width, head.height

    def record(self, doc: Document) -> Record:
        """The file as it is, its type, its size and its caption."""
        data = read(doc.uri, self.root)
        if picture_id(data) != doc.id:
            raise PictureError("changed while it was being indexed: index again")
        head = inspect(data)
        return Record(
            id=doc.id,
            mime_type=head.mime_type,
            text=doc.text,
            picture=data,
            width=head.width,
            height=head.height,
            source=source(doc),
        )

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
                whole = embed and _is_whole(record)  # of one that is damaged the address says so
                match.uri = data_uri(record.mime_type, record.picture or b"") if whole else f"/images/{match.id}"
                match.text, match.mime_type = record.text, record.mime_type
                match.tags = {
                    "id": match.id,
                    "file": Path(record.source.path).name,
                    "width": str(record.width),
                    "height": str(record.height),
                    "thumbnail": f"/thumbnails/{match.id}",
                }
        return docs

    @requests(on="/sample")
    def sample(self, docs: DocList[Document], parameters: Dict[str, Any], **_: Any) -> DocList[Document]:
        """Put up to ``number`` pictures of this shard, chosen at random, into the matches of who asks for pictures."""
        docs = DocList[Document](doc for doc in docs if doc.target == IMAGE)  # the box before this one lets all pass
        for doc in docs:
            doc.matches = DocList[Match](Match(id=id_) for id_ in self.store.sample(int(parameters["number"])))
        return self.attach(docs, parameters=parameters)

    @requests(on="/picture")
    def picture(self, docs: DocList[Document], **_: Any) -> DocList[Document]:
        """Put the encoded pictures that this shard holds into ``data``, or why not into ``error``; no others."""
        records = self.store.records([doc.id for doc in docs], picture=True)
        docs = DocList[Document](doc for doc in docs if doc.id in records)
        for doc in docs:
            record = records[doc.id]
            if _is_whole(record):
                doc.data, doc.mime_type = np.frombuffer(record.picture or b"", np.uint8), record.mime_type
            else:
                doc.error = "it was damaged on the disk: `python app.py -t verify` looks for its file"
        return docs

    @requests(on="/thumbnail")
    async def thumbnail(self, docs: DocList[Document], **_: Any) -> DocList[Document]:
        """As ``/picture``, but small. It runs beside the other requests, which Jina takes one at a time."""
        held = self.reader.held(doc.id for doc in docs)
        docs = DocList[Document](doc for doc in docs if doc.id in held)
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(self.threads, self._shrink, doc) for doc in docs))
        return docs

    def _shrink(self, doc: Document) -> None:
        def picture() -> bytes:
            record = self.reader.records([doc.id], picture=True).get(doc.id)
            return record.picture or b"" if record else b""

        try:
            doc.data, doc.mime_type = np.frombuffer(self.thumbnails.get(doc.id, picture), np.uint8), MIME_TYPE
        except PictureError as error:
            doc.error = str(error)

    @requests(on="/delete")
    def delete(self, docs: DocList[Document], **_: Any) -> DocList[Document]:
        """As every indexer; thumbnails go with their pictures."""
        docs = super().delete(docs)
        self.thumbnails.remove(match.id for doc in docs for match in doc.matches)
        return docs

    def close(self) -> None:
        """Close the store when the Flow stops, after the thumbnails that are being made."""
        self.threads.shutdown(cancel_futures=True)
        self.reader.close()
        super().close()


def _is_whole(record: Record) -> bool:
    """Whether a picture is what its id says: the database does not notice a bit that is flipped on the disk."""
    return picture_id(record.picture or b"") == record.id
