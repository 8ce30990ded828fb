"""Kill -9 of everything while it indexes: nothing acknowledged is lost, and the same command completes the rest."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from hashlib import sha1
from pathlib import Path

import pytest

from bench.processes import members
from flow import INDEXERS, free_port
from tests.conftest import PATIENCE, held, kill, paint_random, process, run, server, wait_until
from trust import crash
from trust.crash import acknowledged

PICTURES, SHARDS = 240, 2

MOMENTS: dict[str, Callable[[Path, set[str]], object]] = {
    "the first shards are made": lambda workspace, _: list(workspace.glob("*/*/documents.sqlite")),
    "the first pictures lie on disk": lambda workspace, _: held(workspace, "image_kv_indexer"),
    "a quarter of the vectors lies on disk": lambda workspace, _: (
        len(held(workspace, "image_vector_indexer")) > PICTURES / 4
    ),
    "half of all is acknowledged": lambda _, acknowledged: len(acknowledged) > PICTURES,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_of_everything(tmp_path: Path, moment: str) -> None:
    folder, workspace = tmp_path / "pictures", tmp_path / "workspace"
    folder.mkdir()
    paint_random(folder, PICTURES)
    arguments = ("-t", "index", "-d", folder, "-m", "vse", "-n", PICTURES, "-s", "2")
    told = _killed(arguments, workspace, moment)
    for database in workspace.glob("*/*/documents.sqlite"):  # what is committed but not yet in its shared memory
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA wal_checkpoint")
    before = {indexer: set(held(workspace, indexer)) for indexer in INDEXERS}
    assert sum(map(len, before.values())) < 3 * PICTURES, "it was finished before it was killed"
    pictures = {sha1(path.read_bytes()).hexdigest() for path in folder.glob("*.png")}
    assert told & pictures <= before["image_vector_indexer"] & before["image_kv_indexer"]
    assert told - pictures <= before["text_indexer"]

    done = run("app.py", *arguments, workspace=workspace, JINA_SHARDS=SHARDS)
    assert done.code == 0, done.err
    complete = (before["image_vector_indexer"] & before["image_kv_indexer"]) | before["text_indexer"]
    assert f"{2 * PICTURES - len(complete)} documents indexed, {len(complete)} were there already" in done.out
    for indexer in INDEXERS:
        ids = held(workspace, indexer)
        assert len(ids) == len(set(ids)) == PICTURES
        assert before[indexer] <= set(ids)
    assert set(held(workspace, "image_vector_indexer")) == set(held(workspace, "image_kv_indexer")) == pictures
    assert {sha1(data).hexdigest() for data in held(workspace, "image_kv_indexer", "picture")} == pictures
    with server(workspace) as running:
        found = running.search("red", top_k=1000)[0]
        texts = running.search("red", parameters={"target": "text", "top_k": 1000})[0]
    assert {match["id"] for match in found} == pictures
    assert {match["id"] for match in texts} == set(held(workspace, "text_indexer"))


def _killed(arguments: tuple[object, ...], workspace: Path, moment: str) -> set[str]:
    """Start to index, kill everything at a moment, and give the ids that had been acknowledged."""
    notes = workspace.with_name("notes")

    def arrived() -> object:
        assert running.poll() is None, "it ended before it could be killed"
        return MOMENTS[moment](workspace, acknowledged(notes))

    with process("-m", "trust.launch", notes, *arguments, workspace=workspace, JINA_SHARDS=SHARDS) as running:
        wait_until(arrived, moment)
        kill(running)
    return acknowledged(notes)


def test_kills_of_single_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The short form of `python -m trust crash`: a few kills, and SIGTERM and Ctrl-C while it indexes and serves."""
    monkeypatch.setattr(crash, "LIMIT", PATIENCE)  # a busy machine is none of ours
    rows = crash.measure(seed=1, quick=True)
    assert [row.lost_or_wrong for row in rows if not row.ok] == []
    assert rows[0].tried.startswith(f"{crash.QUICK_KILLS} kills (")
    assert len(rows) == 5


@pytest.mark.parametrize("victim", [1, -1])
def test_a_process_that_is_killed_while_the_flow_starts(tmp_path: Path, victim: int) -> None:
    """The program ends with one line at once, where Jina would wait ten minutes for the process, and leaves nothing."""
    command = ("app.py", "-t", "query", "-m", "vse")
    with process(*command, workspace=tmp_path / "workspace", JINA_PORT=free_port()) as running:
        wait_until(lambda: len(members(running.pid)) >= 6, "some processes are there")
        os.kill(sorted(set(members(running.pid)) - {running.pid})[victim], signal.SIGKILL)
        _, errors = running.communicate(timeout=PATIENCE)
        assert running.returncode == 1
        assert errors.splitlines()[-1].startswith("app.py: the Flow did not start")
        wait_until(lambda: not members(running.pid), "no process is left")


# ------------------------------------------------------------------------------------------------- what it would see


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[crash.Data, Path]:
    """A small data set, and its index."""
    place = tmp_path_factory.mktemp("whole")
    data = crash.Data.paint(place / "pictures", seed=3, number=12)
    done = run("app.py", *data.command, workspace=place / "workspace", JINA_SHARDS=SHARDS)
    assert done.code == 0, done.err
    return data, place / "workspace"


SPOILT = {
    "has lost": "DELETE FROM documents",
    "from /else": "UPDATE sources SET path = '/elsewhere'",
    "which nobody indexed": "UPDATE documents SET id = 'x' || id",
    "is not what": "UPDATE documents SET text = 'x', picture = x'00'",
}


@pytest.mark.parametrize("indexer", INDEXERS)
@pytest.mark.parametrize("fault", SPOILT)
def test_a_loss_would_be_seen(whole: tuple[crash.Data, Path], tmp_path: Path, indexer: str, fault: str) -> None:
    data, workspace = whole
    told = {*data.pictures, *data.texts}
    workspace = shutil.copytree(workspace, tmp_path / "workspace")
    assert list(crash.lost(data, workspace, told)) == []
    with closing(sqlite3.connect(workspace / indexer / "1" / "documents.sqlite")) as connection, connection:
        connection.execute(SPOILT[fault])
    seen = " ".join(crash.lost(data, workspace, told))
    assert fault in seen or (fault, indexer) == ("is not what", "image_vector_indexer")


def test_a_wrong_vector_would_be_seen(whole: tuple[crash.Data, Path], tmp_path: Path) -> None:
    data, workspace = whole
    workspace = shutil.copytree(workspace, tmp_path / "workspace")
    with closing(sqlite3.connect(workspace / "text_indexer" / "1" / "documents.sqlite")) as connection, connection:
        ids = [row[0] for row in connection.execute("SELECT id FROM documents")]
        connection.execute("UPDATE documents SET vector = x'000000000000000000000000000080bf'")
    assert sorted(crash.not_found(data, workspace)) == sorted(f"{id_} is not found by itself" for id_ in ids)
