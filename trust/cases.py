"""Hypothesis as a counter of cases: generated from a seed, the same again for the same seed."""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import hypothesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LONGEST = 60
"""Seconds after which a case hangs; the process is then ended with its traceback."""
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect")
"""What nothing that is read may lead to, by the names of Python's audit events."""
Value = TypeVar("Value")


class Escape(BaseException):
    """Input has made the program do what it must not; no ``except Exception`` hides it."""


def forbid() -> None:
    """From now on, end this process where it starts a program or connects."""

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FORBIDDEN:
            raise Escape(f"{event} {arguments!r}")

    sys.addaudithook(audit)


def tried(check: Callable[[Value], object], strategy: st.SearchStrategy[Value], *, seed: int, cases: int) -> int:
    """Try generated values; returns how many.

    Raises:
        Exception: what ``check`` has raised for the smallest value that was found, with the value in its notes.
    """
    count = 0

    @hypothesis.seed(seed)
    @settings(max_examples=cases, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def case(value: Value) -> None:
        nonlocal count
        count += 1
        faulthandler.dump_traceback_later(LONGEST, exit=True)
        try:
            check(value)
        finally:
            faulthandler.cancel_dump_traceback_later()

    case()
    return count


def mutations(originals: list[bytes], most: int = 8) -> st.SearchStrategy[bytes]:
    """Files with some bytes changed, cut out, repeated or put in, and ends cut off."""
    place = st.integers(0, 2**31)
    changes = st.lists(
        st.tuples(st.sampled_from(("set", "cut", "repeat", "insert", "end")), place, place, st.binary(max_size=8)),
        max_size=most,
    )
    return st.builds(_mutated, st.sampled_from(originals), changes)


def _mutated(data: bytes, changes: list[tuple[str, int, int, bytes]]) -> bytes:
    for kind, place, length, content in changes:
        start = place % (len(data) + 1)
        end = start + length % 64
        if kind == "set":
            data = data[:start] + content + data[start + len(content) :]
        elif kind == "cut":
            data = data[:start] + data[end:]
        elif kind == "repeat":
            data = data[:end] + data[start:]
        elif kind == "insert":
            data = data[:start] + content + data[start:]
        else:
            data = data[:start]
    return data
