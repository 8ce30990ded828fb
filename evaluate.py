"""Print the mean reciprocal rank of a model: how far down the right answer stands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import flow as flows
from app import positive
from dataset import DataError, open_data_set
from flow import FlowError
from models import NAMES
from progress import Progress
from storage.store import StorageError

if TYPE_CHECKING:
    from dataset import DataSet
    from executors.document import Document

MODES = ("image2text", "text2image")
TOP_K = 50
"""Where the rank is cut, as in the original: a right answer further down counts 0."""


def whole(text: str) -> int:
    """A whole number from 0 on, for an option."""
    return 0 if text == "0" else positive(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser("evaluate.py", description=__doc__)
    add = parser.add_argument
    add("-i", "--index_num_docs", type=whole, default=50, help="pairs to index first; 0: use the index that is there")
    add("-n", "--evaluate_num_docs", type=positive, default=20, help="pairs to query with (default: 20)")
    add("-s", "--request_size", type=positive, default=8, help="documents in one request (default: 8)")
    add("-d", "--data_set", default="f8k", help="f8k, f30k, toy, or a folder of pictures with captions (default: f8k)")
    add("-m", "--model_name", choices=NAMES, help="default: the model of the index, else clip")
    add("-e", "--evaluation_mode", choices=MODES, default="text2image", help="what asks for what (default: text2image)")
    return parser


def main() -> int:
    """Index, query and print; returns the exit code."""
    options = parser().parse_args()
    flows.quiet()
    try:
        data_set = open_data_set(options.data_set)
        model = options.model_name or flows.indexed_model() or "clip"
        if options.index_num_docs:
            index(data_set, model, options)
        elif not flows.indexed_model():
            raise FlowError(f"nothing is indexed in {flows.workspace()}: say with -i how many pairs to index")
        print(f"MeanReciprocalRank is: {mean_reciprocal_rank(data_set, model, options):.10f}")
    except (FlowError, DataError, StorageError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def index(data_set: DataSet, model: str, options: argparse.Namespace) -> None:
    """Index the pairs that are to be found."""
    import client

    account = client.Account()
    with flows.running("flow-index.yml", model=model, data_root=data_set.root) as flow:
        client.index(flow, data_set, account, limit=options.index_num_docs, request_size=options.request_size)
    account.report()


def mean_reciprocal_rank(data_set: DataSet, model: str, options: argparse.Namespace) -> float:
    """Ask the query Flow, with the evaluator at its end, with one side of each pair for the other.

    Raises:
        FlowError: there was no pair to ask with.
    """
    from docarray import DocList

    from executors.document import Document

    ranks: list[float] = []
    queries = list(_queries(data_set, options))
    if not queries:
        raise FlowError(f"{options.data_set} has no captions to evaluate with")
    with (
        flows.running("flow-query.yml", model=model, data_root=data_set.root, evaluate=True) as flow,
        Progress("evaluating", total=len(queries), unit="queries") as progress,
    ):

        def take(response: object) -> None:
            answered = response.docs  # type: ignore[attr-defined]
            ranks.extend(doc.reciprocal_rank for doc in answered if not doc.error)
            for doc in answered:
                if doc.error:
                    progress.note(f"skipped {doc.tags['path']}: {doc.error}")
            progress.advance(len(answered))

        flow.post(
            "/search",
            DocList[Document](queries),
            parameters={"top_k": TOP_K},
            request_size=options.request_size,
            return_type=DocList[Document],
            on_done=take,
        )
    return sum(ranks) / len(ranks)


def _queries(data_set: DataSet, options: argparse.Namespace) -> Iterator[Document]:
    import client
    from executors.document import IMAGE, TEXT

    asks, target = (IMAGE, TEXT) if options.evaluation_mode == "image2text" else (TEXT, IMAGE)
    account = client.Account()
    for number, (picture, caption) in enumerate(client.pairs(data_set, options.evaluate_num_docs, account)):
        if caption is None:
            continue
        query, right = (picture, caption) if asks == IMAGE else (caption, picture)
        query.relevant, query.target, query.id = right.tags["id"], target, str(number)
        yield query
    for name, reason in account.skipped.items():
        print(f"skipped {name}: {reason}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
