"""A progress bar with rate and remaining time; plain lines where the output is no terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Counts steps of known or unknown number on standard error.

    Args:
        title: what is being counted, shown before the bar.
        total: the number of steps, or ``None`` when it is not known.
        unit: what one step is, in the plural.
    """

    def __init__(self, title: str, *, total: int | None, unit: str) -> None:
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(desc=title, total=total, unit=f" {unit}", disable=not self._terminal, dynamic_ncols=True)
        self._title, self._total, self._unit = title, total, unit
        self._count = 0
        self._start = self._last_line = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:  # all is done, however many steps were expected
            self._total = self._bar.total = self._count
            self._bar.refresh()
        self._bar.close()
        if not self._terminal:
            self._line()

    def advance(self, steps: int = 1) -> None:
        """Count ``steps`` more."""
        self._count += steps
        self._bar.update(steps)
        if not self._terminal and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._line()

    def note(self, message: str) -> None:
        """Print one line without breaking the bar."""
        tqdm.write(message, file=sys.stderr)

    def _line(self) -> None:
        self._last_line = time.monotonic()
        seconds = self._last_line - self._start
        meter = tqdm.format_meter(
            self._count, self._total or 0, seconds, prefix=self._title, unit=f" {self._unit}", ncols=0
        )
        print(meter.strip(), file=sys.stderr, flush=True)
