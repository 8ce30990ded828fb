"""``python -m bench.others.clip_server_flow WEIGHTS``: clip-server's Flow with its own client, all defaults."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bench.worker import Worker, timed

FLOW = Path(__file__).with_name("clip_server.yml")


def main() -> None:
    """Start the Flow, and answer."""
    worker = Worker()
    os.environ["CLIP_SERVER_WEIGHTS"] = str(Path(sys.argv[1]) / "open_clip.safetensors")
    from clip_client import Client
    from jina import Flow

    with Flow.load_config(str(FLOW)) as flow:
        client = Client(f"grpc://127.0.0.1:{flow.port}")

        encode = timed(client.encode)
        worker.serve(
            {
                "pairs": lambda paths, texts: encode([*paths, *texts]),
                "each": lambda texts: [encode([text]) for text in texts],
            }
        )


if __name__ == "__main__":
    main()
