"""Which parts of the Flow do not answer, as the gateway sees it."""

import asyncio
import json
import os
from typing import Dict, List

from jina.serve.runtimes.servers.grpc import GRPCServer

SECONDS = 2.0
"""After which a part does not answer."""


async def silent() -> List[str]:
    """The names of the processes that do not say that they serve."""
    ports: Dict[str, int] = json.loads(os.environ["JINA_PARTS"])
    ready = await asyncio.gather(
        *(GRPCServer.async_is_ready(f"127.0.0.1:{port}", timeout=SECONDS) for port in ports.values())
    )
    return [name for name, is_ready in zip(ports, ready, strict=True) if not is_ready]
