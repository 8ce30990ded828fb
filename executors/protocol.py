"""From the JSON that comes in through the HTTP gateway to the Flow's documents."""

import re
from base64 import b64encode
from html import escape, unescape
from typing import Iterable, List, Optional, Union

from executors.document import IMAGE, TEXT, Document, picture_id, text_document
from executors.limits import MAX_TEXT
from executors.picture import PictureError, read
from executors.schema import Pair, QueryPart, is_data_uri

_PICTURE_ADDRESS = re.compile(r"(?:https?://(?P<host>[^/]+))?/(?:images|thumbnails)/(?P<id>[0-9a-f]{40})")

AnyQuery = Union[str, QueryPart, List[QueryPart]]
"""A text, a ``data:`` URI or an address; or what a query consists of."""


def data_uri(mime_type: str, data: bytes) -> str:
    """An encoded picture as a ``data:`` URI."""
    return f"data:{mime_type};base64,{b64encode(data).decode()}"


def stored_picture(address: str, host: str) -> Optional[str]:
    """The id of the picture of this server that an address names; ``None`` if it names none.

    Args:
        host: what this server is called, with its port.
    """
    found = _PICTURE_ADDRESS.fullmatch(address)
    return found["id"] if found and found["host"] in (None, host) else None


def no_picture(id_: str) -> str:
    """The message for a picture that is not stored."""
    return f"there is no picture {id_[:80]!r} here"


def query_documents(id_: str, query: AnyQuery, *, target: Optional[str], host: str) -> List[Document]:
    """One query as one document, or as one for each of its parts. A picture's ``uri`` is what the request says.

    Args:
        target: what to find; by default pictures if there is a text among the parts, else texts.
        host: what this server is called, with its port.
    """
    parts = _parts(query, host)
    target = target or (IMAGE if any(part.image is None for part in parts) else TEXT)
    docs = [
        Document(
            id=id_,
            modality=TEXT if part.image is None else IMAGE,
            target=target,
            uri=part.image or "",
            text=part.text or "",
        )
        for part in parts
    ]
    if len(docs) > 1:
        for number, (doc, part) in enumerate(zip(docs, parts, strict=True), 1):
            doc.id, doc.query, doc.part, doc.weight = f"{id_}.{number}", id_, number, part.weight
    return docs


def _parts(query: AnyQuery, host: str) -> List[QueryPart]:
    if isinstance(query, str):
        is_picture = is_data_uri(query) or stored_picture(query, host)
        return [QueryPart(image=query) if is_picture else QueryPart(text=query)]
    return query if isinstance(query, list) else [query]


def is_from_jina_box(body: object) -> bool:
    """Whether a request's body says ``mode``, as those of Jina Box 0.1.49 and 0.1.50 do and nobody else's."""
    return isinstance(body, dict) and body.get("mode") is not None


def clicked(query: AnyQuery) -> AnyQuery:
    """A query of Jina Box. It asks with a text that it was given as HTML when a person clicks on it."""
    if isinstance(query, str) and not is_data_uri(query) and escape(unescape(query), quote=False) == query:
        return unescape(query)
    return query


def index_documents(item: Union[str, Pair]) -> List[Document]:
    """What is to be indexed for one item: a text, a picture, or a picture and its caption."""
    is_text = isinstance(item, str) and not is_data_uri(item)
    uri, text = (item.image, item.text) if isinstance(item, Pair) else ("", item) if is_text else (item, "")
    if len(text) > MAX_TEXT:
        return [Document(modality=TEXT, error=f"a text of more than {MAX_TEXT} characters")]
    if is_text:
        return [text_document(text)]
    try:
        id_ = picture_id(read(uri, None))
    except PictureError as error:
        return [Document(modality=IMAGE, error=str(error))]
    tags = {"id": id_, "picture": id_}
    picture = Document(id=id_, modality=IMAGE, target=IMAGE, uri=uri, text=text, tags=tags)
    return [picture, text_document(text, picture=id_)] if text else [picture]


def removals(names: Iterable[str]) -> List[Document]:
    """Documents that tell the indexers of both kinds to delete what is named: ids, or paths of pictures."""
    return [
        Document(id=f"{kind} {number}", modality=kind, target=kind, text=name)
        for number, name in enumerate(names)
        for kind in (IMAGE, TEXT)
    ]
