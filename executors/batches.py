"""Requests that come at the same time, sent together: what the Flow costs is paid by request, not by document."""

import asyncio
import json
from typing import Any, Awaitable, Callable, Dict, List, NamedTuple, Set

from executors.document import Document

IN_FLIGHT = 2
"""How many requests are under way: while one is searched for, another is encoded."""
MOST = 32
"""How many documents are sent together."""
HEAVIEST = 4 * 2**20
"""How many characters of texts and of pictures' URIs are sent together; who has more is sent alone."""

Send = Callable[[List[Document], Dict[str, Any]], Awaitable[Dict[str, Document]]]


class _Request(NamedTuple):
    docs: List[Document]
    parameters: Dict[str, Any]
    kind: str
    answer: "asyncio.Future[Dict[str, Document]]"

    @property
    def weight(self) -> int:
        return sum(len(doc.uri) + len(doc.text) for doc in self.docs)


class Batches:
    """Sends a request at once if few are under way; those that come meanwhile wait, and then go together.

    Args:
        send: sends documents with parameters and returns the answers by their ids. What it raises reaches only those
            whose documents are the cause.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: List[_Request] = []
        self._under_way: Set[asyncio.Task[None]] = set()

    async def ask(self, docs: List[Document], parameters: Dict[str, Any], *, kind: str) -> Dict[str, Document]:
        """The answers to documents by their ids.

        Args:
            kind: only requests of the same kind and with the same parameters go together.
        """
        request = _Request(docs, parameters, json.dumps([kind, parameters]), asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if len(self._under_way) < IN_FLIGHT:
            task = asyncio.create_task(self._work())
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        return await request.answer

    async def _work(self) -> None:
        while self._waiting:
            await self._answer(self._next())

    async def _answer(self, requests: List[_Request]) -> None:
        try:
            await self._send_together(requests)
        except Exception as error:
            if len(requests) > 1:
                for request in requests:  # whose fault it was is not known
                    await self._answer([request])
            elif not requests[0].answer.done():  # who asked may have gone
                requests[0].answer.set_exception(error)

    def _next(self) -> List[_Request]:
        """The first that waits, and those of its kind that fit beside it."""
        first, *others = self._waiting
        together, self._waiting = [first], []
        number, weight = len(first.docs), first.weight
        for request in others:
            fits = number + len(request.docs) <= MOST and weight + request.weight <= HEAVIEST
            if request.kind == first.kind and fits:
                together.append(request)
                number, weight = number + len(request.docs), weight + request.weight
            else:
                self._waiting.append(request)
        return together

    async def _send_together(self, requests: List[_Request]) -> None:
        docs = [_named(doc, f"{number}:") for number, request in enumerate(requests) for doc in request.docs]
        answers: List[Dict[str, Document]] = [{} for _ in requests]
        for id_, doc in (await self._send(docs, requests[0].parameters)).items():
            number, _, doc.id = id_.partition(":")
            answers[int(number)][doc.id] = doc
        for request, answer in zip(requests, answers, strict=True):
            if not request.answer.done():
                request.answer.set_result(answer)


def _named(doc: Document, prefix: str) -> Document:
    """The document with another id, and the query that it is a part of too: requests give them the same ids."""
    return doc.model_copy(update={"id": prefix + doc.id, "query": prefix + doc.query if doc.query else ""})
