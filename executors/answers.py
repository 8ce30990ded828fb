"""From the Flow's documents to the JSON that goes out through the HTTP gateway."""

from html import escape
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

from executors import VERSION
from executors.document import IMAGE, Document, Match
from executors.protocol import AnyQuery
from executors.schema import QueryPart, is_data_uri

SHOWN = 100
"""How many characters of a text stand in the name of a query of several parts."""


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


def name(query: AnyQuery) -> str:
    """What a query is called in its answer: a string by itself, several parts like ``picture + 0.7 "in the snow"``."""
    if isinstance(query, str):
        return query
    if isinstance(query, list) and len(query) == 1:
        [query] = query
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


def samples(pictures: Iterable[Match], captions: Iterable[Match], server: str) -> Dict[str, Any]:
    """Pictures and captions of the index that nobody has asked for."""
    return {
        "pictures": [
            {
                "id": match.id,
                "uri": server + match.uri,
                "thumbnail": match.tags["thumbnail"],
                "mime_type": match.mime_type,
                "text": match.text,
                "file": match.tags["file"],
                "width": int(match.tags["width"]),
                "height": int(match.tags["height"]),
            }
            for match in pictures
        ],
        "captions": [match.text for match in captions],
    }


def answer(
    docs: List[Dict[str, Any]], errors: Sequence[str], notes: Sequence[str] = (), *, html: bool = False
) -> Tuple[int, Dict[str, Any]]:
    """The HTTP status and the body of an answer: 422 if every one of ``docs`` is wrong, else 200 with what went wrong.

    Jina Box 0.1.49 looks for the documents in ``search`` and 0.1.50 in ``data``, both for errors in ``status``, and
    what they find becomes a part of their page as it is. Nobody else reads ``search``, which is always HTML.

    Args:
        html: whether ``data`` and ``status`` are HTML too, for Jina Box; else they are as they were stored.
    """
    code = "ERROR" if len(errors) == len(docs) else "SUCCESS"
    description = "; ".join([*errors, *notes])
    status = {"code": code, "description": _html(description) if html else description}
    shown = [_for_jina_box(doc) for doc in (docs if html else map(_without_pictures, docs))]
    body = {"data": {"docs": shown if html else docs}, "search": {"docs": shown}, "status": status}
    return (422 if code == "ERROR" else 200), body


def refusal(message: str, *, html: bool) -> Dict[str, Any]:
    """The body of an answer that is an error, as Jina Box shows it."""
    status = {"code": "ERROR", "description": _html(message) if html else message}
    return {"data": {"docs": []}, "search": {"docs": []}, "status": status}


def _without_pictures(doc: Dict[str, Any]) -> Dict[str, Any]:
    """A document whose matches are addresses: the pictures themselves need not be sent twice."""
    matches = [
        {**match, "uri": f"/images/{match['id']}"} if is_data_uri(match["uri"]) else match
        for match in doc.get("matches", [])
    ]
    return {**doc, "matches": matches} if matches else doc


def _for_jina_box(doc: Dict[str, Any]) -> Dict[str, Any]:
    """A document with its texts as HTML. Jina Box stops for ever at a query without a match, which is given one."""
    if not doc.get("matches", True):
        why = {"id": "", "uri": "", "mime_type": "text/plain", "mimeType": "text/plain", "score": {"value": 2.0}}
        doc = {**doc, "matches": [{**why, "text": doc.get("error", "nothing was found"), "tags": {}}]}
    return _escaped(doc)


def _escaped(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _escaped(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [_escaped(inner) for inner in value]
    if isinstance(value, str):
        return _html(value) if key == "text" else escape(value)
    return value


def _html(text: str) -> str:
    """A text to stand between two tags. Quotation marks are left, as a click puts it into the search bar as it is."""
    return escape(text, quote=False)
