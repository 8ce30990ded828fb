"""Programs that are measured, in processes of their own, none of which outlives the measurement."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from flow import ROOT

PATIENCE = 600.0
"""Seconds after which whatever is waited for is given up."""
_SETTINGS = ("JINA_", "CLIP_", "VSE_")
_STEP = 0.01  # seconds between two looks


class BenchError(Exception):
    """Something cannot be measured; the message is one line."""


class Process:
    """A running program.

    Args:
        popen: the program.
        errors: where its standard error goes.
    """

    def __init__(self, popen: subprocess.Popen[str], errors: IO[str]) -> None:
        self.popen, self._errors = popen, errors

    def require_alive(self) -> None:
        """Raise ``BenchError`` with the last line that the program has said if it has ended."""
        if self.popen.poll() is not None:
            assert self.popen.stdout
            _kill(self.popen)  # what it has left behind would hold its output open
            self._errors.seek(0)
            said = ["it said nothing", *self.popen.stdout, *self._errors]
            raise BenchError(f"{' '.join(map(str, self.popen.args[1:4]))} ended: {said[-1].strip()}")  # type: ignore[index]

    def wait(self) -> None:
        """Wait for the end of a program that must succeed."""
        if self.popen.wait(PATIENCE):
            self.require_alive()

    def ask(self, **request: Any) -> Any:
        """Send one request to a program that serves with ``bench.worker``, and wait for the answer."""
        assert self.popen.stdin
        assert self.popen.stdout
        with suppress(BrokenPipeError):
            print(json.dumps(request), file=self.popen.stdin, flush=True)
        line = self.popen.stdout.readline()
        if not line:
            self.popen.wait(PATIENCE)
            self.require_alive()
            raise BenchError(f"{' '.join(map(str, self.popen.args[1:4]))} does not answer")  # type: ignore[index]
        return json.loads(line)


@contextmanager
def started(
    *command: object, python: str | Path = sys.executable, folder: Path = ROOT, **settings: Any
) -> Iterator[Process]:
    """A running Python program in a session of its own, the whole of which is killed at the end.

    Args:
        command: the arguments of Python.
        python: which one.
        folder: where it runs; it finds this project's modules wherever that is.
        settings: environment variables; the application's own are not inherited.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    with (
        TemporaryFile("w+") as errors,
        subprocess.Popen(
            [str(python), *map(str, command)],
            cwd=folder,
            env=clean | {"PYTHONPATH": str(ROOT)} | {name: str(value) for name, value in settings.items()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        ) as popen,
    ):
        try:
            yield Process(popen, errors)
        finally:
            _kill(popen)


def _kill(popen: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while (alive := members(popen.pid)) and time.monotonic() < deadline:
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_STEP)
    popen.wait(PATIENCE)


def members(session: int) -> list[int]:
    """The living processes of a session; a Flow's processes have groups of their own in it."""
    alive = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, found = stat.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):  # it ended meanwhile
            continue
        if int(found) == session and state not in "ZX":
            alive.append(int(stat.parent.name))
    return alive


def memory(pid: int, what: str = "VmHWM") -> float | None:
    """MB of memory that a process has in use (``VmRSS``) or had at most; ``None`` if it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{what}:"):
                return int(line.split()[1]) * 1024 / 1e6
    return None
