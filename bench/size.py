"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """The numbers of a run.

    Args:
        rounds: how often everything is measured.
        models: those of ``models.NAMES`` that are measured; ``clip`` is ViT-B/32 with random weights.
        queries: of each kind in a round.
        held: pairs in the index that is asked.
        pairs: indexed in a round by the application and by the limit.
        slow_pairs: indexed in a round by contenders that are slower.
        tried: pairs with which the ways of the limit are compared, and the others warmed up.
        growth: documents of each indexer in the two indexes that are compared.
        added: pairs that are indexed into each of these.
        stores: numbers of vectors that are searched.
        vector_queries: searches in a round.
    """

    rounds: int
    models: tuple[str, ...]
    queries: int
    held: int
    pairs: int
    slow_pairs: int
    tried: int
    growth: tuple[int, int]
    added: int
    stores: tuple[int, ...]
    vector_queries: int


FULL = Size(
    rounds=3,
    models=("clip", "clip-small", "vse"),
    queries=40,
    held=8091,
    pairs=640,
    slow_pairs=96,
    tried=64,
    growth=(1_000, 100_000),
    added=640,
    stores=(8_000, 100_000, 1_000_000),
    vector_queries=30,
)
QUICK = Size(
    rounds=2,
    models=("clip-small",),
    queries=8,
    held=200,
    pairs=160,
    slow_pairs=32,
    tried=64,
    growth=(100, 1_000),
    added=160,
    stores=(2_000,),
    vector_queries=10,
)
