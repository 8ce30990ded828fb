"""How well pictures and captions find each other: ranks, the usual measures of them, and how sure these are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CUTS = (1, 5, 10)
QUERIES_AT_ONCE = 500  # bounds the matrix of scores
RESAMPLES = 1000


@dataclass(frozen=True)
class Retrieval:
    """One direction: recall at 1, 5 and 10 in per cent, the median rank, and the mean reciprocal rank."""

    recall: dict[int, float]
    median: float
    """The smallest rank that at least half of the queries reach."""
    mrr: float

    @classmethod
    def of_ranks(cls, ranks: np.ndarray, weights: np.ndarray | None = None) -> Retrieval:
        """From the place, 1 for the best, of each query's first right answer.

        Args:
            ranks: ``[queries]``, at least one; infinite where the right answer was not found.
            weights: ``[queries]``, how often each query counts; by default once.
        """
        weights = np.ones(len(ranks)) if weights is None else weights
        order = np.argsort(ranks)
        reached = np.cumsum(weights[order])
        median = ranks[order][np.searchsorted(reached, reached[-1] / 2)]
        recall = {cut: float(np.average(ranks <= cut, weights=weights) * 100) for cut in CUTS}
        return cls(recall, float(median), float(np.average(1 / ranks, weights=weights)))

    def figures(self) -> dict[str, float]:
        """All measures by the names that tables give them."""
        return {f"R@{cut}": value for cut, value in self.recall.items()} | {"median rank": self.median, "MRR": self.mrr}

    def __str__(self) -> str:
        return f"R@1/5/10 {' / '.join(f'{value:.1f}' for value in self.recall.values())}, MRR {self.mrr:.3f}"


def search(
    queries: np.ndarray, answers: np.ndarray, *, asked: np.ndarray, given: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Let every query ask all answers; equal scores count against the right answer.

    Args:
        queries: unit vectors ``[q, d]``.
        answers: unit vectors ``[a, d]``.
        asked: the label of each query, int ``[q]``.
        given: the label of each answer, int ``[a]``; an answer is right for the queries of its label.

    Returns:
        The place of each query's first right answer, int ``[q]``, and by how much that answer's score is above the
        best wrong one's, float ``[q]``.
    """
    ranks, margins = [np.empty(0, int)], [np.empty(0)]
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        scores = queries[part] @ answers.T
        right = asked[part, None] == given
        best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
        wrong = np.where(right, -np.inf, scores)
        ranks.append((wrong >= best).sum(axis=1) + 1)
        margins.append(best[:, 0] - wrong.max(axis=1))
    return np.concatenate(ranks), np.concatenate(margins)


def both_directions(images: np.ndarray, captions: np.ndarray) -> tuple[Retrieval, Retrieval]:
    """Let each picture and each caption ask all of the other kind.

    Args:
        images: unit vectors ``[n, d]``.
        captions: unit vectors ``[n, captions per picture, d]``.

    Returns:
        text to image and image to text; a picture's best-placed caption counts.
    """
    flat = captions.reshape(-1, captions.shape[-1])
    pictures = np.arange(len(images))
    owners = pictures.repeat(captions.shape[1])
    text_to_image, _ = search(flat, images, asked=owners, given=pictures)
    image_to_text, _ = search(images, flat, asked=pictures, given=owners)
    return Retrieval.of_ranks(text_to_image), Retrieval.of_ranks(image_to_text)


def summary(ranks: np.ndarray, clusters: np.ndarray) -> dict[str, dict[str, float]]:
    """Every measure's ``value``, and the ``low`` and ``high`` end of its 95% bootstrap interval.

    Percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993) with ``RESAMPLES`` resamples and
    a fixed seed. Clusters are drawn, not queries: the captions of one picture are not independent of each other.

    Args:
        ranks: ``[queries]``, as for `Retrieval.of_ranks`.
        clusters: ``[queries]``, a label for each: queries of the same one are drawn together.
    """
    random = np.random.default_rng(0)
    _, cluster = np.unique(clusters, return_inverse=True)
    count = int(cluster.max()) + 1
    drawn = (np.bincount(random.integers(count, size=count), minlength=count)[cluster] for _ in range(RESAMPLES))
    samples = [Retrieval.of_ranks(ranks, weights).figures() for weights in drawn]
    ends = {name: np.percentile([sample[name] for sample in samples], (2.5, 97.5)) for name in samples[0]}
    values = Retrieval.of_ranks(ranks).figures()
    return {
        name: {"value": value, "low": float(ends[name][0]), "high": float(ends[name][1])}
        for name, value in values.items()
    }


def recall_curve(ranks: np.ndarray, largest: int) -> list[tuple[int, float]]:
    """Recall in per cent at k from 1 to ``largest``, evenly spread on a logarithmic scale."""
    cuts = np.unique(np.geomspace(1, max(largest, 1), 40).round().astype(int))
    return [(int(cut), float((ranks <= cut).mean() * 100)) for cut in cuts]
