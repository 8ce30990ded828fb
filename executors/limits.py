"""How much one request, and all of them together, may ask for. Each can be set in the environment."""

import os

DEFAULTS = {
    "JINA_MAX_BODY_MB": 64,
    "JINA_MAX_IN_FLIGHT_MB": 256,
    "JINA_MAX_REQUESTS": 256,
    "JINA_MAX_SECONDS": 120,
    "JINA_MAX_ITEMS": 256,
    "JINA_MAX_TEXT": 10_000,
    "JINA_MAX_TOP_K": 1000,
    "JINA_MAX_PICTURE_MB": 50,
    "JINA_MAX_MEGAPIXELS": 100,
}


def _limit(name: str) -> int:
    """A setting, or its default: what is no number has been refused before a Flow was started."""
    value = os.environ.get(name, "").strip()
    return int(value) if value.isdecimal() and int(value) else DEFAULTS[name]


MAX_BODY = _limit("JINA_MAX_BODY_MB") * 2**20
"""Bytes of a request."""
MAX_REQUESTS = _limit("JINA_MAX_REQUESTS")
"""Requests that are worked on at a time."""
MAX_SECONDS = _limit("JINA_MAX_SECONDS")
"""After which a request that is not answered yet is answered with an error."""
MAX_ITEMS = _limit("JINA_MAX_ITEMS")
"""Items to index in one request, or queries, and parts of all queries together."""
MAX_PARTS = 16
"""Parts of one query."""
MAX_TEXT = _limit("JINA_MAX_TEXT")
"""Characters of a text."""
MAX_TOP_K = _limit("JINA_MAX_TOP_K")
"""Matches of a query."""
MAX_MATCHES = max(20_000, MAX_TOP_K)
"""Matches of all queries in a request: a small question is not to have an answer that fills the memory."""
MAX_PICTURE = _limit("JINA_MAX_PICTURE_MB") * 2**20
"""Bytes of an encoded picture."""
MAX_IN_FLIGHT = max(_limit("JINA_MAX_IN_FLIGHT_MB") * 2**20, 2 * MAX_BODY, 2 * MAX_PICTURE)
"""Bytes of the bodies of all requests and answers that the gateway holds at a time; small ones do not count."""
MAX_PIXELS = _limit("JINA_MAX_MEGAPIXELS") * 10**6
"""Pixels of a picture: what says in its head that it has more is not decoded."""
