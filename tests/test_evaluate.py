"""The mean reciprocal rank is that of an independent computation on the same vectors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from tests.conftest import Result, held, paint_random, run, unit

PAIRS, QUERIES, CUT = 80, 60, 50


class Evaluation(NamedTuple):
    """A run for each mode, the second on the index of the first, and the vectors that it was about."""

    runs: dict[str, Result]
    pictures: np.ndarray
    captions: np.ndarray
    stored: tuple[int, int]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    folder, workspace = tmp_path_factory.mktemp("pairs"), tmp_path_factory.mktemp("index")
    colours = paint_random(folder, PAIRS, noise=110)
    options = ("-n", QUERIES, "-s", 16, "-d", folder)
    first = run("evaluate.py", "-e", "text2image", "-i", PAIRS, "-m", "vse", *options, workspace=workspace)
    second = run("evaluate.py", "-e", "image2text", "-i", 0, *options, workspace=workspace)
    stored = len(held(workspace, "image_vector_indexer")), len(held(workspace, "text_indexer"))
    pictures, captions = (np.stack([unit(pair[side]) for pair in colours]) for side in (0, 1))
    return Evaluation({"text2image": first, "image2text": second}, pictures, captions, stored)


def ranks(queries: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """The place of answer i among all for query i, from 1 on."""
    similarities = queries @ answers.T
    own = np.take_along_axis(similarities, np.arange(len(queries))[:, None], axis=1)
    return (similarities > own).sum(axis=1) + 1


@pytest.mark.parametrize("mode", ["text2image", "image2text"])
def test_mean_reciprocal_rank(evaluation: Evaluation, mode: str) -> None:
    sides = evaluation.pictures, evaluation.captions
    answers, queries = sides if mode == "text2image" else sides[::-1]
    places = ranks(queries[:QUERIES], answers)
    assert places.min() == 1
    assert places.max() > CUT, "the data must have a right answer that is too far down"
    expected = np.where(places <= CUT, 1 / places, 0).mean()
    done = evaluation.runs[mode]
    assert done.code == 0, done.err
    label, _, figure = done.out.splitlines()[-1].partition(": ")
    assert label == "MeanReciprocalRank is"
    assert float(figure) == pytest.approx(expected, abs=1e-9)


def test_the_index_that_is_there_is_used(evaluation: Evaluation) -> None:
    assert evaluation.stored == (PAIRS, PAIRS)
    assert evaluation.runs["text2image"].out.splitlines()[0].startswith(f"{2 * PAIRS} documents indexed")
    assert len(evaluation.runs["image2text"].out.splitlines()) == 1


@pytest.mark.parametrize("mode", ["text2image", "image2text"])
def test_the_console_is_clean(evaluation: Evaluation, mode: str) -> None:
    for line in evaluation.runs[mode].err.splitlines():
        assert line.startswith(("indexing: ", "evaluating: "))
