"""Killed at any moment, the program loses nothing that it has acknowledged."""

from __future__ import annotations

from pathlib import Path

import pytest

from flow import INDEXERS
from tests.support import paint, run, served, started, stored, until

PICTURES = 300


@pytest.mark.parametrize(
    ("indexer", "rows"), [("image_vector_indexer", 1), ("image_kv_indexer", 60), ("text_indexer", 150)]
)
def test_kill_9_and_again(tmp_path: Path, indexer: str, rows: int) -> None:
    pictures, workspace = tmp_path / "pictures", tmp_path / "workspace"
    paint(pictures, PICTURES)
    command = ["app.py", "-t", "index", "-n", "999", "-s", "4", "-d", str(pictures), "-m", "vse"]
    with started(*command, workspace=workspace, JINA_SHARDS="2") as process:
        until(lambda: len(stored(workspace, indexer)) >= rows)
        process.kill()  # and the kernel kills the Flow's processes after it
        process.wait()
    before = {name: set(stored(workspace, name)) for name in INDEXERS}
    assert rows <= len(before[indexer]) < PICTURES

    done = run(*command, workspace=workspace)
    assert done.returncode == 0, done.stdout + done.stderr
    after = {name: stored(workspace, name) for name in before}
    assert all(before[name] <= set(after[name]) for name in before)
    assert [len(after[name]) for name in after] == [PICTURES] * 3
    assert set(after["image_vector_indexer"]) == set(after["image_kv_indexer"])
    held = len(before["image_vector_indexer"] & before["image_kv_indexer"]) + len(before["text_indexer"])
    assert f"{2 * PICTURES - held} documents indexed, {held} were there already" in done.stdout
    with served(workspace) as server:
        found = [match["id"] for match in server.matches("red", top_k=1000)]
    assert sorted(found) == sorted(after["image_vector_indexer"])
