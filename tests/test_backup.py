"""``app.py -t backup`` and ``-t restore``: all of the index or nothing, while it is used, whatever the file holds."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flow import INDEXERS
from storage.backup import backup, finish_restore, restore
from storage.store import DATABASE, Record, Source, StorageError, Store
from tests.conftest import (
    COLOURS,
    Indexed,
    as_data_uri,
    held,
    kill,
    paint_random,
    process,
    run,
    server,
    unit,
    wait_until,
)

VECTORS, PICTURES, TEXTS = INDEXERS
Members = list[tuple[tarfile.TarInfo, bytes]]


def content(workspace: Path) -> dict[str, list[Any]]:
    """All that is stored."""
    tables = ("documents", "sources", "sizes", "facts")
    return {f"{name} {table}": held(workspace, name, "*", table) for name in INDEXERS for table in tables}


@pytest.fixture(scope="module")
def file(indexed: Indexed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of the index of ``COLOURS``."""
    file = tmp_path_factory.mktemp("backup") / "index.tar"
    done = run("app.py", "-t", "backup", file, workspace=indexed.workspace)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{file}: ")
    assert [path.name for path in file.parent.iterdir()] == ["index.tar"], "temporary files are left"
    return file


def test_there_and_back(indexed: Indexed, file: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "new" / "workspace"
    done = run("app.py", "-t", "restore", file, workspace=workspace)
    assert (done.code, done.err) == (0, "")
    assert "in 1 shards, model vse stand-in" in done.out
    assert content(workspace) == content(indexed.workspace)
    assert not (workspace / ".restoring").exists()
    with server(workspace) as running:
        assert running.search("red", top_k=1)[0][0]["text"] == "red square"
    done = run("app.py", "-t", "verify", workspace=workspace)
    assert done.out.endswith("all is well\n")


def test_an_index_is_replaced_only_if_it_is_said(indexed: Indexed, file: Path, tmp_path: Path) -> None:
    """One of more shards, which was queried: nothing of it is left."""
    (tmp_path / "pictures").mkdir()
    paint_random(tmp_path / "pictures", 6)
    workspace = tmp_path / "workspace"
    command = ("app.py", "-t", "index", "-d", tmp_path / "pictures", "-m", "vse")
    assert run(*command, workspace=workspace, JINA_SHARDS=3).code == 0
    before = content(workspace)
    done = run("app.py", "-t", "restore", file, workspace=workspace)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "--overwrite" in done.err
    assert content(workspace) == before
    with server(workspace) as running:
        running.get(f"/thumbnails/{held(workspace, PICTURES)[0]}")
        done = run("app.py", "-t", "restore", file, "--overwrite", workspace=workspace)
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
        assert "in use" in done.err
    assert content(workspace) == before
    assert run("app.py", "-t", "restore", file, "--overwrite", workspace=workspace).code == 0
    assert content(workspace) == content(indexed.workspace)
    assert not list(workspace.glob("*/*/thumbnails"))
    with server(workspace) as running:
        assert running.get("/status").body["pictures"] == len(COLOURS)
        assert running.get("/status").body["shards"] == 1


def test_nothing_to_back_up(tmp_path: Path) -> None:
    done = run("app.py", "-t", "backup", tmp_path / "file.tar", workspace=tmp_path / "workspace")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "nothing is indexed" in done.err
    assert not (tmp_path / "file.tar").exists()


@pytest.mark.parametrize("task", ["backup", "restore"])
def test_one_file_is_needed(indexed: Indexed, task: str) -> None:
    done = run("app.py", "-t", task, workspace=indexed.workspace)
    assert (done.code, done.out, done.err) == (1, "", f"app.py: say one file: python app.py -t {task} FILE\n")


def test_a_place_that_cannot_be_written(indexed: Indexed, tmp_path: Path) -> None:
    done = run("app.py", "-t", "backup", tmp_path / "absent" / "file.tar", workspace=indexed.workspace)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "cannot write the backup" in done.err


# ------------------------------------------------------------------------------------------------- while it is used


def test_while_the_flow_takes_documents(indexed: Indexed, tmp_path: Path) -> None:
    """What was acknowledged before is in every backup, pictures are whole, and the Flow notices nothing."""
    workspace = shutil.copytree(indexed.workspace, tmp_path / "workspace")
    (tmp_path / "pictures").mkdir()
    paint_random(tmp_path / "pictures", 120)
    files = sorted((tmp_path / "pictures").glob("*.png"))
    acknowledged: list[str] = []
    with server(workspace) as running:

        def add() -> None:
            for path in files:
                item = {"text": f"#102030 {path.name}", "image": as_data_uri(path.read_bytes(), "image/png")}
                answer = running.post("/index", {"data": [item]})
                assert answer.status == 200
                acknowledged.append(answer.body["data"]["docs"][0]["id"])

        adding = threading.Thread(target=add)
        adding.start()
        backups: list[tuple[Path, set[str]]] = []
        while adding.is_alive():
            before = set(acknowledged)
            backups.append((tmp_path / f"{len(backups)}.tar", before))
            done = run("app.py", "-t", "backup", backups[-1][0], workspace=workspace)
            assert (done.code, done.err) == (0, "")
        adding.join()
        assert len(acknowledged) == len(files)
    assert any(0 < len(before) < len(files) for _, before in backups), "no backup was taken in the middle"
    for number, (file, before) in enumerate(backups):
        place = tmp_path / f"restored{number}"
        restore(place, INDEXERS, file, overwrite=False)
        assert before <= set(held(place, VECTORS)) == set(held(place, PICTURES))
        assert before <= {picture for _, picture, _ in held(place, TEXTS, "*", "sources")}


def test_what_comes_or_goes_between_two_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that is added or deleted then is not in the backup; a half that was there before is, for verify."""
    stores = {name: [Store(tmp_path / "workspace" / name / "0", shards=1)] for name in INDEXERS}
    vectors, pictures = stores[VECTORS][0], stores[PICTURES][0]

    def add(id_: str, *into: Store) -> None:
        for store in into:
            vector, data = (unit("red"), None) if store is vectors else (None, b"bytes")
            store.add([Record(id=id_, vector=vector, picture=data, source=Source(id_, ""))])

    for id_ in ("stays", "goes"):
        add(id_, vectors, pictures)
    add("half", pictures)
    copy = Store.copy

    def copied(store: Store, file: Path) -> None:
        copy(store, file)
        if store is vectors:
            add("comes", vectors, pictures)
            for one in (vectors, pictures):
                one.delete(["goes"])

    monkeypatch.setattr(Store, "copy", copied)
    backup(stores, VECTORS, PICTURES, tmp_path / "file.tar")
    for store in (vectors, pictures, *stores[TEXTS]):
        store.close()
    restore(tmp_path / "restored", INDEXERS, tmp_path / "file.tar", overwrite=False)
    assert held(tmp_path / "restored", VECTORS) == ["stays"]
    assert sorted(held(tmp_path / "restored", PICTURES)) == ["half", "stays"]


# ------------------------------------------------------------------------------------------------- kills


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A workspace with another index, in two shards."""
    for name in INDEXERS:
        for number in range(2):
            store = Store(tmp_path / "other" / name / str(number), shards=2)
            store.add([Record(id=f"old {number}", vector=unit("red"), source=Source("p", "/old"))])
            store.close()
    return tmp_path / "other"


class Killed(BaseException):
    """In the place of a kill: nothing that runs afterwards may matter."""


def test_a_restore_that_is_killed_leaves_one_or_the_other(
    indexed: Indexed, file: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each step that changes names; afterwards whoever uses the index finds the old one or the new one, whole."""
    old, new = content(other), content(indexed.workspace)
    rename, seen = Path.rename, []
    for step in range(100):
        place = shutil.copytree(other, tmp_path / f"place{step}")
        count = iter(range(100))

        def killed(path: Path, target: Path, count: Iterator[int] = count, step: int = step) -> Path:
            if next(count) == step:
                raise Killed
            return rename(path, target)

        with monkeypatch.context() as changed:
            changed.setattr(Path, "rename", killed)
            changed.setattr(shutil, "rmtree", lambda *_, **__: None)
            try:
                restore(place, INDEXERS, file, overwrite=True)
            except Killed:
                pass
            else:
                break
        finish_restore(place, INDEXERS)
        seen.append(content(place) == new)
        assert content(place) == (new if seen[-1] else old)
    assert seen == [False] + [True] * (len(INDEXERS) + 1)


def test_a_restore_that_is_really_killed(file: Path, other: Path, indexed: Indexed, tmp_path: Path) -> None:
    """Kill -9 as soon as it has begun: the next command finds the old index or the new one, and again it succeeds."""
    old, new = content(other), content(indexed.workspace)
    with process("app.py", "-t", "restore", file, "--overwrite", workspace=other) as running:
        wait_until(lambda: (other / ".restoring").exists() or running.poll() is not None, "it has begun")
        kill(running)
    done = run("app.py", "-t", "backup", tmp_path / "after.tar", workspace=other)
    assert done.code == 0, done.err
    assert content(other) in (old, new)
    done = run("app.py", "-t", "restore", file, "--overwrite", workspace=other)
    assert done.code == 0, done.err
    assert content(other) == new
    assert not (other / ".restoring").exists()


# ------------------------------------------------------------------------------------------------- hostile files


def members(file: Path) -> Members:
    with tarfile.open(file) as archive:
        return [(member, found.read()) for member in archive if (found := archive.extractfile(member))]


def written(file: Path, content: Members) -> Path:
    with tarfile.open(file, "w") as archive:
        for member, data in content:
            member.size = len(data) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(data))
    return file


def _renamed(content: Members, name: str) -> Members:
    content[1][0].name = name
    return content


def _with(content: Members, name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> Members:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return [*content, (member, b"#!/bin/sh")]


def _manifest(content: Members, **changes: Any) -> Members:
    manifest = json.loads(content[0][1]) | changes
    return [(content[0][0], json.dumps(manifest).encode()), *content[1:]]


def _flipped(content: Members) -> Members:
    member, data = content[2]
    content[2] = (member, data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    return content


def _statement(*statements: str) -> Callable[[Members], Members]:
    """Another database, with its own right checksum."""

    def change(content: Members) -> Members:
        member, data = content[1]
        connection = sqlite3.connect(":memory:")
        connection.deserialize(data)
        with connection:
            for statement in statements:
                connection.execute(statement)
        data = connection.serialize()
        content[1] = (member, data)
        files = json.loads(content[0][1])["files"]
        files[member.name] = {"bytes": len(data), "sha256": sha256(data).hexdigest()}
        return _manifest(content, files=files)

    return change


HOSTILE: dict[str, Callable[[Members], Members]] = {
    "a path that leads out": lambda content: _renamed(content, "../../evil"),
    "an absolute path": lambda content: _renamed(content, "/tmp/evil"),
    "a file too many": lambda content: _with(content, "image_kv_indexer/0/evil.sh"),
    "a file twice": lambda content: [*content, content[1]],
    "a symbolic link": lambda content: _with(content, f"{TEXTS}/0/{DATABASE}", tarfile.SYMTYPE, "/etc/passwd"),
    "a hard link": lambda content: _with(content[:-1], content[-1][0].name, tarfile.LNKTYPE, "/etc/passwd"),
    "a device": lambda content: _with(content[:-1], content[-1][0].name, tarfile.CHRTYPE),
    "a file too few": lambda content: content[:-1],
    "no manifest": lambda content: content[1:],
    "a manifest that is not JSON": lambda content: [(content[0][0], b"{"), *content[1:]],
    "a manifest that is a list": lambda content: [(content[0][0], b"[]"), *content[1:]],
    "a deep manifest": lambda content: [(content[0][0], b"[" * 100_000), *content[1:]],
    "a huge manifest": lambda content: [(content[0][0], b" " * 2**21), *content[1:]],
    "a later version": lambda content: _manifest(content, version=99),
    "another program's": lambda content: _manifest(content, format="x"),
    "no number of shards": lambda content: _manifest(content, shards="1"),
    "more shards than files": lambda content: _manifest(content, shards=2),
    "a billion shards": lambda content: _manifest(content, shards=10**9),
    "no files": lambda content: _manifest(content, files={}),
    "sizes that are none": lambda content: _manifest(content, files=dict.fromkeys(json.loads(content[0][1])["files"])),
    "another model": lambda content: _manifest(content, model="clip other"),
    "a flipped bit": _flipped,
    "a database of another index": _statement("UPDATE facts SET value = '7' WHERE name = 'shards'"),
    "a trigger": _statement("CREATE TRIGGER evil AFTER INSERT ON documents BEGIN DELETE FROM documents; END"),
    "a view": _statement("CREATE VIEW evil AS SELECT load_extension('evil')"),
    "a table less": _statement("DROP TABLE sizes"),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_file_changes_nothing(file: Path, other: Path, tmp_path: Path, attack: str) -> None:
    before, files = content(other), sorted(tmp_path.rglob("*"))
    evil = written(tmp_path / "evil.tar", HOSTILE[attack](members(file)))
    with pytest.raises(StorageError, match=r"evil\.tar is no backup, or a damaged one") as refusal:
        restore(other, INDEXERS, evil, overwrite=True)
    assert "\n" not in str(refusal.value)
    assert content(other) == before
    evil.unlink()
    assert {path.name for path in set(tmp_path.rglob("*")) - set(files)} <= {"lock"}


def test_what_was_changed_above_would_be_taken_as_it_was(file: Path, other: Path, tmp_path: Path) -> None:
    """The attacks are refused for what they are, and not because of how they are written."""
    restore(other, INDEXERS, written(tmp_path / "same.tar", members(file)), overwrite=True)
    assert "old 0" not in held(other, VECTORS)


def test_truncated_files(file: Path, other: Path, tmp_path: Path) -> None:
    data, before = file.read_bytes(), content(other)
    cut = tmp_path / "cut.tar"
    for length in [0, 1, 511, 512, 700, 1536, *np.linspace(2000, len(data) - 20_000, 12, dtype=int)]:
        cut.write_bytes(data[:length])
        with pytest.raises(StorageError, match=r"cut\.tar is no backup, or a damaged one"):
            restore(other, INDEXERS, cut, overwrite=True)
    assert content(other) == before


def test_a_file_that_is_absent(other: Path, tmp_path: Path) -> None:
    done = run("app.py", "-t", "restore", tmp_path / "absent.tar", "--overwrite", workspace=other)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "cannot restore" in done.err


def test_one_restore_is_as_another(file: Path, tmp_path: Path) -> None:
    """A backup of what was restored holds the same."""
    restore(tmp_path / "one", INDEXERS, file, overwrite=False)
    done = run("app.py", "-t", "backup", tmp_path / "again.tar", workspace=tmp_path / "one")
    assert done.code == 0, done.err
    restore(tmp_path / "two", INDEXERS, tmp_path / "again.tar", overwrite=False)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    with closing(sqlite3.connect(tmp_path / "two" / TEXTS / "0" / DATABASE)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
