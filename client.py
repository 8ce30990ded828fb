"""The client of the index Flow: sends it a data set, and keeps account of what became of every document."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from docarray import DocList

import flow as flows
from dataset import DataError, DataSet
from executors.access import settings
from executors.document import IMAGE, INDEXERS, Document, is_held, picture_id, source, text_document
from executors.limits import MAX_BODY, MAX_ITEMS
from executors.picture import PictureError, inspect, read
from executors.protocol import data_uri, removals
from flow import FlowError
from progress import Progress
from storage.store import Record

if TYPE_CHECKING:
    from jina import Flow

WINDOW = 4096
"""How many documents are asked for at once whether they are held already."""
SHOWN = 20
"""How many skipped names are printed."""
IN_FLIGHT = 8
"""How many requests are sent before the first one is answered. With Jina's own `prefetch` the gateway waits busily."""
ROOM = MAX_BODY - 100
"""Bytes for the items of a request over HTTP."""


Item = tuple[str, str | dict[str, str]]  # a name for a person, and what is posted


@dataclass
class Account:
    """What became of the documents of one run."""

    added: int = 0
    held: int = 0
    skipped: dict[str, str] = field(default_factory=dict)

    def skip(self, name: str, reason: str) -> None:
        """Note that something was passed over, and why."""
        self.skipped[name] = reason

    def report(self) -> int:
        """Print the account; returns the exit code of the run, 1 if there was something and none of it is indexed."""
        for name, reason in list(self.skipped.items())[:SHOWN]:
            print(f"skipped {name}: {reason}")
        if len(self.skipped) > SHOWN:
            print(f"and {len(self.skipped) - SHOWN} more")
        print(f"{self.added} documents indexed, {self.held} were there already, {len(self.skipped)} skipped")
        return 0 if self.added or self.held else 1


def index(data_set: DataSet, account: Account, *, model: str, limit: int, request_size: int) -> None:
    """Index up to ``limit`` pairs of a data set. What is held already is recognised first and not sent.

    Args:
        model: the model to index with.
        request_size: how many documents travel in one request.

    Raises:
        FlowError: the index was made with another model, or the Flow does not start or is gone; what it had
            acknowledged is on disk.
        StorageError: the index cannot be read.
    """
    flows.check_index(model)
    documents = _documents(data_set, limit, account)
    total = 2 * min(limit, len(data_set))
    first = _first_unknown(documents, account, total)
    if first is None:
        return  # no Flow has to be started to find nothing new
    documents = chain([first], documents)
    with (
        flows.running("flow-index.yml", model=model, data_root=data_set.root) as flow,
        Progress("indexing", total=total - account.held, unit="documents") as progress,
    ):
        while window := list(islice(documents, WINDOW)):
            held = {doc.id for doc in _post(flow, "/update", window) if is_held(doc)}
            new = {doc.id: doc for doc in window if doc.id not in held}
            account.held += len({doc.id for doc in window} & held)
            progress.advance(len(window) - len(new))
            acknowledged, wrong = _send(flow, list(new.values()), request_size, progress)
            # the caption of a picture that is none goes with it
            account.added += sum(new[id_].tags["picture"] not in wrong for id_ in acknowledged)
            for id_ in new.keys() - acknowledged - wrong.keys():
                account.skip(new[id_].tags["path"], "was not acknowledged: run the same command again")
            for id_, reason in wrong.items():
                account.skip(new[id_].tags["path"], reason)
            if wrong:  # a branch that saw nothing wrong may have stored its part, and a caption stands for a picture
                _post(flow, "/delete", removals(wrong))


def _first_unknown(documents: Iterator[Document], account: Account, total: int) -> Document | None:
    """The first of ``documents`` that the index on this machine does not know; those before it are counted as held."""
    held: set[str] = set()
    try:
        with flows.stores() as stores:
            if not any(stores.values()):
                return next(documents, None)
            with Progress("comparing", total=total, unit="documents") as progress:
                for doc in documents:
                    record = Record(id=doc.id, text=doc.text, source=source(doc))
                    if not all(any(store.knows(record) for store in stores[name]) for name in INDEXERS[doc.modality]):
                        return doc
                    held.add(doc.id)
                    progress.advance()
        return None
    finally:
        account.held += len(held)


def delete(flow: Flow, names: Sequence[str]) -> dict[str, int]:
    """Remove documents by their ids, or pictures with their captions by the files they came from.

    Returns:
        For each name how many documents are gone.
    """
    gone = dict.fromkeys(names, 0)
    asked = {doc.id: doc.text for doc in removals(names)}
    for doc in _post(flow, "/delete", removals(names)):
        gone[asked[doc.id]] += len({match.id for match in doc.matches})
    return gone


def pairs(data_set: DataSet, limit: int, account: Account) -> Iterator[tuple[Document, Document | None]]:
    """The pairs of a data set as documents: a picture by reference to its file, and its caption if it has one."""
    for path, name, caption in data_set.pairs(limit=limit, skip=account.skip):
        try:
            id_ = picture_id(read(str(path), data_set.root))
        except PictureError as error:
            account.skip(name, str(error))
            continue
        tags = {"id": id_, "picture": id_, "path": str(path)}
        picture = Document(id=id_, modality=IMAGE, target=IMAGE, uri=str(path), text=caption or "", tags=tags)
        yield picture, text_document(caption, picture=id_, path=str(path)) if caption else None


def _documents(data_set: DataSet, limit: int, account: Account) -> Iterator[Document]:
    """Each picture and each of its captions once."""
    seen: set[tuple[str, str]] = set()
    for pair in pairs(data_set, limit, account):
        for doc in filter(None, pair):
            source = (doc.id, doc.tags["path"])
            if source not in seen:
                seen.add(source)
                yield doc


def _send(flow: Flow, docs: list[Document], request_size: int, progress: Progress) -> tuple[set[str], dict[str, str]]:
    """Index documents; returns the ids of those that are on disk, and why, by their ids, others could not be."""
    acknowledged: set[str] = set()
    wrong: dict[str, str] = {}
    room = asyncio.Semaphore(IN_FLIGHT)

    async def admitted() -> AsyncIterator[Document]:
        for place, doc in enumerate(docs):
            if place % request_size == 0:
                await room.acquire()
            yield doc

    def take(response: object) -> None:
        room.release()
        answered = response.docs  # type: ignore[attr-defined]
        acknowledged.update(doc.id for doc in answered if not doc.error and is_held(doc))
        wrong.update({doc.id: doc.error for doc in answered if doc.error})
        progress.advance(len(answered))

    if docs:
        flow.post(
            "/index",
            admitted(),
            request_size=request_size,
            return_type=DocList[Document],
            on_done=take,
        )
    return acknowledged, wrong


def _post(flow: Flow, endpoint: str, docs: list[Document]) -> DocList[Document]:
    return flow.post(endpoint, DocList[Document](docs), request_size=len(docs), return_type=DocList[Document])


def items(data_set: DataSet, limit: int, account: Account) -> Iterator[Item]:
    """The pairs of a data set as HTTP knows them, since it cannot refer to files, by the files' names."""
    for pair in data_set.pairs(limit=limit, skip=account.skip):
        try:
            data = read(str(pair.path), data_set.root)
            uri = data_uri(inspect(data).mime_type, data)
        except PictureError as error:
            account.skip(pair.source, str(error))
        else:
            yield pair.source, {"image": uri, "text": pair.caption} if pair.caption else uri


def lines(file: str, limit: int) -> Iterator[Item]:
    """Up to ``limit`` lines of a text file that are not empty, by their numbers.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with open(file, encoding="utf-8") as texts:
            content = [(f"line {number}", line.strip()) for number, line in enumerate(texts, 1) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file!r} ({error}): set JINA_DATA_FILE to a text file in UTF-8") from error
    return iter(content[:limit])


def index_http(port: int, data: Iterator[Item], request_size: int, account: Account) -> None:
    """Index texts, pictures or pairs through the HTTP gateway of a Flow on this machine."""
    with Progress("indexing", total=None, unit="items") as progress:
        for batch in _batches(data, min(request_size, MAX_ITEMS), account):
            answer = _post_json(f"http://127.0.0.1:{port}/index", {"data": [item for _, item in batch]})
            for (name, _), item in zip(batch, answer["data"]["docs"], strict=True):
                if "error" in item:
                    account.skip(name, item["error"])
                else:
                    account.added += 1
            progress.advance(len(batch))


def _batches(data: Iterator[Item], most: int, account: Account) -> Iterator[list[Item]]:
    """Up to ``most`` items each, and no more than fit into a request; what alone does not is passed over."""
    batch: list[Item] = []
    size = 0
    for name, item in data:
        weight = len(json.dumps(item)) + len(", ")
        if weight > ROOM:
            account.skip(name, f"does not fit into a request over HTTP, which has {MAX_BODY // 2**20} MB at most")
            continue
        if batch and (len(batch) == most or size + weight > ROOM):
            yield batch
            batch, size = [], 0
        batch.append((name, item))
        size += weight
    if batch:
        yield batch


def _post_json(url: str, body: dict[str, Any]) -> Any:
    headers = {"Content-Type": "application/json"}
    if token := settings().write_token:
        headers["Authorization"] = f"Bearer {token}"
    request = Request(url, json.dumps(body).encode(), headers)
    try:
        with urlopen(request) as response:
            return json.load(response)
    except HTTPError as error:
        answer = json.load(error)
        if answer["data"]["docs"]:
            return answer
        raise FlowError(answer["status"]["description"]) from error
    except URLError as error:
        raise ConnectionError(str(error)) from error
