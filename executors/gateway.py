"""Box ``gateway`` over HTTP: what a browser with Jina Box, a script or a person's own program talks to."""

from typing import Any, Dict, List, Optional

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from jina.serve.runtimes.gateway.http.fastapi import FastAPIBaseGateway

from executors import VERSION, answers, protocol
from executors.backend import Backend
from executors.connection import HurriedProtocol
from executors.discovery import AwaitsExecutors
from executors.document import TEXT, Document
from executors.health import silent
from executors.limits import MAX_MATCHES, MAX_TOP_K
from executors.schema import (
    Answer,
    Captions,
    IndexRequest,
    IndexStatus,
    Samples,
    SearchRequest,
    refusals,
)
from executors.vector_indexer import DEFAULT_TOP_K
from executors.web import DOCS, RequestError, prepare

HOW_TO_INDEX = "nothing is indexed yet: run `python app.py -t index -d toy`, or `-d` with a folder of pictures"
FOR_EVER = {"Cache-Control": "public, max-age=31536000, immutable"}
"""For what is named by its content."""
A_FILE: Dict[Any, Any] = {200: {"content": {"image/*": {}}, "description": "the file"}}


class HTTPGateway(AwaitsExecutors, FastAPIBaseGateway):
    """Translates between HTTP and the Flow's documents.

    Args:
        searches: whether the Flow behind it answers ``/search``, as the query Flow does; both take ``/index``.
    """

    def __init__(self, searches: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.searches = searches
        self.uvicorn_kwargs |= {"http": HurriedProtocol, "ws": "none", "server_header": False}

    @property
    def app(self) -> FastAPI:
        """The web application; Jina asks for it once."""
        backend = Backend(self.streamer)
        app = FastAPI(
            title="Cross-modal search",
            version=VERSION,
            docs_url=DOCS,
            redoc_url=None,
            swagger_ui_oauth2_redirect_url=None,
        )
        prepare(app)

        @app.get("/health", responses=refusals(503))
        async def health() -> Dict[str, str]:
            """Whether every part of the Flow answers, and which do not."""
            if parts := await silent():
                raise RequestError(503, f"no answer from {', '.join(parts)}: what has died is started again")
            return {"status": "ok"}

        @app.get("/status", responses=refusals(503))
        async def status() -> IndexStatus:
            """How much is indexed, with which model, in how many shards."""
            return IndexStatus(**answers.summary(await backend.reports()))

        @app.get("/samples", responses=refusals(503))
        async def samples(request: Request) -> Samples:
            """A few pictures and captions of the index to begin with, others each time."""
            return Samples(**answers.samples(*await backend.samples(), _server(request)))

        @app.get("/images/{picture}", response_class=Response, responses={**A_FILE, **refusals(404, 422, 503)})
        async def image(picture: str) -> Response:
            """A stored picture by its id. It is named by its content, so that it may be cached for ever."""
            return _file(picture, await backend.pictures("/picture", {picture}))

        @app.get("/thumbnails/{picture}", response_class=Response, responses={**A_FILE, **refusals(404, 422, 500, 503)})
        async def thumbnail(picture: str) -> Response:
            """A small version of a stored picture, a JPEG of at most 320 pixels; it too may be cached for ever."""
            return _file(picture, await backend.pictures("/thumbnail", {picture}))

        @app.get("/images/{picture}/captions", responses=refusals(422, 503))
        async def captions(picture: str) -> Captions:
            """The captions that were indexed for a picture; none for one that is not here."""
            return Captions(captions=await backend.captions(picture))

        @app.post("/index", response_model=Answer, responses=refusals(409, 413, 422, 429, 500, 503))
        async def index(body: IndexRequest) -> JSONResponse:
            """Add texts and pictures. What is there already is recognised and not encoded again."""
            return await _index(backend, body)

        @app.post("/search", response_model=Answer, responses=refusals(404, 409, 413, 422, 429, 500, 503))
        async def search(body: SearchRequest, request: Request) -> JSONResponse:
            """Find pictures for texts and texts for pictures, each for its own kind, or for several parts together."""
            request.state.html = body.mode is not None
            if not self.searches:
                raise RequestError(404, "this Flow only indexes: start the other with `python app.py -t query`")
            return await _search(backend, body, request)

        return app


async def _index(backend: Backend, body: IndexRequest) -> JSONResponse:
    """Index what is not there yet, and say of each item what became of it."""
    items = [protocol.index_documents(item) for item in body.data]
    errors = await backend.index(list({doc.id: doc for item in items for doc in item if not doc.error}.values()))
    docs = []
    for item in items:
        error = next((error for doc in item if (error := doc.error or errors.get(doc.id, ""))), "")
        docs.append({"id": item[0].id, "error": error} if error else {"id": item[0].id})
    wrong = [f"item {number}: {doc['error']}" for number, doc in enumerate(docs, 1) if "error" in doc]
    status, answer = answers.answer(docs, wrong)
    return JSONResponse(answer, status)


async def _search(backend: Backend, body: SearchRequest, request: Request) -> JSONResponse:
    """Answer queries in the shapes that Jina Box 0.1.49 and 0.1.50 read."""
    asked = body.parameters.top_k or body.top_k or DEFAULT_TOP_K
    top_k = min(asked, MAX_TOP_K, MAX_MATCHES // len(body.data))
    parameters = {"top_k": top_k, "data_uri": body.parameters.data_uri}
    html, host = body.mode is not None, request.url.netloc
    queries = [protocol.clicked(query) for query in body.data] if html else body.data
    parts = [
        doc
        for number, query in enumerate(queries)
        for doc in protocol.query_documents(str(number), query, target=body.parameters.target, host=host)
    ]
    await _fetch(backend, parts, host)
    found = await backend.search(parts, parameters)
    docs = [found[str(number)] for number in range(len(queries))]
    errors = [f"query {number}: {doc.error}" for number, doc in enumerate(docs, 1) if doc.error]
    if len(errors) < len(docs) and not any(doc.matches for doc in docs):
        raise RequestError(404, await _why_nothing(backend, docs))
    notes = [f"top_k was cut from {asked} to {top_k}"] if asked > top_k else []
    answered = [answers.answered(query, doc, _server(request)) for query, doc in zip(queries, docs, strict=True)]
    status, answer = answers.answer(answered, errors, notes, html=html)
    return JSONResponse(answer, status)


async def _fetch(backend: Backend, docs: List[Document], host: str) -> None:
    """Put the pictures of this server that queries name by their addresses in the place of these."""
    ids = {doc.id: id_ for doc in docs if (id_ := protocol.stored_picture(doc.uri, host))}
    stored = await backend.pictures("/picture", set(ids.values()))
    if ids and not stored and len(ids) == len(docs):
        raise RequestError(404, protocol.no_picture(ids[docs[0].id]))
    for doc in docs:
        if doc.id in ids:
            picture: Optional[Document] = stored.get(ids[doc.id])
            doc.error = _why_not(ids[doc.id], picture)
            doc.uri = protocol.data_uri(picture.mime_type, picture.data.tobytes()) if picture and not doc.error else ""


async def _why_nothing(backend: Backend, docs: List[Document]) -> str:
    counts = answers.summary(await backend.reports())
    if not counts["pictures"] and not counts["captions"]:
        return HOW_TO_INDEX
    if not counts["captions"] and any(doc.target == TEXT for doc in docs):
        return "no captions are indexed that a picture could find: ask for similar pictures (target: image)"
    return "nothing was found"


def _server(request: Request) -> str:
    """This server's address as the request knows it, without a slash at the end."""
    return str(request.base_url).rstrip("/")


def _why_not(id_: str, picture: Optional[Document]) -> str:
    if picture is None:
        return protocol.no_picture(id_)
    return f"the picture {id_} cannot be shown: {picture.error}" if picture.error else ""


def _file(id_: str, found: Dict[str, Document]) -> Response:
    if error := _why_not(id_, found.get(id_)):
        raise RequestError(500 if id_ in found else 404, error)
    return Response(found[id_].data.tobytes(), media_type=found[id_].mime_type, headers=FOR_EVER)
