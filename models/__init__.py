"""The networks, where their weights come from, and the weights that are committed with their cards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from models.preprocessing import Preprocessing

NAMES = ("clip", "vse", "clip-small")
EMBEDDED = Path(__file__).resolve().parent / "weights"


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


def load(name: str, *, image: bool, text: bool) -> Model:
    """Load the towers of one of ``NAMES``.

    Raises:
        ModelError: there is no such model, or its weights are not to be had.
    """
    if name == "vse":
        from models.vse import VseModel  # each model's libraries cost seconds: import what is used

        return VseModel.load(image=image, text=text)
    if name == "clip":
        from models import published

        asked = published.asked_for()
        published.locate(*asked)  # what cannot be had is said before torch is imported
        from models.clip import ClipModel

        return ClipModel(*asked, image=image, text=text)
    if name == "clip-small":
        from models.clip import ClipModel

        return ClipModel("", str(EMBEDDED / name), image=image, text=text, name=name)
    raise ModelError(f"there is no model {name!r}: choose from {', '.join(NAMES)}")
