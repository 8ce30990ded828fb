"""The one typed document that all executors, the gateway and the clients share.

Neighbours in a Flow must agree on names and types to the letter, and a gateway that decodes a document knows only
``str``, numbers and arrays: an encoded picture therefore travels as an array of its bytes.
"""

from functools import cache
from hashlib import sha1
from typing import TYPE_CHECKING, Any, Dict, List, Optional

import numpy as np
from docarray import BaseDoc, DocList
from docarray.base_doc.mixins.io import _type_to_protobuf
from docarray.proto import DocProto
from docarray.typing import NdArray

from storage.store import Source

if TYPE_CHECKING:
    Array = Any  # a type checker would not take it for a numpy array
else:
    Array = Optional[NdArray]

IMAGE = "image"
TEXT = "text"
INDEXERS = {IMAGE: {"image_vector_indexer", "image_kv_indexer"}, TEXT: {"text_indexer"}}


class _Sparse(BaseDoc):
    """What travels without the fields that say nothing: each costs 10 microseconds at each end of each message."""

    def to_protobuf(self) -> DocProto:
        """The message, from which whoever reads it makes the same document."""
        # A list of documents always travels: where Jina joins shards, its own classes default to a mere list.
        fields = type(self).model_fields
        return DocProto(
            data={
                name: _type_to_protobuf(value)
                for name, value in self
                if isinstance(value, np.ndarray | DocList) or value != fields[name].default
            }
        )


class Match(_Sparse):
    """One document that was found, or the report of one shard."""

    id: str = ""  # type: ignore[assignment]
    uri: str = ""
    mime_type: str = ""
    text: str = ""
    tags: Dict[str, str] = {}
    score: float = 0.0
    """Cosine distance to the query, 0 to 2: smaller is nearer."""


class Document(_Sparse):
    """A picture or a text on its way through a Flow: to be indexed, or a query with its answer."""

    id: str = ""  # type: ignore[assignment]
    modality: str = ""
    """What it is, ``image`` or ``text``: decides which encoder takes it."""
    target: str = ""
    """What it asks for or belongs to, ``image`` or ``text``: decides which indexers take it."""
    uri: str = ""
    """Of a picture: the path of a file below the data set's folder, or a ``data:`` URI."""
    mime_type: str = ""
    text: str = ""
    """A text, or the caption that a picture is shown with."""
    query: str = ""
    """Of a part of a query: the id of the query. Parts have ids of their own, and travel in one request."""
    part: int = 0
    """Of a part of a query: its place among the parts, from 1 on."""
    weight: float = 1.0
    """Of a part of a query: how much its vector counts; negative: the answers are to be unlike it."""
    tags: Dict[str, str] = {}
    """``id`` as in the original, a picture's SHA-1 or a caption itself; ``picture`` and ``path``: its origin."""
    data: Array = None
    """The encoded picture, uint8 ``[bytes]``."""
    pixels: Array = None
    """The picture as the image encoder wants it, uint8 ``[height, width, 3]``."""
    embedding: Array = None
    """float32 ``[dimension]`` of unit length."""
    model: str = ""
    """Fingerprint of the model that made the embedding."""
    held_by: List[str] = []
    """The indexers that hold the document on disk."""
    error: str = ""
    """Why the document could not be processed, in one line; empty: nothing is wrong."""
    matches: DocList[Match] = DocList[Match]()
    relevant: str = ""
    """For evaluation: the tag ``id`` of the match that is right."""
    reciprocal_rank: float = 0.0

    @classmethod
    def schema(cls, *_: Any, **__: Any) -> Dict[str, Any]:
        """Its JSON schema, made once: Jina asks for it at each endpoint, and as often of copies that it makes of it."""
        return _schema()


@cache
def _schema() -> Dict[str, Any]:
    return Document.model_json_schema()


def is_held(doc: Document) -> bool:
    """Whether every indexer that a document belongs to holds it on disk."""
    return INDEXERS[doc.modality] <= set(doc.held_by)


def picture_id(data: bytes) -> str:
    """The id of a picture: the SHA-1 of its encoded file, in hexadecimal."""
    return sha1(data).hexdigest()


def text_id(text: str) -> str:
    """The id of a text: SHA-1 in hexadecimal, of other input than any picture file can be."""
    return sha1(b"text\0" + text.encode("utf-8", "surrogatepass")).hexdigest()


def text_document(text: str, *, picture: str = "", path: str = "") -> Document:
    """A text to be indexed, with the id and the file of the picture that it describes."""
    tags = {"id": text, "picture": picture, "path": path}
    return Document(id=text_id(text), modality=TEXT, target=TEXT, mime_type="text/plain", text=text, tags=tags)


def source(doc: Document) -> Source:
    """Where a document says that it comes from."""
    return Source(doc.tags.get("picture", ""), doc.tags.get("path", ""))
