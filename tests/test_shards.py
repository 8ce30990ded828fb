"""The number of shards never shows in an answer."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.conftest import held, paint_random, run, server, unit

PICTURES = 200
TEXTS = ("red", "navy", "#808080", "olive tree", "no colour at all")


class Answers(NamedTuple):
    """What an index in some number of shards said."""

    workspace: Path
    colours: list[tuple[np.ndarray, np.ndarray]]
    status: dict[str, Any]
    rankings: list[list[tuple[str, float]]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Answers]:
    """The same pictures in 1, 2 and 3 shards; the server is not told in how many."""
    return {shards: _ask(tmp_path_factory.mktemp(f"shards{shards}"), shards) for shards in (1, 2, 3)}


def _ask(folder: Path, shards: int) -> Answers:
    colours = paint_random(folder, PICTURES, noise=30)
    workspace = folder / "workspace"
    arguments = ("-t", "index", "-d", folder, "-m", "vse", "-n", PICTURES, "-s", 64)
    done = run("app.py", *arguments, workspace=workspace, JINA_SHARDS=shards)
    assert done.code == 0, done.err
    files = sorted(folder.glob("*0.png"))
    pictures = [f"data:image/png;base64,{b64encode(path.read_bytes()).decode()}" for path in files]
    with server(workspace) as running:
        status = running.get("/status").body
        found = [
            *running.search(*TEXTS, *pictures[:5], top_k=50),
            *running.search(*pictures[5:10], parameters={"target": "image", "top_k": PICTURES}),
            *running.search(*TEXTS, parameters={"target": "text", "top_k": 1}),
        ]
    rankings = [[(match["id"], match["score"]["value"]) for match in matches] for matches in found]
    return Answers(workspace, colours, status, rankings)


@pytest.mark.parametrize("shards", [2, 3])
def test_rankings_are_identical(answers: dict[int, Answers], shards: int) -> None:
    assert answers[shards].rankings == answers[1].rankings


def test_rankings_are_exact_and_cut(answers: dict[int, Answers]) -> None:
    rankings = answers[3].rankings
    assert [len(ranking) for ranking in rankings] == [50] * 10 + [PICTURES] * 5 + [1] * 5
    stored = np.stack([unit(colour) for colour, _ in answers[3].colours])
    for text, ranking in zip(TEXTS[:3], rankings, strict=False):
        true = np.sort(1 - stored @ unit(text))[:50]
        np.testing.assert_allclose([score for _, score in ranking], true, atol=1e-5)


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_every_shard_holds_its_part_and_only_that(answers: dict[int, Answers], shards: int) -> None:
    status, workspace = answers[shards].status, answers[shards].workspace
    assert (status["shards"], status["pictures"], status["captions"]) == (shards, PICTURES, PICTURES)
    for indexer in ("image_vector_indexer", "image_kv_indexer", "text_indexer"):
        parts = held(workspace, indexer, "count(*)")
        assert len(parts) == shards
        assert min(parts) > PICTURES / shards / 2
        ids = held(workspace, indexer)
        assert len(ids) == len(set(ids)) == PICTURES


def test_another_number_is_refused_in_one_line(answers: dict[int, Answers]) -> None:
    done = run("app.py", "-t", "query", workspace=answers[2].workspace, JINA_SHARDS=3)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "lies in 2 shards, not 3" in done.err
    assert "JINA_SHARDS=2" in done.err
