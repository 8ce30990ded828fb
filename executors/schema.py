"""The JSON bodies of the HTTP gateway: what may be asked and what is answered, as the OpenAPI page describes it."""

from typing import Annotated, Any, Dict, List, Optional, Union

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator
from pydantic_core import PydanticCustomError

from executors.document import IMAGE, TEXT
from executors.limits import MAX_BODY, MAX_ITEMS, MAX_PARTS, MAX_REQUESTS, MAX_TEXT, MAX_TOP_K

MAX_WEIGHT = 10
TAGS = {"a text", "an object", "a list"}
"""Names that pydantic gives to the shapes of an item; they are in the places of its errors."""


def is_data_uri(text: str) -> bool:
    """Whether a query or an item is a picture rather than a text."""
    return text[:5].lower() == "data:"


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can spell half a character, which nothing behind the gateway could send on
        raise PydanticCustomError("text", "not a text: it has half a character in it") from None
    return text


def _short(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise PydanticCustomError("text", "a text of more than {most} characters", {"most": MAX_TEXT})
    return text


def _short_or_picture(text: str) -> str:
    return text if is_data_uri(text) else _short(text)


Text = Annotated[str, AfterValidator(_encodable)]


def _shape(item: Any) -> Optional[str]:
    """The tag of the shape that an item is checked as; ``None``: it has no known one."""
    shapes = ((str, "a text"), ((dict, BaseModel), "an object"), (list, "a list"))
    return next((tag for types, tag in shapes if isinstance(item, types)), None)


class QueryPart(BaseModel):
    """A text or a picture that asks, alone or with others."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"text": "in the snow", "weight": 0.7}, {"image": f"/images/{'6a5e' * 10}"}]},
    )
    text: Optional[Annotated[Text, AfterValidator(_short)]] = Field(
        None, description=f"a text, of at most {MAX_TEXT} characters"
    )
    image: Optional[Text] = Field(
        None, description="a picture, as a base64 `data:` URI or the address of one on this server, `/images/<id>`"
    )
    weight: float = Field(
        1.0,
        strict=True,
        ge=-MAX_WEIGHT,
        le=MAX_WEIGHT,
        allow_inf_nan=False,
        description="how much it counts beside the other parts; negative: to be avoided; not 0",
    )

    @model_validator(mode="before")
    @classmethod
    def _is_object(cls, part: Any) -> Any:
        if not isinstance(part, (dict, QueryPart)):
            raise PydanticCustomError("query_part", "a part is an object with `text` or `image`")
        return part

    @field_validator("weight")
    @classmethod
    def _counts(cls, weight: float) -> float:
        if weight == 0:
            raise PydanticCustomError("weight", "a weight of 0 says nothing: leave the part out")
        return weight

    @model_validator(mode="after")
    def _is_one_thing(self) -> "QueryPart":
        if (self.text is None) == (self.image is None):
            raise PydanticCustomError("query_part", "give either `text` or `image`")
        return self


def _has_direction(query: Union[QueryPart, List[QueryPart]]) -> Union[QueryPart, List[QueryPart]]:
    if all(part.weight < 0 for part in (query if isinstance(query, list) else [query])):
        raise PydanticCustomError("weight", "one weight at least must be positive: everything cannot be avoided")
    return query


Query = Annotated[
    Union[
        Annotated[Text, AfterValidator(_short_or_picture), Tag("a text")],
        Annotated[QueryPart, AfterValidator(_has_direction), Tag("an object")],
        Annotated[
            List[QueryPart],
            Field(min_length=1, max_length=MAX_PARTS),
            AfterValidator(_has_direction),
            Tag("a list"),
        ],
    ],
    Discriminator(
        _shape,
        custom_error_type="query",
        custom_error_message="a query is a text, an object with `text` or `image`, or a list of such objects",
    ),
]


class Parameters(BaseModel):
    """Settings of a search, all optional."""

    top_k: Optional[int] = Field(None, gt=0, description=f"matches for each query; at most {MAX_TOP_K} are given")
    target: Optional[str] = Field(
        None,
        pattern=f"^({IMAGE}|{TEXT})$",
        description="what to find; by default a query with a text finds pictures, one of pictures alone finds texts",
    )
    data_uri: bool = Field(False, description="give pictures as `data:` URIs instead of addresses on this server")


class SearchRequest(BaseModel):
    """Queries, each answered by itself. Other fields are allowed and ignored."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"data": ["a cat", "a cup of coffee"], "parameters": {"top_k": 3}},
                {
                    "data": [
                        [
                            {"image": f"/images/{'6a5e' * 10}"},
                            {"text": "in the snow", "weight": 0.7},
                            {"text": "a dog", "weight": -0.5},
                        ]
                    ]
                },
            ]
        }
    )
    data: List[Query] = Field(
        min_length=1,
        max_length=MAX_ITEMS,
        description="queries: texts, pictures as base64 `data:` URIs, or addresses of pictures on this server; objects "
        "of one of these; or lists of such objects, which make one query together: their vectors, of unit length, are "
        "multiplied by their weights and added up",
    )
    top_k: Optional[int] = Field(None, gt=0, description="as in `parameters`, which wins")
    parameters: Parameters = Parameters()
    mode: Optional[Any] = Field(None, description="Jina Box says it, and is answered with texts that are HTML")

    @model_validator(mode="after")
    def _has_few_parts(self) -> "SearchRequest":
        if sum(len(query) if isinstance(query, list) else 1 for query in self.data) > MAX_ITEMS:
            raise PydanticCustomError("data", "data: more than {most} parts in all queries", {"most": MAX_ITEMS})
        return self


class Pair(BaseModel):
    """A picture with its caption."""

    model_config = ConfigDict(extra="forbid")
    image: Text = Field(description="the picture as a base64 `data:` URI")
    text: Text = Field(min_length=1, description="its caption")


Item = Annotated[
    Union[Annotated[Text, Tag("a text")], Annotated[Pair, Tag("an object")]],
    Discriminator(
        _shape,
        custom_error_type="item",
        custom_error_message="an item is a text, a `data:` URI, or an object with `image` and `text`",
    ),
]


class IndexRequest(BaseModel):
    """What to add to the index."""

    data: List[Item] = Field(
        min_length=1,
        max_length=MAX_ITEMS,
        description="texts, pictures as base64 `data:` URIs, or pictures with their captions",
    )


class IndexStatus(BaseModel):
    """How much is indexed, and how."""

    pictures: int
    captions: int
    model: Optional[str] = Field(description="name, architecture, preprocessing and hash of the weights")
    shards: int
    version: str = Field(description="of this program")


class Sample(BaseModel):
    """A picture of the index."""

    id: str
    uri: str = Field(description="address of the picture")
    thumbnail: str = Field(description="path of a small version")
    mime_type: str
    text: str = Field(description="its caption, if it has one")
    file: str = Field(description="name of the file that it was indexed from")
    width: int = Field(description="pixels of the picture as it is shown")
    height: int


class Samples(BaseModel):
    """Something to begin with: other pictures and captions each time."""

    pictures: List[Sample]
    captions: List[str]


class Captions(BaseModel):
    """What is said of a picture."""

    captions: List[str]


class Score(BaseModel):
    """How near a match is."""

    value: float = Field(description="cosine distance, 0 to 2: smaller is nearer")


class Match(BaseModel):
    """A picture or a text that was found."""

    id: str
    uri: str = Field(description="address of a picture, or with `data_uri` the picture itself")
    mime_type: str
    mimeType: str = Field(description="the same, for Jina Box 0.1.49")
    text: str = Field(description="a text, or the caption of a picture")
    score: Score
    tags: Dict[str, str] = Field(
        description="of a picture `id`, `file`, `width`, `height` (pixels as it is shown) and `thumbnail` (a path); "
        "of a text `id`, the text, and `picture`, the id of a picture that it describes"
    )


class Answered(BaseModel):
    """A query with what was found, the nearest first; or an item of `/index`, which has only `id` and `error`."""

    id: str
    uri: str = Field("", description="the query, or a readable form of one that has several parts")
    text: str = ""
    mime_type: str = ""
    mimeType: str = ""
    matches: List[Match] = []
    error: str = Field("", description="what is wrong with it; absent if nothing is")


class Answers(BaseModel):
    """One for each query or item, in their order."""

    docs: List[Answered]


class Status(BaseModel):
    """How it went."""

    code: str = Field(pattern="^(SUCCESS|ERROR)$")
    description: str = Field(description="what was wrong, in one line; empty if nothing was")


class Answer(BaseModel):
    """The answers. Texts in `search`, and all of them if the request says `mode`, are HTML: `<` is `&lt;`."""

    data: Answers
    search: Answers = Field(description="the same for Jina Box 0.1.49")
    status: Status


class Refusal(Answer):
    """An error: `docs` are empty, `code` is `ERROR`, and `description` says what to do."""


REFUSALS = {
    404: "not here: nothing is indexed yet, no such picture, or nothing was found",
    409: "the index was made with another model",
    413: f"the request is larger than {MAX_BODY // 2**20} MB",
    422: "the request is not understood, or every query or item in it is wrong",
    429: f"{MAX_REQUESTS} requests are being worked on: ask again",
    500: "an error of the server",
    503: "a part of the Flow does not answer, the server is busy, or it took too long: ask again",
}


def refusals(*statuses: int) -> Dict[Union[int, str], Dict[str, Any]]:
    """How a route's errors are described."""
    return {status: {"model": Refusal, "description": REFUSALS[status]} for status in statuses}


def place(error: Dict[str, Any]) -> str:
    """Where in a request's body pydantic found an error: names and numbers, joined by dots."""
    return ".".join(str(part) for part in error["loc"][1:] if part not in TAGS)
