"""``python -m bench.naive``: the naive Flow and its client, which waits for each answer before it asks again."""

from __future__ import annotations

from pathlib import Path

from docarray import DocList
from jina import Flow

from bench.naive.document import NaiveDocument
from bench.worker import Worker, timed

REQUEST = 16  # documents, as the default of app.py


def main() -> None:
    """Start the Flow, and answer."""
    worker = Worker()
    with Flow.load_config(str(Path(__file__).with_name("flow.yml"))) as flow:

        @timed
        def index(docs: DocList[NaiveDocument]) -> None:
            for first in range(0, len(docs), REQUEST):
                flow.post("/index", docs[first : first + REQUEST], return_type=DocList[NaiveDocument])

        def pairs(paths: list[str], texts: list[str]) -> float:
            """The seconds that pairs of pictures and captions take."""
            docs = DocList[NaiveDocument]()
            for path, text in zip(paths, texts, strict=True):
                docs.append(NaiveDocument(id=path, modality="image", uri=path))
                docs.append(NaiveDocument(id=text, modality="text", text=text))
            return index(docs)

        worker.serve({"pairs": pairs})


if __name__ == "__main__":
    main()
