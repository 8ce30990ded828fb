"""The original's protocol, through the Flows: pairs are indexed, one side of each asks for the other."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from docarray import DocList

import client
import flow as flows
from dataset import DataSet
from executors.document import IMAGE, TEXT, Document
from progress import Progress

TOP_K = 50
"""Where the rank is cut, as in the original: a right answer further down counts 0."""

Pair = tuple[Document, Document]


def index(data_set: DataSet, model: str, *, limit: int, request_size: int) -> None:
    """Index up to ``limit`` pairs into the workspace, and print what became of them."""
    account = client.Account()
    client.index(data_set, account, model=model, limit=limit, request_size=request_size)
    account.report()


def read_pairs(data_set: DataSet, limit: int) -> list[Pair]:
    """Pictures with captions, those among the first ``limit`` pairs; what is passed over is named on standard error."""
    account = client.Account()
    found = [(picture, caption) for picture, caption in client.pairs(data_set, limit, account) if caption]
    for name, reason in account.skipped.items():
        print(f"skipped {name}: {reason}", file=sys.stderr)
    return found


def make_query(mode: str, pair: Pair, id_: str) -> Document:
    """The side of a pair that asks in this mode; it knows the tag ``id`` of the other."""
    picture, caption = pair
    if mode == "image2text":
        return Document(id=id_, modality=IMAGE, target=TEXT, uri=picture.uri, tags=picture.tags, relevant=caption.text)
    return Document(id=id_, modality=TEXT, target=IMAGE, text=caption.text, tags=caption.tags, relevant=picture.id)


def reciprocal_ranks(
    data_set: DataSet, model: str, queries: Sequence[Document], *, request_size: int
) -> dict[str, float]:
    """What the evaluator at the end of the query Flow says of each query, by its id; without those that failed."""
    ranks: dict[str, float] = {}
    with (
        flows.running("flow-query.yml", model=model, data_root=data_set.root, evaluate=True) as flow,
        Progress("evaluating", total=len(queries), unit="queries") as progress,
    ):

        def take(response: object) -> None:
            answered = response.docs  # type: ignore[attr-defined]
            ranks.update({doc.id: doc.reciprocal_rank for doc in answered if not doc.error})
            for doc in answered:
                if doc.error:
                    progress.note(f"skipped {doc.tags['path']}: {doc.error}")
            progress.advance(len(answered))

        flow.post(
            "/search",
            DocList[Document](queries),
            parameters={"top_k": TOP_K},
            request_size=request_size,
            return_type=DocList[Document],
            on_done=take,
        )
    return ranks
