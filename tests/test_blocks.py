"""Blocks of vectors find exactly what is nearest, whatever comes and goes, and take no more memory than they must."""

from __future__ import annotations

import numpy as np
import pytest

from storage import blocks
from storage.blocks import Blocks

CAPACITY = 64
"""Of a block in these tests."""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", CAPACITY * 16 * 4)


def vectors(number: int, dimension: int = 16, seed: int = 1) -> np.ndarray:
    raw = np.random.default_rng(seed).standard_normal((number, dimension), np.float32)
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)


def filled(array: np.ndarray) -> Blocks:
    made = Blocks()
    for start in range(0, len(array), 100):
        part = array[start : start + 100]
        made.add(np.arange(start, start + len(part)), part)
    return made


def ranking(index: Blocks, query: np.ndarray, top_k: int) -> list[int]:
    [nearest] = index.nearest(query[None], top_k)
    return nearest.rows[np.argsort(-nearest.scores, kind="stable")].tolist()


@pytest.mark.parametrize("number", [1, CAPACITY - 1, CAPACITY, CAPACITY + 1, 5 * CAPACITY, 1000])
def test_the_nearest_of_any_number_are_exact(number: int) -> None:
    array, queries = vectors(number), vectors(7, seed=2)
    index = filled(array)
    for query, nearest in zip(queries, index.nearest(queries, 20), strict=True):
        true = array.astype(np.float64) @ query.astype(np.float64)
        assert sorted(nearest.rows) == sorted(np.argsort(-true)[:20])
        np.testing.assert_allclose(nearest.scores, true[nearest.rows], atol=1e-6)


@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 8, 12, 16, 17, 512])
def test_a_score_is_the_same_to_the_bit_wherever_a_vector_lies(dimension: int) -> None:
    array, [query] = vectors(150, dimension), vectors(1, dimension, seed=2)
    [whole] = filled(array).nearest(query[None], 150)
    scores = dict(zip(whole.rows.tolist(), whole.scores.tolist(), strict=True))
    for row in range(150):
        [alone] = filled(array[row : row + 1]).nearest(query[None], 1)
        assert alone.scores.tolist() == [scores[row]]


def test_all_that_are_as_near_as_the_last_are_found() -> None:
    array = vectors(300)
    array[[3, 70, 140, 299]] = array[0]
    assert sorted(ranking(filled(array), array[0], 2)) == [0, 3, 70, 140, 299]


def test_what_is_no_number_is_not_found() -> None:
    array = vectors(100)
    array[5] = np.nan
    assert 5 not in ranking(filled(array), array[0], 100)


def test_what_is_removed_is_gone_and_its_memory_too() -> None:
    array, random = vectors(1000), np.random.default_rng(3)
    index, left = filled(array), set(range(1000))
    while left:
        gone = random.choice(sorted(left), min(len(left), 130), replace=False)
        index.remove(np.array([*gone, 5000]))
        left -= set(gone.tolist())
        assert len(index._blocks) == -(-len(left) // CAPACITY)
        true = sorted(left, key=lambda row: -float(array[row] @ array[0]))
        assert ranking(index, array[0], 30) == true[:30]
    index.add(np.array([7]), array[:1])
    assert ranking(index, array[0], 30) == [7]
