"""Print the mean reciprocal rank of a model: how far down the right answer stands; or report on all models."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import flow as flows
from app import positive
from dataset import DataError, open_data_set
from flow import FlowError
from models import NAMES
from storage.store import StorageError

if TYPE_CHECKING:
    from dataset import DataSet

MODES = ("image2text", "text2image")


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
    add("--report", action="store_true", help="write tables, curves and pictures for all models; -d, -m, -s apply")
    return parser


def main() -> int:
    """Index, query and print; returns the exit code."""
    options = parser().parse_args()
    flows.quiet()
    try:
        if options.report:
            return report(options)
        data_set = open_data_set(options.data_set)
        model = options.model_name or flows.indexed_model() or "clip"
        print(f"MeanReciprocalRank is: {mean_reciprocal_rank(data_set, model, options):.10f}")
    except (FlowError, DataError, StorageError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def mean_reciprocal_rank(data_set: DataSet, model: str, options: argparse.Namespace) -> float:
    """Index pairs if that is asked for, then let one side of each pair ask for the other.

    Raises:
        FlowError: nothing is indexed, or there was no pair to ask with.
    """
    from evaluation import protocol  # Jina reads the environment when it is imported

    if options.index_num_docs:
        protocol.index(data_set, model, limit=options.index_num_docs, request_size=options.request_size)
    elif not flows.indexed_model():
        raise FlowError(f"nothing is indexed in {flows.workspace()}: say with -i how many pairs to index")
    pairs = protocol.read_pairs(data_set, options.evaluate_num_docs)
    queries = [protocol.make_query(options.evaluation_mode, pair, str(number)) for number, pair in enumerate(pairs)]
    if not queries:
        raise FlowError(f"{options.data_set} has no captions to evaluate with")
    ranks = protocol.reciprocal_ranks(data_set, model, queries, request_size=options.request_size)
    if not ranks:
        raise FlowError(f"no picture of {options.data_set} that was to ask can be used")
    return sum(ranks.values()) / len(ranks)


def report(options: argparse.Namespace) -> int:
    """Write the report and say where it is."""
    from evaluation.report import write_report

    for name in ("index_num_docs", "evaluate_num_docs", "evaluation_mode"):
        if getattr(options, name) != parser().get_default(name):
            raise FlowError(f"--report has numbers and directions of its own: leave --{name} out")
    models = [options.model_name] if options.model_name else list(NAMES)
    for file in write_report(options.data_set, models, request_size=options.request_size):
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
