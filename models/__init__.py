"""The networks, where their weights come from, and the weights that are committed with their cards."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from models.preprocessing import Preprocessing

NAMES = ("clip", "vse", "clip-small")
EMBEDDED = Path(__file__).resolve().parent / "weights"
_LIBRARIES = {
    "clip": ("models.clip",),
    "vse": ("models.vse",),
    "clip-small": ("models.clip", "transformers.models.bert.modeling_bert"),
}

# What PyTorch reads once, when it is loaded.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # large arrays lie in large pages
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a thread that waits leaves its core to the rest of the Flow


class ModelError(Exception):
    """A model cannot be used; the message is one line that names the file or name and says what to do."""


class Model(Protocol):
    """An image tower and a text tower that map into one space; only the towers that were asked for are loaded."""

    fingerprint: str
    """Name, architecture, dimension, preprocessing and hash of the weights: the same for both towers."""
    dimension: int
    preprocessing: Preprocessing

    def encode_images(self, pixels: np.ndarray) -> np.ndarray:
        """From uint8 ``[n, size, size, 3]`` (RGB) to float32 ``[n, dimension]`` of unit length."""

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        """From any texts to float32 ``[n, dimension]`` of unit length; too long ones are cut."""


def import_libraries(name: str) -> None:
    """Import what one of ``NAMES`` is made of, and compute nothing: processes that are forked later then have it.

    Raises:
        ModelError: there is no such model, or its weights are published ones that are not to be had.
    """
    if name not in NAMES:
        raise ModelError(f"there is no model {name!r}: choose from {', '.join(NAMES)}")
    if name == "clip":
        from models import published

        published.locate(*published.asked_for())  # what cannot be had is said before seconds of imports
    for library in _LIBRARIES[name]:
        importlib.import_module(library)


def load(name: str, *, image: bool, text: bool) -> Model:
    """Load the towers of one of ``NAMES``.

    Raises:
        ModelError: there is no such model, or its weights are not to be had.
    """
    import_libraries(name)
    if image or text:
        from models.precision import keep_memory

        keep_memory()
    if name == "vse":
        from models.vse import VseModel

        return VseModel.load(image=image, text=text)
    from models.clip import ClipModel

    if name == "clip":
        from models import published

        return ClipModel(*published.asked_for(), image=image, text=text)
    return ClipModel("", str(EMBEDDED / name), image=image, text=text, name=name)
