"""Bad requests: ``python -m trust.requests PORT SEED CASES`` asks a server what its own description lets it be asked.

Schemathesis makes requests that fit the description and others that do not; besides there are bodies of JSON that no
description would have. Every answer has the form that is described, none is an error of the server.
"""

from __future__ import annotations

import json
import sys
from http.client import HTTPConnection
from typing import Any

import hypothesis
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

import flow as flows
from bench.processes import PATIENCE
from trust.cases import mutations, tried

PATHS = ("/search", "/index")
_PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVQI12NgAAAAAgAB4iG8MwAAAABJRU5ErkJggg=="
)
_TEXTS = [_PICTURE, "a cat", "/images/" + "0" * 40, "data:", "file:///etc/passwd", "http://127.0.0.1:1/x.png", "\ud800"]


def described(url: str, seed: int, cases: int) -> int:
    """Requests that fit the server's own OpenAPI document, and requests that just do not."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
    operations = [found.ok() for found in schema.get_all_operations()]  # type: ignore[union-attr]
    return sum(_asked(operation, seed, cases // len(operations)) for operation in operations)


def _asked(operation: Any, seed: int, cases: int) -> int:
    count = 0

    @hypothesis.seed(seed)
    @settings(max_examples=cases, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @hypothesis.given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        nonlocal count
        count += 1
        response = case.call(timeout=PATIENCE)
        assert response.status_code < 500, f"{case.method} {case.path}: {response.status_code} {response.text[:300]}"
        case.validate_response(response, checks=[schemathesis.checks.response_schema_conformance])

    ask()
    return count


def undescribed(port: int, seed: int, cases: int) -> int:
    """Bodies that are nearly right JSON, and trees of anything."""
    text = st.text(max_size=20) | st.sampled_from(_TEXTS)
    number = st.integers(-(10**400), 10**400) | st.floats() | st.sampled_from([10, 1e308, -0.0])
    keys = st.sampled_from(
        ["data", "image", "text", "weight", "parameters", "top_k", "target", "data_uri", "mode", "uri"]
    )
    tree = st.recursive(
        st.none() | st.booleans() | number | text,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=12,
    )
    right = {"data": ["a cat", {"text": "a dog", "weight": 0.5}, [{"image": _PICTURE}]], "parameters": {"top_k": 3}}
    bodies = (
        mutations([json.dumps(right).encode()]) | tree.map(_spelled) | tree.map(lambda data: _spelled({"data": [data]}))
    )
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def ask(case: tuple[str, bytes]) -> None:
        path, body = case
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        assert response.status < 500, f"{path}: {response.status} {content[:300]!r}"
        answer = json.loads(content, parse_constant=_no_constant)
        assert isinstance(answer["data"]["docs"], list)
        assert "\n" not in answer["status"]["description"]

    return tried(ask, st.tuples(st.sampled_from(PATHS), bodies), seed=seed, cases=cases)


def _spelled(tree: object) -> bytes:
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def main() -> int:
    """Ask; returns the exit code."""
    port, seed, cases = map(int, sys.argv[1:])
    flows.quiet()
    fitting = described(f"http://127.0.0.1:{port}", seed, cases // 2)
    print(fitting + undescribed(port, seed, cases - cases // 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
