"""Errors of libraries in one line for a person."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models import ModelError

LONGEST = 200


def one_line(error: Exception) -> str:
    """What an exception says, on one line of at most 200 characters; its name if it says nothing."""
    return (" ".join(str(error).split()) or type(error).__name__)[:LONGEST]


@contextmanager
def blamed(file: Path, what: str = "it cannot be used as weights of CLIP") -> Iterator[None]:
    """Whatever goes wrong inside becomes a `ModelError` of one line that names the file."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # open_clip, timm, transformers and torch each have their own
        raise ModelError(f"{file}: {what} ({type(error).__name__}: {one_line(error)})") from error
