"""The other end of ``Process.ask``: a program that answers requests, one a line, until its standard input ends."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

Arguments = ParamSpec("Arguments")


class Worker:
    """Takes the standard output for the answers; what libraries print from now on goes to standard error."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def serve(self, answers: dict[str, Callable[..., Any]]) -> None:
        """Answer requests ``{"do": NAME, **arguments}`` with what the function of that name returns, as JSON."""
        for line in sys.stdin:
            request = json.loads(line)
            print(json.dumps(answers[request.pop("do")](**request)), file=self._out, flush=True)


def timed(run: Callable[Arguments, object]) -> Callable[Arguments, float]:
    """The function with its result replaced by the seconds that it took."""

    @wraps(run)
    def seconds(*args: Arguments.args, **kwargs: Arguments.kwargs) -> float:
        start = time.perf_counter()
        run(*args, **kwargs)
        return time.perf_counter() - start

    return seconds
