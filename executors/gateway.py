"""Box ``gateway`` over HTTP: what a browser with Jina Box, a script or a person's own program talks to."""

import re
from pathlib import Path
from typing import Any, Awaitable, Callable, Dict, List, Optional

from docarray import DocList
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from jina.excepts import ExecutorError
from jina.serve.runtimes.gateway.http.fastapi import FastAPIBaseGateway
from starlette.exceptions import HTTPException

from executors import VERSION, protocol
from executors.document import IMAGE, TEXT, Document, Match, is_held
from executors.protocol import MAX_TOP_K, IndexRequest, SearchRequest
from executors.vector_indexer import DEFAULT_TOP_K
from models.errors import one_line

HOW_TO_INDEX = "nothing is indexed yet: run `python app.py -t index -d toy`, or `-d` with a folder of pictures"
WEB = Path(__file__).resolve().parent.parent / "web"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "object-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_PICTURE_ADDRESS = re.compile(r"(?:https?://(?P<host>[^/]+))?/images/(?P<id>[0-9a-f]{40})")


class RequestError(Exception):
    """A request cannot be answered.

    Args:
        status: the HTTP status code.
        message: one line for a person.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class HTTPGateway(FastAPIBaseGateway):
    """Translates between HTTP and the Flow's documents.

    Args:
        searches: whether the Flow behind it answers ``/search``, as the query Flow does; both take ``/index``.
    """

    def __init__(self, searches: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.searches = searches

    @property
    def app(self) -> FastAPI:
        """The web application; Jina asks for it once."""
        app = FastAPI(title="Cross-modal search", version=VERSION)
        for error in (RequestError, RequestValidationError, HTTPException, Exception):
            app.add_exception_handler(error, _refuse)
        app.middleware("http")(_add_headers)
        app.mount("/web", StaticFiles(directory=WEB), name="web")

        @app.get("/", include_in_schema=False)
        def page() -> FileResponse:
            return FileResponse(WEB / "index.html")

        @app.get("/health")
        async def health() -> Dict[str, str]:
            """Whether every indexer of the Flow answers."""
            await self.reports()
            return {"status": "ok"}

        @app.get("/status")
        async def status() -> Dict[str, Any]:
            """How much is indexed, with which model, in how many shards."""
            return protocol.summary(await self.reports())

        @app.get("/images/{picture}", response_class=Response)
        async def image(picture: str) -> Response:
            """A stored picture by its id. It is named by its content, so that it may be cached for ever."""
            doc = await self.picture(picture)
            headers = {"Cache-Control": "public, max-age=31536000, immutable"}
            return Response(doc.data.tobytes(), media_type=doc.mime_type, headers=headers)

        @app.post("/index")
        async def index(body: IndexRequest) -> JSONResponse:
            """Add texts and pictures. What is there already is recognised and not encoded again."""
            return await self.index(body)

        @app.post("/search")
        async def search(body: SearchRequest, request: Request) -> JSONResponse:
            """Find pictures for texts and texts for pictures, or each for its own kind."""
            return await self.search(body, request)

        return app

    async def post(
        self, endpoint: str, docs: List[Document], parameters: Optional[Dict[str, Any]] = None, executor: str = ""
    ) -> DocList[Document]:
        """Send documents through the Flow as one request.

        Raises:
            RequestError: an executor failed (409 if the stored index does not fit the model), or is not there (503).
        """
        answers = self.streamer.stream(
            DocList[Document](docs),
            exec_endpoint=endpoint,
            parameters=parameters,
            target_executor=executor or None,
            request_size=len(docs),
            return_type=DocList[Document],
        )
        try:
            answer, error = await anext(answers)
        except Exception as lost:  # Jina has an exception of its own for each way to lose a connection
            raise RequestError(503, f"a part of the Flow does not answer: {one_line(lost)}") from lost
        if error:
            raise _translated(error)
        return answer

    async def reports(self) -> List[Match]:
        """The reports of all indexers' shards."""
        ask = [Document(id=kind, modality=kind, target=kind) for kind in (IMAGE, TEXT)]
        return [report for doc in await self.post("/status", ask) for report in doc.matches]

    async def picture(self, id_: str) -> Document:
        """A stored picture with its ``data``."""
        ask = Document(id=id_, modality=IMAGE, target=IMAGE)
        docs = await self.post("/picture", [ask], executor="image_kv_indexer|join_all")
        for doc in docs:
            if doc.data is not None:  # the branches that were not asked hand back the question
                return doc
        raise RequestError(404, f"there is no picture {id_[:80]!r} here")

    async def index(self, body: IndexRequest) -> JSONResponse:
        """Index what is not there yet, and say of each item what became of it."""
        items = [protocol.index_documents(item) for item in body.data]
        errors = await self._index(list({doc.id: doc for item in items for doc in item if not doc.error}.values()))
        answers = []
        for item in items:
            error = next((error for doc in item if (error := doc.error or errors.get(doc.id, ""))), "")
            answers.append({"id": item[0].id, "error": error} if error else {"id": item[0].id})
        wrong = [f"item {number}: {item['error']}" for number, item in enumerate(answers, 1) if "error" in item]
        status, answer = protocol.answer(answers, wrong)
        return JSONResponse(answer, status)

    async def _index(self, docs: List[Document]) -> Dict[str, str]:
        """Index those of ``docs`` that are not held yet; returns why, by their ids, some could not be."""
        held = {doc.id for doc in await self.post("/update", docs) if is_held(doc)} if docs else set()
        new = [doc for doc in docs if doc.id not in held]
        answered = {doc.id: doc for doc in await self.post("/index", new)} if new else {}
        if any(doc.id not in answered for doc in new):
            raise RequestError(503, "a part of the Flow did not acknowledge: send the same request again")
        errors = {doc.id: doc.error for doc in answered.values() if doc.error}
        if errors:  # a branch that saw nothing wrong may have stored its part
            await self.post("/delete", protocol.removals(errors))
        return errors

    async def search(self, body: SearchRequest, request: Request) -> JSONResponse:
        """Answer queries in the shapes that Jina Box 0.1.49 and 0.1.50 read."""
        if not self.searches:
            raise RequestError(404, "this Flow only indexes: start the one that answers with `python app.py -t query`")
        asked = body.parameters.top_k or body.top_k or DEFAULT_TOP_K
        parameters = {"top_k": min(asked, MAX_TOP_K), "data_uri": body.parameters.data_uri}
        queries = [await self._query(number, query, body, request) for number, query in enumerate(body.data)]
        found = {doc.id: doc for doc in await self.post("/search", queries, parameters)}
        docs = [found[query.id] for query in queries]
        errors = [f"query {number}: {doc.error}" for number, doc in enumerate(docs, 1) if doc.error]
        if len(errors) < len(docs) and not any(doc.matches for doc in docs):
            raise RequestError(404, await self._why_nothing(docs))
        notes = [f"top_k was cut from {asked} to {MAX_TOP_K}"] if asked > MAX_TOP_K else []
        server = str(request.base_url).rstrip("/")
        answers = [protocol.answered(query, doc, server) for query, doc in zip(body.data, docs, strict=True)]
        status, answer = protocol.answer(answers, errors, notes)
        return JSONResponse(answer, status)

    async def _query(self, number: int, query: str, body: SearchRequest, request: Request) -> Document:
        uri = query if protocol.is_data_uri(query) else ""
        address = _PICTURE_ADDRESS.fullmatch(query)
        if address and address["host"] in (None, request.url.netloc):
            doc = await self.picture(address["id"])
            uri = protocol.data_uri(doc.mime_type, doc.data.tobytes())
        modality, target = (IMAGE, TEXT) if uri else (TEXT, IMAGE)
        return Document(
            id=str(number),
            modality=modality,
            target=body.parameters.target or target,
            uri=uri,
            text="" if uri else query,
        )

    async def _why_nothing(self, docs: List[Document]) -> str:
        counts = protocol.summary(await self.reports())
        if not counts["pictures"] and not counts["captions"]:
            return HOW_TO_INDEX
        if not counts["captions"] and any(doc.target == TEXT for doc in docs):
            return "no captions are indexed that a picture could find: ask for similar pictures (target: image)"
        return "nothing was found"


async def _add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    if not request.url.path.startswith("/docs"):  # FastAPI's own page of the API loads scripts from elsewhere
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
    return response


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    """Every error has an HTTP status and a body that also Jina Box understands."""
    if isinstance(error, RequestError):
        return JSONResponse(protocol.refusal(str(error)), error.status)
    if isinstance(error, HTTPException):
        return JSONResponse(protocol.refusal(str(error.detail)), error.status_code)
    if isinstance(error, RequestValidationError):
        wrong = [f"{'.'.join(str(part) for part in one['loc'][1:])}: {one['msg']}" for one in error.errors()]
        return JSONResponse(protocol.refusal("; ".join(wrong)), 422)
    return JSONResponse(protocol.refusal(f"an error of the server: {one_line(error)}"), 500)


def _translated(error: ExecutorError) -> RequestError:
    text = " ".join(str(part) for part in error.args) or error.name
    return RequestError(409 if error.name == "StorageError" else 500, text)
