"""``python -m bench.empty``: the empty Flow behind Jina's own HTTP gateway, and a client of it."""

from __future__ import annotations

import os
from pathlib import Path

from jina import Flow

from bench import application
from bench.worker import Worker
from flow import free_port


def main() -> None:
    """Start the Flow, and answer."""
    worker = Worker()
    os.environ["EMPTY_PORT"] = str(port := free_port())

    def texts(texts: list[str]) -> list[float]:
        """The seconds that each text takes by itself."""
        return application.ask(port, ({"text": text} for text in texts))

    with Flow.load_config(str(Path(__file__).with_name("flow.yml"))):
        worker.serve({"texts": texts})


if __name__ == "__main__":
    main()
