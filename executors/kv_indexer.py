"""Box ``image_kv_indexer``: the pictures themselves, by their ids."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Tuple

import numpy as np
from docarray import DocList
from jina import requests

from executors.document import IMAGE, Document, Match, picture_id, source
from executors.indexer import Indexer
from executors.picture import PictureError, data_root, inspect, read
from executors.protocol import data_uri
from executors.thumbnails import MIME_TYPE, Thumbnails
from storage.store import THUMBNAILS, Record, Store

THREADS = 2
"""How many thumbnails are made at once."""
_MEASURED_AT_ONCE = 1000
_EMBEDDED = 64 * 2**20  # bytes of pictures that a shard puts into one answer; of the others stand the addresses


class KVIndexer(Indexer):
    """Keeps the encoded pictures with their captions, and puts them on the matches that a vector indexer found.

    Args:
        root: folder below which files may be read, as the loader's.
    """

    def __init__(self, root: Optional[str] = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        folder = data_root() if root is None else root
        self.root = Path(folder).resolve() if folder else None
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

        ``uri`` becomes the picture's path on the gateway, or with the parameter ``data_uri`` the picture itself, until
        these have more than 64 MB together.
        """
        room = _EMBEDDED if parameters.get("data_uri") else 0
        records = self.store.records({match.id for doc in docs for match in doc.matches})
        for doc in docs:
            doc.matches = DocList[Match](match for match in doc.matches if match.id in records)
            for match in doc.matches:
                record = records[match.id]
                match.uri = f"/images/{match.id}"
                if room > 0 and (picture := self._picture(match.id)):
                    room -= len(picture)
                    match.uri = data_uri(record.mime_type, picture)
                match.text, match.mime_type = record.text, record.mime_type
                match.tags = {
                    "id": match.id,
                    "file": Path(record.source.path).name,
                    "width": str(record.width),
                    "height": str(record.height),
                    "thumbnail": f"/thumbnails/{match.id}",
                }
        return docs

    def _picture(self, id_: str) -> bytes:
        record = self.store.records([id_], picture=True).get(id_)  # another Flow may have deleted it meanwhile
        return record.picture or b"" if record and _is_whole(record) else b""  # its address says that it is damaged

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
