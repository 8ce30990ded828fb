"""Queries of several parts: texts and pictures, each with a weight, that ask together."""

from typing import Dict, List

import numpy as np
from docarray import DocList

from executors.document import Document

SHORTEST = 1e-3
"""Of the sum of a query's vectors, for a total weight of 1. A shorter one is noise, and points anywhere."""


def combine(docs: DocList[Document]) -> DocList[Document]:
    """Put one query into the place of all its parts; a document that is no part stays as it is.

    The query's ``embedding`` is the weighted sum of the parts' embeddings, at unit length. It has an ``error`` instead
    if a part has one, which names the part, or if the parts cancel each other out.
    """
    parts: Dict[str, List[Document]] = {}
    for doc in docs:
        if doc.query:
            parts.setdefault(doc.query, []).append(doc)
    whole = [doc for doc in docs if not doc.query]
    return DocList[Document]([*whole, *(_combined(query, of_query) for query, of_query in parts.items())])


def _combined(id_: str, parts: List[Document]) -> Document:
    parts = sorted(parts, key=lambda doc: doc.part)  # the branches of the Flow race
    query = Document(id=id_, target=parts[0].target)
    wrong = next((doc for doc in parts if doc.error), None)
    if wrong:
        query.error = f"part {wrong.part}: {wrong.error}"
        return query
    vector = np.sum([doc.weight * doc.embedding.astype(np.float64) for doc in parts], axis=0)
    length = float(np.linalg.norm(vector))
    if SHORTEST * sum(abs(doc.weight) for doc in parts) < length < np.inf:
        query.embedding = (vector / length).astype(np.float32)
    else:
        query.error = "the parts cancel each other out: change a weight"
    return query
