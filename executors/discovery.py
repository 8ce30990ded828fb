"""What both gateways have in common: they begin when all executors listen."""

import asyncio
import json
from contextlib import contextmanager
from functools import cache
from typing import Any, Dict, Iterator, Type
from urllib.parse import urlsplit

from docarray import BaseDoc
from jina.serve.runtimes.servers import BaseServer

STEP = 0.01
"""Seconds between two attempts to reach an executor."""


class AwaitsExecutors(BaseServer):
    """A gateway that asks the executors for their endpoints when the last of them can be reached.

    Jina's own asks all of them at once, from the first moment on, and if one does not answer yet, all of them again a
    second later: each answer costs an executor a tenth of a second, and on average half a second is lost at the end.
    """

    async def setup_server(self) -> None:
        """Wait, and go on as Jina does; a Flow that is stopped meanwhile is not waited for."""
        for addresses in json.loads(self.runtime_args.deployments_addresses).values():
            for address in addresses:
                while not self.is_cancel.is_set() and not await _listens(address):
                    await asyncio.sleep(STEP)
        with _schemas_once():
            await super().setup_server()


async def _listens(address: str) -> bool:
    where = urlsplit(address if "//" in address else f"//{address}")
    try:
        _, writer = await asyncio.open_connection(where.hostname, where.port)
    except OSError:
        return False
    writer.close()
    return True


@contextmanager
def _schemas_once() -> Iterator[None]:
    """Meanwhile a schema is made once for each class, not for each comparison of two neighbours at each endpoint."""
    BaseDoc.schema = classmethod(_schema)  # type: ignore[arg-type,assignment,method-assign]
    try:
        yield
    finally:
        del BaseDoc.schema  # the one that it inherits is back


@cache
def _schema(document: Type[BaseDoc]) -> Dict[str, Any]:
    return document.model_json_schema()
