"""``python -m bench.others.clip_server_flow WEIGHTS``: clip-server's Flow with its own client, all defaults."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from bench.worker import Worker

FLOW = Path(__file__).with_name("clip_server.yml")


def main() -> None:
    """Start the Flow, and answer."""
    worker = Worker()
    os.environ["CLIP_SERVER_WEIGHTS"] = str(Path(sys.argv[1]) / "open_clip.safetensors")
    from clip_client import Client
    from jina import Flow

    with Flow.load_config(str(FLOW)) as flow:
        client = Client(f"grpc://127.0.0.1:{flow.port}")

        def pairs(paths: list[str], texts: list[str]) -> float:
            """The seconds that pairs of pictures and captions take."""
            start = time.perf_counter()
            client.encode([*paths, *texts])
            return time.perf_counter() - start

        def each(texts: list[str]) -> list[float]:
            """The seconds that each text takes by itself."""
            seconds = []
            for text in texts:
                start = time.perf_counter()
                client.encode([text])
                seconds.append(time.perf_counter() - start)
            return seconds

        worker.serve({"pairs": pairs, "each": each})


if __name__ == "__main__":
    main()
