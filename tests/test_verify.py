"""``app.py -t verify`` finds what is wrong with an index, mends what can be mended, and says what is lost."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

import verify
from executors.document import picture_id, text_id
from executors.thumbnails import Thumbnails
from flow import INDEXERS, free_port
from storage.repair import DAMAGED, Shard
from storage.store import Store
from tests.conftest import (
    COLOURS,
    Indexed,
    Result,
    as_data_uri,
    held,
    paint_random,
    run,
    server,
    settings,
    stored_id,
    unit,
)

VECTORS, PICTURES, TEXTS = INDEXERS
CLEAN = f"{len(COLOURS)} pictures and {len(COLOURS)} captions in 1 shards, model vse stand-in\nall is well\n"


@pytest.fixture
def own(indexed: Indexed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the index for one test, which is the workspace of this process too."""
    for name, value in settings(tmp_path / "workspace").items():
        monkeypatch.setenv(name, value)
    return shutil.copytree(indexed.workspace, tmp_path / "workspace")


@contextmanager
def opened(workspace: Path, indexer: str, shard: int = 0) -> Iterator[sqlite3.Connection]:
    """A shard's database, to be spoilt."""
    with closing(sqlite3.connect(workspace / indexer / str(shard) / "documents.sqlite")) as connection, connection:
        yield connection


@pytest.fixture
def verified(capfd: pytest.CaptureFixture[str]) -> Callable[[], Result]:
    """Verifies in this process."""

    def verified() -> Result:
        code = verify.verify()
        return Result(code, *capfd.readouterr())

    return verified


def content(workspace: Path) -> dict[str, set[object]]:
    """All that is stored but for the numbers of the rows."""
    tables = {"documents": "id, mime_type, text, vector, picture", "sources": "*", "sizes": "*"}
    return {
        f"{indexer} {table}": set(held(workspace, indexer, columns, table))
        for indexer in INDEXERS
        for table, columns in tables.items()
    }


def test_a_whole_index_is_said_to_be(own: Path) -> None:
    before = content(own)
    done = run("app.py", "-t", "verify", workspace=own)
    assert (done.code, done.out) == (0, CLEAN), done.err
    assert content(own) == before


def test_what_is_in_use_is_left_alone(own: Path) -> None:
    store = Store(own / TEXTS / "0", shards=1)
    done = run("app.py", "-t", "verify", workspace=own)
    store.close()
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "in use" in done.err


def test_while_it_verifies_nobody_else_uses_the_index(own: Path) -> None:
    with Shard(own / TEXTS / "0"):
        done = run("app.py", "-t", "query", workspace=own)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)


def test_nothing_to_verify(tmp_path: Path) -> None:
    done = run("app.py", "-t", "verify", workspace=tmp_path / "none")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "nothing is indexed" in done.err


SPOILT = {
    "a vector is not finite": (
        VECTORS,
        "UPDATE documents SET vector = x'0000c07f000000000000000000000000' WHERE id = ?",
        "a vector was wrong, encoded again",
    ),
    "a vector is not of unit length": (
        VECTORS,
        "UPDATE documents SET vector = x'0000803f0000803f0000000000000000' WHERE id = ?",
        "a vector was wrong, encoded again",
    ),
    "a vector has another dimension": (
        VECTORS,
        "UPDATE documents SET vector = x'0000803f' WHERE id = ?",
        "a vector was wrong, encoded again",
    ),
    "a vector is absent": (VECTORS, "UPDATE documents SET vector = NULL WHERE id = ?", "a vector was wrong"),
    "a picture has no vector": (VECTORS, "DELETE FROM documents WHERE id = ?", "a picture had no vector"),
    "a picture is damaged": (
        PICTURES,
        "UPDATE documents SET picture = x'00' || substr(picture, 2) WHERE id = ?",
        "the stored bytes of a picture were damaged, read again from its file",
    ),
    "a type is wrong": (PICTURES, "UPDATE documents SET mime_type = 'x' WHERE id = ?", "the type of a picture was wro"),
    "a size is wrong": (PICTURES, "UPDATE sizes SET width = 999 WHERE id = ?", "the size of a picture was wrong"),
    "a size is absent": (PICTURES, "DELETE FROM sizes WHERE id = ?", "the size of a picture was wrong"),
    "a source is known to one": (VECTORS, "DELETE FROM sources WHERE id = ?", "one of two indexers did not know"),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_what_can_be_rebuilt_is_as_before(
    indexed: Indexed, own: Path, verified: Callable[[], Result], fault: str
) -> None:
    indexer, statement, said = SPOILT[fault]
    before = content(own)
    with opened(own, indexer) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        assert connection.execute(statement, (stored_id(indexed, "red"),)).rowcount == 1
    done = verified()
    assert done.code == 0, done.out
    assert f"repaired: {said}" in done.out
    assert str(indexed.folder / "red.png") in done.out
    assert "1 repaired, 0 lost, 0 left as it is" in done.out
    assert content(own) == before
    assert verified().out == CLEAN


def test_a_damaged_caption_is_taken_from_its_picture(own: Path, verified: Callable[[], Result]) -> None:
    before = content(own)
    with opened(own, TEXTS) as connection:
        connection.execute("UPDATE documents SET text = 'Red square' WHERE text = 'red square'")
    assert "repaired: a caption was damaged, taken from its picture" in verified().out
    assert content(own) == before


@pytest.mark.parametrize(("indexer", "name"), [(PICTURES, "red.png"), (TEXTS, "red.png")])
def test_a_damaged_id(own: Path, verified: Callable[[], Result], indexer: str, name: str) -> None:
    """It is the content that counts; what hung on the id is taken from the other indexer."""
    before = content(own)
    with opened(own, indexer) as connection:
        changed = connection.execute("UPDATE documents SET id = 'x' WHERE text = 'red square'")
        assert changed.rowcount == 1
    done = verified()
    assert done.code == 0, done.out
    assert "repaired: the id of a document was damaged" in done.out
    assert name in done.out
    assert content(own) == before


def test_orphans_are_swept(own: Path, verified: Callable[[], Result]) -> None:
    before = content(own)
    with opened(own, TEXTS) as connection:
        connection.execute("INSERT INTO sources VALUES ('nobody', 'p', '/path')")
    assert "repaired: sources of documents that are not there, removed" in verified().out
    assert content(own) == before


def test_what_nobody_has_any_more_is_named_as_lost(
    indexed: Indexed, own: Path, verified: Callable[[], Result], tmp_path: Path
) -> None:
    """A picture whose bytes are damaged and whose file is gone, and a caption that no picture is shown with."""
    gone = str(tmp_path / "gone.png")
    with opened(own, PICTURES) as connection:
        connection.execute("UPDATE documents SET picture = x'00' WHERE id = ?", (stored_id(indexed, "red"),))
        connection.execute("UPDATE documents SET text = '' WHERE text = 'blue square'")
    for indexer in (VECTORS, PICTURES):
        with opened(own, indexer) as connection:
            connection.execute("UPDATE sources SET path = ? WHERE id = ?", (gone, stored_id(indexed, "red")))
    with opened(own, TEXTS) as connection:
        connection.execute("UPDATE documents SET text = 'x' WHERE text = 'blue square'")
    done = verified()
    assert done.code == 1
    assert f"lost: the stored bytes of a picture were damaged, and its file is not where it was: {gone}" in done.out
    assert f"lost: a caption was damaged: {indexed.folder / 'blue.png'}" in done.out
    assert stored_id(indexed, "red") not in held(own, VECTORS) + held(own, PICTURES)
    assert verified().code == 0


def test_halves_of_what_was_never_acknowledged(indexed: Indexed, own: Path, verified: Callable[[], Result]) -> None:
    """A vector without its picture, and a file that is none, which the encoder had refused; both are gone after it."""
    before = content(own)
    vector = unit("red").astype("<f4").tobytes()
    with opened(own, VECTORS) as connection:
        connection.execute("INSERT INTO documents (id, mime_type, text, vector) VALUES ('half', '', '', ?)", (vector,))
    cut = (indexed.folder / "red.png").read_bytes()[:45]
    with opened(own, PICTURES) as connection:
        id_ = picture_id(cut)
        values = (id_, "image/png", "", cut)
        connection.execute("INSERT INTO documents (id, mime_type, text, picture) VALUES (?, ?, ?, ?)", values)
    done = verified()
    assert done.code == 0
    assert "repaired: a vector was stored without its picture and was never acknowledged, removed: half" in done.out
    assert f"repaired: was no picture and was never acknowledged, removed: {id_}" in done.out
    assert content(own) == before


def test_without_the_model_nothing_is_thrown_away(
    indexed: Indexed, own: Path, verified: Callable[[], Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(own)
    with opened(own, VECTORS) as connection:
        connection.execute("DELETE FROM documents WHERE id = ?", (stored_id(indexed, "red"),))
    encoder = own.parent / "encoder.yml"
    encoder.write_text("jtype: Absent\n")
    with monkeypatch.context() as changed:
        changed.setenv("JINA_IMAGE_ENCODER", str(encoder))
        done = verified()
        assert done.code == 1
        assert "left as it is: a picture had no vector, which cannot be made here" in done.out
        assert stored_id(indexed, "red") in held(own, PICTURES)
    assert verified().code == 0
    assert content(own) == before


def test_thumbnails(indexed: Indexed, own: Path, verified: Callable[[], Result]) -> None:
    """Only what is whole and belongs to a picture stays."""
    folder = own / PICTURES / "0" / "thumbnails"
    thumbnails = Thumbnails(folder)
    for colour in ("red", "blue"):
        thumbnails.get(stored_id(indexed, colour), (indexed.folder / f"{colour}.png").read_bytes)
    red, blue = (folder / stored_id(indexed, colour)[:2] / stored_id(indexed, colour) for colour in ("red", "blue"))
    whole = red.with_suffix(".jpg").read_bytes()
    blue.with_suffix(".jpg").write_bytes(whole[:50])
    red.with_suffix(".12-34").write_bytes(whole)
    (folder / "ab").mkdir()
    (folder / "ab" / f"ab{'0' * 38}.jpg").write_bytes(whole)
    assert "3 repaired, 0 lost, 0 left" in verified().out
    assert [file.name for file in folder.glob("*/*")] == [f"{stored_id(indexed, 'red')}.jpg"]


def test_models_that_differ_are_refused(own: Path) -> None:
    with opened(own, TEXTS) as connection:
        connection.execute("UPDATE facts SET value = 'vse other' WHERE name = 'model'")
    done = run("app.py", "-t", "verify", workspace=own)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "vse other and vse stand-in" in done.err


def test_a_later_format_is_refused(own: Path) -> None:
    with opened(own, TEXTS) as connection:
        connection.execute("PRAGMA user_version = 99")
    done = run("app.py", "-t", "verify", workspace=own)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "format 99" in done.err


# ------------------------------------------------------------------------------------------------- damaged databases

PICTURES_IN_SHARDS, SHARDS = 240, 2


@pytest.fixture(scope="module")
def two_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of random pictures in two shards; the pictures lie in the folder beside it."""
    folder = tmp_path_factory.mktemp("shards")
    (folder / "pictures").mkdir()
    paint_random(folder / "pictures", PICTURES_IN_SHARDS, noise=9)
    command = ("app.py", "-t", "index", "-d", folder / "pictures", "-m", "vse", "-n", PICTURES_IN_SHARDS)
    done = run(*command, workspace=folder / "workspace", JINA_SHARDS=SHARDS)
    assert done.code == 0, done.err
    return folder / "workspace"


@pytest.fixture
def sharded(two_shards: Path, own: Path) -> Path:
    """A copy of it in the place of ``own``."""
    shutil.rmtree(own)
    return shutil.copytree(two_shards, own)


def page(workspace: Path, indexer: str, kind: str) -> tuple[Path, int]:
    """The database of shard 0, and where in it a leaf of the table of documents, or its root, begins."""
    with opened(workspace, indexer) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = connection.execute("PRAGMA page_size").fetchone()[0]
        root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'documents'").fetchone()[0]
    path = workspace / indexer / "0" / "documents.sqlite"
    data = path.read_bytes()
    start = (root - 1) * size
    if kind == "leaf":
        assert data[start] == 5, "the table has one page only"  # an inner page of a table
        cell = int.from_bytes(data[start + 12 : start + 14], "big")
        start = (int.from_bytes(data[start + cell : start + cell + 4], "big") - 1) * size
        assert data[start] == 13
    return path, start


@pytest.mark.parametrize("indexer", INDEXERS)
@pytest.mark.parametrize("kind", ["leaf", "root", "header"])
def test_a_damaged_page(sharded: Path, verified: Callable[[], Result], indexer: str, kind: str) -> None:
    """It is said in one line; and since files, pictures and the model are there, all comes back."""
    before = content(sharded)
    path, start = (page(sharded, indexer, kind)) if kind != "header" else (page(sharded, indexer, "root")[0], 0)
    with path.open("r+b") as file:
        file.seek(start)
        file.write(np.random.default_rng(3).bytes(4096))
    broken = path.read_bytes()
    done = verified()
    assert "database" in done.out
    assert path.with_name(DAMAGED).read_bytes() == broken
    assert content(sharded) == before
    assert verified().out.endswith("all is well\n")


@pytest.mark.parametrize("kind", ["leaf", "header"])
def test_a_flow_on_a_damaged_index(sharded: Path, kind: str) -> None:
    """It does not start, and says in one line which database it is and what to do."""
    path, start = page(sharded, VECTORS, "leaf")
    with path.open("r+b") as file:
        file.seek(start if kind == "leaf" else 0)
        file.write(bytes(4096))
    done = run("app.py", "-t", "query", workspace=sharded, JINA_PORT=free_port())
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert f"{path}: " in done.err
    assert "-t verify" in done.err


@pytest.mark.parametrize("indexer", INDEXERS)
def test_a_shard_that_is_gone(sharded: Path, verified: Callable[[], Result], indexer: str) -> None:
    before = content(sharded)
    shutil.rmtree(sharded / indexer / "1")
    done = verified()
    assert done.code == 1
    assert f"lost: a database was not there, a new one is made: {indexer}/1" in done.out
    assert content(sharded) == before
    assert verified().code == 0


def test_documents_in_another_shard_than_their_own(sharded: Path, verified: Callable[[], Result]) -> None:
    before = content(sharded)
    with opened(sharded, TEXTS, 0) as right, opened(sharded, TEXTS, 1) as wrong:
        id_ = right.execute("SELECT id FROM documents").fetchone()[0]
        for table, columns in (("sources", "*"), ("documents", "id, mime_type, text, vector, picture")):
            rows = right.execute(f"SELECT {columns} FROM {table} WHERE id = ?", (id_,)).fetchall()
            right.execute(f"DELETE FROM {table} WHERE id = ?", (id_,))
            into = f"{table} (id, mime_type, text, vector, picture)" if table == "documents" else table
            wrong.executemany(f"INSERT INTO {into} VALUES ({','.join('?' * len(rows[0]))})", rows)
    done = verified()
    assert done.code == 0
    assert f"repaired: lay in another shard than its own, moved: {TEXTS}/1 {id_}" in done.out
    assert content(sharded) == before
    for indexer in INDEXERS:
        for shard in range(SHARDS):
            with opened(sharded, indexer, shard) as connection:
                ids = [row[0] for row in connection.execute("SELECT id FROM documents")]
            assert {crc32(id_.encode()) % SHARDS for id_ in ids} == {shard}


def test_a_repaired_index_is_searched(sharded: Path) -> None:
    """What was mended is found by its own picture and its own words."""
    path, start = page(sharded, VECTORS, "leaf")
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(4096))
    done = run("app.py", "-t", "verify", workspace=sharded)
    assert "encoded again" in done.out, done
    pictures = dict(held(sharded, PICTURES, "id, picture"))
    with server(sharded) as running:
        asked = [as_data_uri(data, "image/png") for data in pictures.values()]
        found = running.search(*asked, parameters={"target": "image", "top_k": 3})
        texts = running.search(*held(sharded, TEXTS, "text"), parameters={"target": "text", "top_k": 3})
    for id_, matches in zip(pictures, found, strict=True):
        assert matches[0]["score"]["value"] < 1e-6
        assert id_ in {match["id"] for match in matches}
    for text, matches in zip(held(sharded, TEXTS, "text"), texts, strict=True):
        assert text_id(text) in {match["id"] for match in matches}
