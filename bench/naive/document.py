"""The document of the naive Flow."""

from typing import TYPE_CHECKING, Any, Optional

from docarray import BaseDoc
from docarray.typing import NdArray

if TYPE_CHECKING:
    Array = Any  # a type checker would not take it for a numpy array
else:
    Array = Optional[NdArray]


class NaiveDocument(BaseDoc):
    """A picture or a text; ``pixels`` are float32 ``[3, height, width]``, ``embedding`` is float32 ``[dimension]``."""

    id: str = ""  # type: ignore[assignment]
    modality: str = ""
    uri: str = ""
    text: str = ""
    data: Array = None
    pixels: Array = None
    embedding: Array = None
