"""The JSON that goes in and out of the HTTP gateway, and how it becomes documents and comes of them."""

from base64 import b64encode
from typing import Annotated, Any, Dict, Iterable, List, Optional, Sequence, Tuple, Union

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from executors import VERSION
from executors.document import IMAGE, TEXT, Document, Match, picture_id, text_document
from executors.picture import PictureError, read

MAX_TOP_K = 1000


def _encodable(text: str) -> str:
    text.encode()  # JSON can spell half a character, which nothing behind the gateway could send on
    return text


Text = Annotated[str, AfterValidator(_encodable)]


class Pair(BaseModel):
    """A picture with its caption."""

    model_config = ConfigDict(extra="forbid")
    image: str = Field(description="the picture as a base64 `data:` URI")
    text: Text = Field(min_length=1, description="its caption")


class Parameters(BaseModel):
    """Settings of a search, all optional."""

    top_k: Optional[int] = Field(None, gt=0, description=f"matches for each query; at most {MAX_TOP_K} are given")
    target: Optional[str] = Field(
        None,
        pattern=f"^({IMAGE}|{TEXT})$",
        description="what to find; by default a text finds pictures and a picture finds texts",
    )
    data_uri: bool = Field(False, description="give pictures as `data:` URIs instead of addresses on this server")


class SearchRequest(BaseModel):
    """What Jina Box sends; other fields, such as `mode`, are allowed and ignored."""

    data: List[Text] = Field(
        min_length=1,
        description="queries: texts, pictures as base64 `data:` URIs, or addresses of pictures on this server",
    )
    top_k: Optional[int] = Field(None, gt=0, description="as in `parameters`, which wins")
    parameters: Parameters = Parameters()


class IndexRequest(BaseModel):
    """What to add to the index."""

    data: List[Union[Text, Pair]] = Field(
        min_length=1, description="texts, pictures as base64 `data:` URIs, or pictures with their captions"
    )


def is_data_uri(text: str) -> bool:
    """Whether a query or an item is a picture rather than a text."""
    return text[:5].lower() == "data:"


def data_uri(mime_type: str, data: bytes) -> str:
    """An encoded picture as a ``data:`` URI."""
    return f"data:{mime_type};base64,{b64encode(data).decode()}"


def index_documents(item: Union[str, Pair]) -> List[Document]:
    """What is to be indexed for one item: a text, a picture, or a picture and its caption."""
    if isinstance(item, str) and not is_data_uri(item):
        return [text_document(item)]
    uri, caption = (item, "") if isinstance(item, str) else (item.image, item.text)
    try:
        id_ = picture_id(read(uri, None))
    except PictureError as error:
        return [Document(modality=IMAGE, error=str(error))]
    tags = {"id": id_, "picture": id_}
    picture = Document(id=id_, modality=IMAGE, target=IMAGE, uri=uri, text=caption, tags=tags)
    return [picture, text_document(caption, picture=id_)] if caption else [picture]


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


def answered(query: str, doc: Document, server: str) -> Dict[str, Any]:
    """A query with its matches. Jina Box 0.1.50 reads ``mime_type`` and 0.1.49 ``mimeType``.

    Args:
        server: this server's address, without a slash at the end, for the addresses of pictures.
    """
    mime_type = doc.mime_type or ("text/plain" if doc.modality == TEXT else "image/jpeg")
    answer: Dict[str, Any] = {
        "id": doc.id,
        "uri": query,
        "text": doc.text,
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
