"""Requests of several clients that share one message, over a stand-in for the Flow."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from executors.batches import IN_FLIGHT, MOST, Batches
from executors.document import Document


class Flow:
    """Remembers what it is sent and answers when it is let; a text "bad" makes it fail."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self.parameters: list[dict[str, Any]] = []
        self.open = asyncio.Event()

    async def send(self, docs: list[Document], parameters: dict[str, Any]) -> dict[str, Document]:
        self.sent.append([doc.text for doc in docs])
        self.parameters.append(parameters)
        await self.open.wait()
        if any(doc.text == "bad" for doc in docs):
            raise ValueError("bad")
        assert len({doc.id for doc in docs}) == len(docs)
        return {doc.id: Document(id=doc.id, text=doc.text.upper(), query=doc.query) for doc in docs}


async def ask(batches: Batches, *texts: str, kind: str = "", **parameters: object) -> list[str]:
    docs = [Document(id=str(number), text=text) for number, text in enumerate(texts)]
    answers = await batches.ask(docs, parameters, kind=kind)
    assert list(answers) == [doc.id for doc in docs]
    assert all(answer.id == id_ for id_, answer in answers.items())
    return [answer.text for answer in answers.values()]


async def all_of(flow: Flow, *asked: Any) -> list[Any]:
    """Start all in order, let the Flow answer, and wait."""
    tasks = []
    for one in asked:
        tasks.append(asyncio.ensure_future(one))
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    flow.open.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def flow() -> Flow:
    return Flow()


def test_what_waits_goes_together(flow: Flow) -> None:
    batches = Batches(flow.send)
    texts = [f"text {number}" for number in range(IN_FLIGHT + 3)]
    answers = asyncio.run(all_of(flow, *(ask(batches, text, "more") for text in texts)))
    assert answers == [[text.upper(), "MORE"] for text in texts]
    alone, together = flow.sent[:IN_FLIGHT], flow.sent[IN_FLIGHT:]
    assert alone == [[text, "more"] for text in texts[:IN_FLIGHT]]
    assert together == [[part for text in texts[IN_FLIGHT:] for part in (text, "more")]]


def test_only_like_goes_with_like(flow: Flow) -> None:
    batches = Batches(flow.send)
    first = (ask(batches, "x") for _ in range(IN_FLIGHT))
    others = (ask(batches, "a", top_k=1), ask(batches, "b", kind="text", top_k=1), ask(batches, "c", top_k=2))
    asyncio.run(all_of(flow, *first, *others, ask(batches, "d", top_k=1)))
    assert flow.sent[IN_FLIGHT:] == [["a", "d"], ["b"], ["c"]]
    assert [one.get("top_k") for one in flow.parameters[IN_FLIGHT:]] == [1, 1, 2]


def test_a_bad_request_spoils_no_other(flow: Flow) -> None:
    batches = Batches(flow.send)
    asked = (ask(batches, text) for text in ["x"] * IN_FLIGHT + ["a", "bad", "b"])
    *_, first, bad, last = asyncio.run(all_of(flow, *asked))
    assert (first, last) == (["A"], ["B"])
    assert isinstance(bad, ValueError)


def test_a_large_request_goes_alone_and_who_has_left_is_no_trouble(flow: Flow) -> None:
    async def run() -> list[Any]:
        batches = Batches(flow.send)
        asked = [ask(batches, text) for text in ["x"] * IN_FLIGHT + ["a"]]
        asked += [ask(batches, *["b"] * MOST), ask(batches, "c")]
        gone = asyncio.ensure_future(ask(batches, "gone"))
        await asyncio.sleep(0)
        gone.cancel()
        return await all_of(flow, *asked)

    *_, few, many, last = asyncio.run(run())
    assert (few, many, last) == (["A"], ["B"] * MOST, ["C"])
    assert ["b"] * MOST in flow.sent
    assert any({"a", "c"} <= set(sent) for sent in flow.sent)
