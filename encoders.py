"""The boxes of the Flow that lead to a vector, without a Flow: for a program that is alone with the index."""

from __future__ import annotations

import asyncio
import inspect
import os

import numpy as np
from docarray import DocList
from jina import Executor

import flow as flows
from executors.document import IMAGE, TEXT, Document
from models.errors import one_line


class EncodingError(Exception):
    """Vectors of the index's model cannot be made here; the message is one line that says why."""


class Encoders:
    """The encoders that the environment or the model's YAML files name, loaded when they are first needed.

    Args:
        model: fingerprint of the model that the vectors must be of.

    Raises:
        EncodingError: the fingerprint is empty.
    """

    def __init__(self, model: str) -> None:
        if not model:
            raise EncodingError("no model is known: index again")
        self._model = model
        self._boxes: dict[str, Executor] = {}

    def pictures(self, pictures: list[bytes]) -> DocList[Document]:
        """Documents of encoded pictures in their order, each with ``embedding`` or ``error``.

        Raises:
            EncodingError: the model is not to be had, or is another one.
        """
        docs = [Document(modality=IMAGE, data=np.frombuffer(picture, np.uint8)) for picture in pictures]
        return self._run(docs, "normalizer", "image_encoder")

    def texts(self, texts: list[str]) -> DocList[Document]:
        """As ``pictures``, of texts."""
        return self._run([Document(modality=TEXT, text=text) for text in texts], "text_encoder")

    def _run(self, docs: list[Document], *boxes: str) -> DocList[Document]:
        documents = DocList[Document](docs)
        for box in boxes:
            if box not in self._boxes:
                self._boxes[box] = self._load(box)
            executor = self._boxes[box]
            answer = executor.requests["/index"].fn(executor, docs=documents)
            documents = asyncio.run(answer) if inspect.iscoroutine(answer) else answer
        for doc in documents:
            if not doc.error and doc.model != self._model:
                raise EncodingError(f"the model here is {doc.model}, that of the index {self._model}")
        return documents

    def _load(self, box: str) -> Executor:
        file = os.environ.get(f"JINA_{box.upper()}") or f"yaml/{self._model.split()[0]}/{box}.yml"
        for name in ("JINA_IMAGE_THREADS", "JINA_TEXT_THREADS"):
            os.environ[name] = os.environ.get(name) or str(os.cpu_count() or 1)
        try:
            return Executor.load_config(file, extra_search_paths=[str(flows.ROOT)])
        except Exception as error:  # of whatever the model is made of
            raise EncodingError(one_line(error)) from error
