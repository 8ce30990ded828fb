"""From the JSON of the HTTP gateway to the Flow's documents, and back."""

import re
from base64 import b64encode
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple, Union

from executors import VERSION
from executors.document import IMAGE, TEXT, Document, Match, picture_id, text_document
from executors.picture import PictureError, read
from executors.schema import MAX_TEXT, Pair, QueryPart, is_data_uri

SHOWN = 100
"""How many characters of a text stand in the name of a query of several parts."""
_PICTURE_ADDRESS = re.compile(r"(?:https?://(?P<host>[^/]+))?/(?:images|thumbnails)/(?P<id>[0-9a-f]{40})")

AnyQuery = Union[str, QueryPart, List[QueryPart]]


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


def name(query: AnyQuery) -> str:
    """What a query is called in its answer: a string by itself, several parts like ``picture + 0.7 "in the snow"``."""
    if isinstance(query, str):
        return query
    if isinstance(query, QueryPart):
        return _picture_name(query.image) if query.text is None else query.text
    first, *others = query
    signs = "".join(f" {'-' if part.weight < 0 else '+'} {_term(part)}" for part in others)
    return f"{'-' if first.weight < 0 else ''}{_term(first)}{signs}"


def _term(part: QueryPart) -> str:
    what = _picture_name(part.image) if part.text is None else f'"{_cut(part.text)}"'
    return what if abs(part.weight) == 1 else f"{abs(part.weight):g} {what}"


def _picture_name(image: Optional[str]) -> str:
    return _cut(image) if image and not is_data_uri(image) else "picture"


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


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


def summary(reports: Sequence[Match]) -> Dict[str, Any]:
    """The numbers of pictures, captions and shards, and the model, from the reports of all shards."""
    count = {report.tags["indexer"]: 0 for report in reports}
    for report in reports:
        count[report.tags["indexer"]] += int(report.tags["documents"])
    return {
        "pictures": count["image_vector_indexer"],
        "captions": count["text_indexer"],
        "model": next((report.tags["model"] for report in reports if report.tags["model"]), None),
        "shards": sum(report.tags["indexer"] == "text_indexer" for report in reports),
        "version": VERSION,
    }


def answered(query: AnyQuery, doc: Document, server: str) -> Dict[str, Any]:
    """A query with its matches. Jina Box 0.1.50 reads ``mime_type`` and 0.1.49 ``mimeType``.

    Args:
        server: this server's address, without a slash at the end, for the addresses of pictures.
    """
    is_one = not isinstance(query, list) or len(query) == 1
    mime_type = doc.mime_type or ("image/jpeg" if doc.modality == IMAGE else "text/plain")
    answer: Dict[str, Any] = {
        "id": doc.id,
        "uri": name(query),
        "text": doc.text if is_one else name(query),
        "mime_type": mime_type,
        "mimeType": mime_type,
    }
    answer["matches"] = [_match(match, server) for match in doc.matches]
    return {**answer, "error": doc.error} if doc.error else answer


def _match(match: Match, server: str) -> Dict[str, Any]:
    return {
        "id": match.id,
        "uri": server + match.uri if match.uri.startswith("/") else match.uri,
        "mime_type": match.mime_type,
        "mimeType": match.mime_type,
        "text": match.text,
        "score": {"value": match.score},
        "tags": match.tags,
    }


def answer(docs: List[Dict[str, Any]], errors: Sequence[str], notes: Sequence[str] = ()) -> Tuple[int, Dict[str, Any]]:
    """The HTTP status and the body of an answer: 422 if every one of ``docs`` is wrong, else 200 with what went wrong.

    ``data`` is where Jina Box 0.1.50 looks for the documents, ``search`` where 0.1.49 does.
    """
    code = "ERROR" if len(errors) == len(docs) else "SUCCESS"
    status = {"code": code, "description": "; ".join([*errors, *notes])}
    return (422 if code == "ERROR" else 200), {"data": {"docs": docs}, "search": {"docs": docs}, "status": status}


def refusal(message: str) -> Dict[str, Any]:
    """The body of an answer that is an error, as Jina Box shows it."""
    return {"data": {"docs": []}, "search": {"docs": []}, "status": {"code": "ERROR", "description": message}}
