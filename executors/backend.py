"""The Flow as the HTTP gateway sees it: what can be asked of it, in documents."""

import random
from typing import Any, AsyncIterator, Dict, List, NamedTuple, Optional, Set

from docarray import DocList
from jina.proto.jina_pb2 import StatusProto
from jina.serve.runtimes.gateway.graph.topology_graph import TopologyGraph
from jina.serve.runtimes.gateway.streamer import GatewayStreamer
from jina.types.request.data import DataRequest

from executors import protocol
from executors.batches import Batches
from executors.document import IMAGE, INDEXERS, TEXT, Document, Match, is_held
from executors.web import RequestError
from models.errors import one_line

SAMPLE_PICTURES, SAMPLE_CAPTIONS = 8, 6


class Samples(NamedTuple):
    """Documents of the index that nobody has asked for."""

    pictures: List[Match]
    captions: List[Match]


class Backend:
    """Sends documents through the Flow. Every method raises ``RequestError`` where the Flow fails.

    Args:
        streamer: Jina's own way into the Flow.
    """

    def __init__(self, streamer: GatewayStreamer) -> None:
        self.streamer = streamer
        _share_schemas(streamer.topology_graph)
        self._searches = Batches(self._search)

    async def post(
        self, endpoint: str, docs: List[Document], parameters: Optional[Dict[str, Any]] = None, executor: str = ""
    ) -> DocList[Document]:
        """Send documents through the Flow as one request.

        Raises:
            RequestError: an executor failed (409 if the stored index does not fit the model), or is not there (503).
        """
        request = DataRequest()
        request.document_array_cls = DocList[Document]
        request.data.docs = DocList[Document](docs)
        request.parameters = parameters or {}
        request.header.exec_endpoint, request.header.target_executor = endpoint, executor
        try:
            answer = await anext(self.streamer.rpc_stream(_one(request), return_type=DocList[Document]))
        except Exception as lost:  # Jina has an exception of its own for each way to lose a connection
            raise RequestError(503, f"a part of the Flow does not answer: {one_line(lost)}") from lost
        if answer.status.code == StatusProto.ERROR:
            raise _translated(answer.status.exception)
        return answer.data.docs

    async def reports(self) -> List[Match]:
        """The reports of all indexers' shards."""
        return [report for doc in await self.post("/status", _of_both_kinds()) for report in doc.matches]

    async def pictures(self, endpoint: str, ids: Set[str]) -> Dict[str, Document]:
        """Those of some pictures that are stored, by their ids.

        Args:
            endpoint: what of them to put into ``data``, ``"/picture"`` or ``"/thumbnail"``.
        """
        ask = [Document(id=id_, modality=IMAGE, target=IMAGE) for id_ in ids]
        docs = await self.post(endpoint, ask, executor="image_kv_indexer|join_all") if ask else []
        # the branches that were not asked hand back the question
        return {doc.id: doc for doc in docs if doc.data is not None or doc.error}

    async def samples(self) -> Samples:
        """A few pictures and captions chosen at random among those that each shard has chosen."""
        docs = await self.post("/sample", _of_both_kinds(), {"number": max(SAMPLE_PICTURES, SAMPLE_CAPTIONS)})
        found = {doc.id: random.sample(list(doc.matches), len(doc.matches)) for doc in docs}
        return Samples(found[IMAGE][:SAMPLE_PICTURES], found[TEXT][:SAMPLE_CAPTIONS])

    async def captions(self, picture: str) -> List[str]:
        """The captions of one picture from all shards, in alphabetical order."""
        ask = Document(id=picture, modality=TEXT, target=TEXT, text=picture)
        docs = await self.post("/captions", [ask], executor="text_indexer|join_all")
        return sorted({match.text for doc in docs for match in doc.matches})

    async def index(self, docs: List[Document]) -> Dict[str, str]:
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

    async def search(self, docs: List[Document], parameters: Dict[str, Any]) -> Dict[str, Document]:
        """Answer queries; returns them by their ids, one for all parts of a query."""
        return await self._searches.ask(docs, parameters, kind=_kind(docs))

    async def _search(self, docs: List[Document], parameters: Dict[str, Any]) -> Dict[str, Document]:
        return {doc.id: doc for doc in await self.post("/search", docs, parameters, executor=_boxes(docs))}


async def _one(request: DataRequest) -> AsyncIterator[DataRequest]:
    """An asynchronous iterator: Jina would ask any other in a thread."""
    yield request


class _Shared(Dict[str, Any]):
    """A dictionary of which there is one, however often somebody copies what it belongs to."""

    def __deepcopy__(self, memo: Dict[int, Any]) -> "_Shared":
        return self


def _share_schemas(graph: TopologyGraph) -> None:
    """Give all boxes the one class that they share.

    Jina's gateway makes classes of its own from the executors' schemas, which differ where an executor was late at the
    start, so that documents of two boxes could not be joined; and it copies all schemas for every request (5 ms).
    """
    for node in graph.all_nodes:
        models = node._pydantic_models_by_endpoint or {}  # the end of the graph has none
        node._pydantic_models_by_endpoint = _Shared(
            {endpoint: {**model, "input": Document, "output": Document} for endpoint, model in models.items()}
        )
        node._endpoints_proto = _Shared()


def _kind(docs: List[Document]) -> str:
    """The branches of the Flow that queries take: a text is not to wait for the pictures of others."""
    return " ".join(sorted({f"{doc.modality}-{doc.target}" for doc in docs}))


def _boxes(docs: List[Document]) -> str:
    """The boxes of the query Flow that have work, as a pattern of their names: a message that says nothing costs too.

    All of them for pictures: a branch that is not asked hands on the question, which they make heavy.
    """
    if any(doc.modality == IMAGE for doc in docs):
        return ""
    return "|".join(["text_encoder", *sorted(set().union(*(INDEXERS[doc.target] for doc in docs))), "join_all"])


def _of_both_kinds() -> List[Document]:
    return [Document(id=kind, modality=kind, target=kind) for kind in (IMAGE, TEXT)]


def _translated(error: StatusProto.ExceptionProto) -> RequestError:
    text = " ".join(str(part) for part in error.args) or error.name
    return RequestError(409 if error.name == "StorageError" else 500, text)
