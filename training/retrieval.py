"""How well pictures and captions find each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CUTS = (1, 5, 10)


@dataclass(frozen=True)
class Retrieval:
    """One direction: recall at 1, 5 and 10 in per cent, and the mean reciprocal rank."""

    recall: dict[int, float]
    mrr: float

    @classmethod
    def of_ranks(cls, ranks: np.ndarray) -> Retrieval:
        """From the place, 1 for the best, of each query's first right answer."""
        return cls({cut: float((ranks <= cut).mean() * 100) for cut in CUTS}, float((1 / ranks).mean()))

    def __str__(self) -> str:
        return f"R@1/5/10 {' / '.join(f'{value:.1f}' for value in self.recall.values())}, MRR {self.mrr:.3f}"


def both_directions(images: np.ndarray, captions: np.ndarray) -> tuple[Retrieval, Retrieval]:
    """Let each picture and each caption ask all of the other kind; equal scores count against the right answer.

    Args:
        images: unit vectors ``[n, d]``.
        captions: unit vectors ``[n, captions per picture, d]``.

    Returns:
        text to image and image to text; a picture's best-placed caption counts.
    """
    scores = np.einsum("nd,mcd->nmc", images, captions, optimize=True)
    right = np.einsum("nnc->nc", scores)
    of_captions = (scores >= right).sum(axis=0)
    best = right.max(axis=1)
    of_images = (scores >= best[:, None, None]).sum(axis=(1, 2)) - (right >= best[:, None]).sum(axis=1) + 1
    return Retrieval.of_ranks(of_captions.ravel()), Retrieval.of_ranks(of_images)
