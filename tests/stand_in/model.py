"""A stand-in for a trained model, for the tests of everything else: quick, without weights, and of exact meaning.

A vector is a mean colour, so that the text "red" finds what is red.
"""

from typing import Any

import numpy as np
from docarray import DocList
from jina import Executor, requests
from PIL import ImageColor

from executors.document import Document
from executors.picture import PictureError, decode

FINGERPRINT = "vse stand-in"


def vector(colour: np.ndarray) -> np.ndarray:
    """A colour (RGB, 0..255) as a float32 vector ``[4]`` of unit length."""
    raised = np.append(np.asarray(colour, np.float32), 64)
    return raised / np.linalg.norm(raised)


class StandInNormalizer(Executor):
    """Shrinks a picture to 8 x 8 pixels."""

    @requests(on=["/index", "/search"])
    def normalize(self, docs: DocList[Document], **_: Any) -> DocList[Document]:
        for doc in docs:
            if not doc.error:
                try:
                    doc.pixels = np.asarray(decode(doc.data.tobytes()).convert("RGB").resize((8, 8)))
                except PictureError as error:
                    doc.error = str(error)
                doc.data = None
        return docs


class StandInImageEncoder(Executor):
    """The mean colour of the pixels."""

    @requests(on=["/index", "/search"])
    def encode(self, docs: DocList[Document], **_: Any) -> DocList[Document]:
        for doc in docs:
            if not doc.error:
                doc.embedding, doc.pixels, doc.model = vector(doc.pixels.mean((0, 1))), None, FINGERPRINT
        return docs


class StandInTextEncoder(Executor):
    """The colour that a text's first word names, black for any other word."""

    @requests(on=["/index", "/search"])
    def encode(self, docs: DocList[Document], **_: Any) -> DocList[Document]:
        for doc in docs:
            doc.embedding, doc.model = vector(colour(doc.text)), FINGERPRINT
        return docs


def colour(text: str) -> np.ndarray:
    """The colour (RGB, 0..255) that a text's first word names."""
    try:
        return np.array(ImageColor.getrgb((text.split() or ["black"])[0])[:3])
    except ValueError:
        return np.zeros(3)
