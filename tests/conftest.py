"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def flickr8k() -> Path:
    """The folder of the real Flickr8k data set beside the repository; the test is skipped without it."""
    folder = Path(__file__).resolve().parent.parent.parent / "shared" / "flickr8k"
    if not folder.is_dir():
        pytest.skip("no Flickr8k at ../shared/flickr8k")
    return folder
