"""Kill -9 of single processes of a serving Flow: refused at once and in words, and served again by itself."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from bench.processes import members
from tests.conftest import (
    Indexed,
    Server,
    assert_refused,
    gateway,
    listening,
    paint_random,
    picture,
    run,
    server,
    wait_until,
)


def executors(running: Server) -> dict[str, int]:
    """The processes that a server is made of, by the names that it gives them when they do not answer."""
    found = {}
    for pid in members(running.process.pid):
        if listening(pid) and pid != gateway(running):  # Python has helpers of its own
            os.kill(pid, signal.SIGSTOP)
            description = running.get("/health").body["status"]["description"]
            os.kill(pid, signal.SIGCONT)
            found[description.removeprefix("no answer from ").partition(":")[0]] = pid
    return found


def assert_serves(running: Server) -> None:
    assert running.get("/health").body == {"status": "ok"}
    assert running.search("red", top_k=1)[0][0]["text"] == "red square"
    assert running.search(picture("lime"), top_k=1)[0][0]["text"] == "lime square"


def test_each_process_of_a_flow(indexed: Indexed, tmp_path: Path) -> None:
    workspace = shutil.copytree(indexed.workspace, tmp_path / "workspace")
    with server(workspace) as running:
        assert_serves(running)
        before = executors(running)
        assert {name.partition("/")[0] for name in before} == {
            *("loader", "normalizer", "image_encoder", "text_encoder"),
            *("text_indexer", "image_vector_indexer", "image_kv_indexer", "join_all"),
        }
        for name, pid in before.items():
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: running.get("/health").status == 503, f"{name} is missed")
            assert_refused(running.get("/health"), 503, name)
            query = "red" if name.startswith("text_encoder") else picture("lime")
            if name.startswith(("text_encoder", "image_encoder", "loader", "normalizer", "join_all")):
                assert_refused(running.post("/search", {"data": [query]}), 503, "does not answer")
            wait_until(lambda: running.get("/health").status == 200, f"{name} is back")
            assert_serves(running)
        assert running.post("/index", {"data": ["a text that is new"]}).status == 200
        assert set(before.values()).isdisjoint(members(running.process.pid))


def test_the_gateway(indexed: Indexed, tmp_path: Path) -> None:
    """Nobody is there to refuse, until it is back on the same port."""
    workspace = shutil.copytree(indexed.workspace, tmp_path / "workspace")
    with server(workspace) as running:
        os.kill(gateway(running), signal.SIGKILL)
        with pytest.raises(OSError, match=r"refused|reset"):
            running.get("/health")
        wait_until(lambda: is_there(running), "it is back")
        assert_serves(running)


def is_there(running: Server) -> bool:
    with suppress(OSError):
        return running.get("/").status == 200
    return False


def test_shards_and_their_head(tmp_path: Path) -> None:
    paint_random(tmp_path, 20)
    workspace = tmp_path / "workspace"
    done = run("app.py", "-t", "index", "-d", tmp_path, "-m", "vse", workspace=workspace, JINA_SHARDS=2)
    assert done.code == 0, done.err
    query = {"parameters": {"target": "text"}, "top_k": 1000}
    with server(workspace) as running:
        before = running.search("red", **query)
        parts = [(name, pid) for name, pid in executors(running).items() if name.startswith("text_indexer/")]
        assert len(parts) == 3
        for name, pid in parts:
            os.kill(pid, signal.SIGKILL)
            assert_refused(running.post("/search", {"data": ["red"], **query}), 503)
            wait_until(lambda: running.get("/health").status == 200, f"{name} is back")
            assert running.search("red", **query) == before


def test_what_was_started_again_ends_with_the_rest(indexed: Indexed, tmp_path: Path) -> None:
    workspace = shutil.copytree(indexed.workspace, tmp_path / "workspace")
    with server(workspace) as running:
        for name, pid in executors(running).items():
            if name.startswith(("text_encoder", "text_indexer")):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: running.get("/health").status == 503, "they are missed")
        wait_until(lambda: running.get("/health").status == 200, "they are back")
        os.kill(running.process.pid, signal.SIGKILL)
        wait_until(lambda: not members(running.process.pid), "all processes have ended")
    with server(workspace) as running:
        assert_serves(running)
        running.process.terminate()
        wait_until(lambda: not members(running.process.pid), "all processes have ended")
