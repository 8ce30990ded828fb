"""A disk that is full, read-only or damaged, and several programs at once: a clear message or it just works."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from hashlib import sha1
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flow import INDEXERS, free_port
from tests.conftest import (
    COLOURS,
    PATIENCE,
    Indexed,
    assert_refused,
    held,
    paint,
    paint_random,
    process,
    run,
    server,
    stored_id,
)
from trust.crash import acknowledged

VECTORS, PICTURES, TEXTS = INDEXERS


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB in memory; the test is skipped where this process may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def assert_clean(workspace: Path) -> None:
    done = run("app.py", "-t", "verify", workspace=workspace)
    assert (done.code, done.out.splitlines()[-1]) == (0, "all is well"), done


# ------------------------------------------------------------------------------------------------- disks


def test_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    """It is said in one line, and what was acknowledged is there; with more room the same command does the rest."""
    folder, workspace, notes = tmp_path / "pictures", small_disk / "workspace", tmp_path / "notes"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(60):
        Image.fromarray(random.integers(0, 256, (200, 200, 3), np.uint8)).save(folder / f"{number:02}.png")
    command = ("-t", "index", "-d", folder, "-m", "vse", "-n", 60, "-s", 2)
    done = run("-m", "trust.launch", notes, *command, workspace=workspace)
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("app.py: ")
    assert "make room on the disk, and run the same command again" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    told = acknowledged(notes)
    remount(small_disk, "size=64m")
    assert told <= set(held(workspace, VECTORS)) & set(held(workspace, PICTURES))
    assert 0 < len(told) < 60
    done = run("app.py", *command, workspace=workspace)
    assert done.code == 0, done.err
    pictures = {sha1(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert set(held(workspace, VECTORS)) == set(held(workspace, PICTURES)) == pictures
    assert_clean(workspace)


def test_a_full_disk_that_serves(indexed: Indexed, small_disk: Path) -> None:
    """What cannot be stored is refused with the reason, queries go on, and when there is room so does the rest."""
    workspace = shutil.copytree(indexed.workspace, small_disk / "workspace")
    with server(workspace) as running:
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(bytes(8 * 2**20))
        answers = [running.post("/index", {"data": [f"red {number} {'x' * 5000}"]}) for number in range(40)]
        refused = [answer for answer in answers if answer.status != 200]
        assert refused
        assert_refused(refused[-1], 500, "make room on the disk")
        assert running.search("red", top_k=1)[0][0]["text"] == "red square"
        filler.unlink()
        assert running.post("/index", {"data": ["teal thing"]}).status == 200
        texts = running.search("teal", parameters={"target": "text", "top_k": 1})[0]
        assert texts[0]["text"] == "teal thing"
    told = sum(answer.status == 200 for answer in answers)
    assert len(held(workspace, TEXTS)) == len(COLOURS) + told + 1
    assert_clean(workspace)


@pytest.mark.parametrize(
    "command", [("query",), ("index", "-d", "toy"), ("index", "-d", "toy", "--overwrite"), ("verify",)]
)
def test_a_read_only_workspace(indexed: Indexed, small_disk: Path, command: tuple[str, ...]) -> None:
    workspace = shutil.copytree(indexed.workspace, small_disk / "workspace")
    remount(small_disk, "ro")
    done = run("app.py", "-t", *command, workspace=workspace, JINA_PORT=free_port())
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1), done
    assert done.err.startswith("app.py: cannot ")
    assert str(workspace) in done.err


def test_a_damaged_picture_is_not_shown(indexed: Indexed, tmp_path: Path) -> None:
    """Its bytes are checked before they leave; everything else is as it was."""
    workspace = shutil.copytree(indexed.workspace, tmp_path / "workspace")
    red = stored_id(indexed, "red")
    with closing(sqlite3.connect(workspace / PICTURES / "0" / "documents.sqlite")) as connection, connection:
        connection.execute("UPDATE documents SET picture = zeroblob(70) WHERE id = ?", (red,))
    with server(workspace) as running:
        assert_refused(running.get(f"/images/{red}"), 500, red, "-t verify")
        assert running.get(f"/images/{stored_id(indexed, 'blue')}").status == 200
        answer = running.post("/search", {"data": [f"/images/{red}"], "parameters": {"target": "image"}})
        assert "-t verify" in answer.body["status"]["description"]
        match = running.search("red", parameters={"data_uri": True, "top_k": 1})[0][0]
        assert match["uri"].endswith(f"/images/{red}")


def test_a_damaged_page_that_is_met_by_a_query(indexed: Indexed, tmp_path: Path) -> None:
    """A page that is not read at the start: the answer says so, with what to do, and is not a wrong one."""
    workspace = shutil.copytree(indexed.workspace, tmp_path / "workspace")
    database = workspace / TEXTS / "0" / "documents.sqlite"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'sources'").fetchone()[0]
    with database.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(bytes([0xFF]) * 4096)
    with server(workspace) as running:
        answer = running.post("/search", {"data": ["red"], "parameters": {"target": "text"}})
        assert_refused(answer, 500, str(database), "-t verify")
        assert running.search("red", top_k=1)[0][0]["text"] == "red square"
    done = run("app.py", "-t", "verify", workspace=workspace)
    assert "a database was damaged" in done.out
    assert set(held(workspace, TEXTS, "*", "sources")) == set(held(indexed.workspace, TEXTS, "*", "sources"))
    with server(workspace) as running:
        found = running.search(*COLOURS, parameters={"target": "text", "top_k": 1})
    assert [matches[0]["text"] for matches in found] == [f"{colour} square" for colour in COLOURS]


# ------------------------------------------------------------------------------------------------- several programs


def test_two_index_runs_at_once(tmp_path: Path) -> None:
    """Both end well, and together they have done what one would have done."""
    folder, workspace = tmp_path / "pictures", tmp_path / "workspace"
    folder.mkdir()
    paint_random(folder, 100)
    command = ("app.py", "-t", "index", "-d", folder, "-m", "vse", "-n", 100, "-s", 2)
    with ExitStack() as started:
        both = [started.enter_context(process(*command, workspace=workspace, JINA_SHARDS=2)) for _ in range(2)]
        for one in both:
            out, errors = one.communicate(timeout=PATIENCE)
            assert one.returncode == 0, errors
            numbers = [int(word) for word in out.split() if word.isdecimal()]
            assert sum(numbers[:2]) == 200
            assert numbers[2] == 0
    pictures = {sha1(path.read_bytes()).hexdigest() for path in folder.glob("*.png")}
    for indexer in INDEXERS:
        ids = held(workspace, indexer)
        assert len(ids) == len(set(ids)) == 100
    assert set(held(workspace, VECTORS)) == set(held(workspace, PICTURES)) == pictures
    assert_clean(workspace)


def test_an_index_run_while_the_query_flow_serves(indexed: Indexed, tmp_path: Path) -> None:
    """Queries are answered rightly at any time, and what was added is found when the run has ended."""
    workspace = shutil.copytree(indexed.workspace, tmp_path / "workspace")
    folder = paint(tmp_path / "new", {f"{colour}.png": colour for colour in ("teal", "navy", "olive")})
    command = ("app.py", "-t", "index", "-d", folder, "-m", "vse", "-s", 1)
    with server(workspace) as running:
        with process(*command, workspace=workspace) as indexing:
            while indexing.poll() is None:
                assert running.search("red", top_k=1)[0][0]["text"] == "red square"
            assert indexing.returncode == 0
        for colour in ("teal", "navy", "olive"):
            match = running.search(colour, top_k=1)[0][0]
            assert (match["text"], match["score"]["value"]) == (f"{colour} square", pytest.approx(0, abs=1e-6))
            assert running.get(f"/images/{match['id']}").content == (folder / f"{colour}.png").read_bytes()
        assert running.get("/status").body["pictures"] == len(COLOURS) + 3
    assert_clean(workspace)
