"""The documents of one shard of one indexer, in one SQLite database: the truth that everything else is rebuilt from."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

DATABASE = "documents.sqlite"
THUMBNAILS = "thumbnails"
"""The folder beside the database for small versions of its pictures, which can be made again at any time."""
APPROXIMATE = "approximate.faiss"
"""The file beside the database for an approximate index of its vectors, which can be made again at any time."""
_ROWS_AT_ONCE = 10_000
_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE documents (
    row INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again, so that a later row is always a newer document
    id TEXT NOT NULL UNIQUE,
    mime_type TEXT NOT NULL,
    text TEXT NOT NULL,
    vector BLOB,
    picture BLOB
);
CREATE TABLE sources (
    id TEXT NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
    picture_id TEXT NOT NULL,
    path TEXT NOT NULL,
    PRIMARY KEY (id, picture_id, path)
) WITHOUT ROWID;
CREATE INDEX sources_by_picture ON sources (picture_id);
CREATE INDEX sources_by_path ON sources (path);
CREATE TABLE removals (number INTEGER PRIMARY KEY AUTOINCREMENT, row INTEGER NOT NULL);
CREATE TRIGGER removed AFTER DELETE ON documents BEGIN INSERT INTO removals (row) VALUES (old.row); END;
"""
_SIZES = """
CREATE TABLE sizes (
    id TEXT PRIMARY KEY REFERENCES documents (id) ON DELETE CASCADE,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL
) WITHOUT ROWID;
"""
_STEPS = (_TABLES, _SIZES)
"""What each version of the format has added; an older database is brought up to date when it is opened."""
VERSION = len(_STEPS)


_ADVICE = {
    "database or disk is full": "make room on the disk, and run the same command again",
    "disk I/O error": "look at the disk and its quota, and run the same command again",
    "attempt to write a readonly database": "make the folder writable",
    "unable to open database file": "is the folder writable, and the disk not full?",
    "database disk image is malformed": "`python app.py -t verify` repairs it",
    "file is not a database": "`python app.py -t verify` repairs it",
    "database is locked": "another program has been writing for a minute: wait for it, and run the same command again",
}
"""What to do about an error of SQLite's."""


class StorageError(Exception):
    """The stored data cannot be used as asked; the message is one line that says why and what to do."""


class DiskError(StorageError):
    """The disk, or what lies on it, fails: it is full, or a database is damaged."""


class Source(NamedTuple):
    """Where a document comes from: the picture it is or describes, and that picture's file (either may be empty)."""

    picture_id: str
    path: str


NO_SOURCE = Source("", "")


@dataclass(frozen=True, kw_only=True)
class Record:
    """A document as one indexer keeps it; what that indexer has no use for stays empty.

    ``vector`` is float32 ``[dimension]`` of unit length, ``picture`` the encoded file, ``width`` and ``height`` are its
    pixels when it stands upright, 0 if unknown.
    """

    id: str
    mime_type: str = ""
    text: str = ""
    vector: np.ndarray | None = None
    picture: bytes | None = None
    width: int = 0
    height: int = 0
    source: Source = NO_SOURCE


class Store:
    """One shard's database. Every method that writes is one transaction and returns when it is on disk.

    Several processes may have the same store open: an indexing Flow and a querying one see each other's commits.

    Args:
        folder: the shard's folder, made if it is absent.
        shards: in how many shards the index lies; a store that was made for another number is refused.

    Raises:
        StorageError: the folder cannot be written, or its database is damaged or made by another version.
    """

    def __init__(self, folder: Path, *, shards: int) -> None:
        self.path = folder / DATABASE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with ExitStack() as opened:  # given back at once if the store is refused
                opened.callback(os.close, _lock(folder, fcntl.LOCK_SH))
                self._connection = open_database(self.path)
                opened.callback(self._connection.close)
                self._require("shards", str(shards), "set JINA_SHARDS to the former")
                self._opened = opened.pop_all()
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"cannot open the index {self.path}: {advised(error)}") from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._explained(), transaction(self._connection):
            yield

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if str(error) not in _ADVICE:
                raise
            raise DiskError(f"the index {self.path}: {advised(error)}") from error

    def fact(self, name: str) -> str | None:
        """What is known of the whole store under ``name``: ``"model"``, ``"shards"``."""
        rows = self._rows("SELECT value FROM facts WHERE name = ?", name)
        return rows[0][0] if rows else None

    def _require(self, name: str, value: str, advice: str) -> None:
        known = self.fact(name)
        if known is None:
            self._connection.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, value))
            known = self.fact(name)
        if known != value:
            raise StorageError(
                f"the index {self.path.parent} was made with {name} {known}, asked for is {name} {value}: {advice}"
            )

    def require_model(self, model: str) -> None:
        """Remember the model of the vectors, or refuse another one than the remembered.

        Raises:
            StorageError: names both models.
        """
        self._require("model", model, "use the former (-m), or index again with --overwrite")

    def add(self, records: Iterable[Record]) -> None:
        """Store documents. One that is there keeps its vector and picture; its text and sources are completed."""
        with self._transaction():
            for record in records:
                vector = None if record.vector is None else np.ascontiguousarray(record.vector, np.float32).tobytes()
                self._connection.execute(
                    "INSERT OR IGNORE INTO documents (id, mime_type, text, vector, picture) VALUES (?, ?, ?, ?, ?)",
                    (record.id, record.mime_type, record.text, vector, record.picture),
                )
                if record.width:
                    self._measure(record.id, record.width, record.height)
                self._describe(record)

    def unmeasured(self) -> list[str]:
        """The ids of documents without a size: of all that were stored by a version that did not keep it."""
        return [row[0] for row in self._rows("SELECT id FROM documents WHERE id NOT IN (SELECT id FROM sizes)")]

    def measure(self, sizes: Iterable[tuple[str, int, int]]) -> None:
        """Store the ids, widths and heights of pictures that are held."""
        with self._transaction():
            for size in sizes:
                self._measure(*size)

    def _measure(self, id_: str, width: int, height: int) -> None:
        self._connection.execute("INSERT OR IGNORE INTO sizes VALUES (?, ?, ?)", (id_, width, height))

    def update(self, records: Collection[Record]) -> set[str]:
        """Complete text and sources of those of ``records`` that are held; returns the ids of these."""
        held = self.held([record.id for record in records])
        news = [record for record in records if record.id in held and not self.knows(record)]
        if news:
            with self._transaction():
                for record in news:
                    self._describe(record)
        return held

    def knows(self, record: Record) -> bool:
        """Whether a document is held with this source, and with a text if the record has one."""
        query = "SELECT text FROM documents JOIN sources USING (id) WHERE id = ? AND picture_id = ? AND path = ?"
        found = self._rows(query, record.id, *record.source)
        return bool(found) and (bool(found[0][0]) or not record.text)

    def _describe(self, record: Record) -> None:
        self._connection.execute("UPDATE documents SET text = ? WHERE id = ? AND text = ''", (record.text, record.id))
        self._connection.execute("INSERT OR IGNORE INTO sources VALUES (?, ?, ?)", (record.id, *record.source))

    def held(self, ids: Iterable[str]) -> set[str]:
        """Those of ``ids`` that are stored here."""
        return {row[0] for row in self._select("id", "id", ids)}

    def delete(self, names: Collection[str]) -> list[str]:
        """Remove what is named: documents by their id, and by a picture's id or path the picture and its captions.

        A document that still has another source stays. Returns the ids of what is gone.
        """
        with self._transaction():
            touched: set[str] = set()
            for name in names:
                rows = self._connection.execute(
                    "DELETE FROM sources WHERE id = ?1 OR picture_id = ?1 OR path = ?1 RETURNING id", (name,)
                )
                touched.update(row[0] for row in rows)
            sourced = {row[0] for row in self._select("id", "id", touched, table="sources")}
            gone = sorted(touched - sourced)
            self._connection.executemany("DELETE FROM documents WHERE id = ?", ((id_,) for id_ in gone))
        return gone

    def records(self, ids: Iterable[str], *, picture: bool = False) -> dict[str, Record]:
        """The stored documents with these ids, without their vectors, and with their pictures only if asked for."""
        columns = f"id, mime_type, text, {'picture' if picture else 'NULL'}"
        found = {row[0]: row for row in self._select(columns, "id", ids)}
        sources = {row[0]: Source(*row[1:]) for row in self._select("id, picture_id, path", "id", found, "sources")}
        sizes = {row[0]: row[1:] for row in self._select("id, width, height", "id", found, "sizes")}
        records = {}
        for id_, mime_type, text, blob in found.values():
            width, height = sizes.get(id_, (0, 0))
            origin = sources.get(id_, NO_SOURCE)
            records[id_] = Record(
                id=id_, mime_type=mime_type, text=text, picture=blob, width=width, height=height, source=origin
            )
        return records

    def sample(self, number: int) -> list[str]:
        """The ids of up to ``number`` documents, chosen at random without looking at all of them."""
        ends = "SELECT (SELECT min(row) FROM documents), (SELECT max(row) FROM documents)"
        first, last = self._rows(ends)[0]
        if first is None:
            return []
        starts = random.sample(range(first, last + 1), min(number, last + 1 - first))
        ids = [id_ for start in starts for id_ in self._ids_from(start, 1)]
        if len(set(ids)) < number:  # where rows are gone the next one is met several times
            ids += self._ids_from(first, number)
        return list(dict.fromkeys(ids))[:number]

    def _ids_from(self, row: int, number: int) -> list[str]:
        rows = self._rows("SELECT id FROM documents WHERE row >= ? ORDER BY row LIMIT ?", row, number)
        return [row[0] for row in rows]

    def captions(self, picture_id: str) -> list[str]:
        """The texts that describe a picture, the oldest first."""
        query = "SELECT text FROM documents WHERE id IN (SELECT id FROM sources WHERE picture_id = ?) ORDER BY row"
        return [row[0] for row in self._rows(query, picture_id)]

    def identity(self) -> str:
        """What tells this database from every other that was or will be in its place; the same for its whole life."""
        self._connection.execute("INSERT OR IGNORE INTO facts VALUES ('identity', lower(hex(randomblob(16))))")
        return self.fact("identity") or ""

    def ids_of_rows(self, rows: Iterable[int]) -> dict[int, str]:
        """The documents' ids by their rows, the numbers under which a vector index knows them."""
        return dict(self._select("row, id", "row", rows))

    def vectors_after(self, row: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows newer than ``row``, oldest first, with their vectors: int64 ``[n]``, float32 ``[n, dimension]``."""
        with self._explained():
            found = self._connection.execute("SELECT row, vector FROM documents WHERE row > ? ORDER BY row", (row,))
            while batch := found.fetchmany(_ROWS_AT_ONCE):
                yield np.array([row for row, _ in batch], np.int64), _array([vector for _, vector in batch])

    def vectors_of_rows(self, rows: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """Those of ``rows`` that are held, in any order, with their vectors: as from `vectors_after`."""
        found = dict(self._select("row, vector", "row", rows))
        return np.array(list(found), np.int64), _array(list(found.values()))

    def last_removal(self) -> int:
        """The number of the latest removal, 0 if there was none."""
        return int(self._rows("SELECT coalesce(max(number), 0) FROM removals")[0][0])

    def removals_after(self, number: int) -> list[tuple[int, int]]:
        """Removals later than ``number``, as pairs of the removal's number and the removed row."""
        return self._rows("SELECT * FROM removals WHERE number > ?", number)

    def last_row(self) -> int:
        """The row of the newest document; 0: there is none."""
        return int(self._rows("SELECT coalesce(max(row), 0) FROM documents")[0][0])

    def copy(self, file: Path) -> None:
        """Write the database as it is at one moment into a file that stands alone, however much is written meanwhile.

        Raises:
            sqlite3.Error: the database cannot be read or the file cannot be written.
        """
        with closing(sqlite3.connect(file)) as copy:
            self._connection.backup(copy)
            with copy:
                copy.execute("DELETE FROM facts WHERE name = 'identity'")  # it is another database
            copy.execute("PRAGMA journal_mode = DELETE")

    def __bool__(self) -> bool:
        """Whether there is a document: to count them takes a while when there are many."""
        return self.last_row() > 0

    def __len__(self) -> int:
        return int(self._rows("SELECT count(*) FROM documents")[0][0])

    def close(self) -> None:
        """Give the database and its lock back."""
        self._opened.close()

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._explained():
            return self._connection.execute(query, values).fetchall()

    def _select(
        self, columns: str, key: str, values: Iterable[object], table: str = "documents"
    ) -> Iterator[tuple[Any, ...]]:
        wanted = list(values)
        for start in range(0, len(wanted), 500):  # SQLite bounds the number of placeholders
            part = wanted[start : start + 500]
            marks = ",".join("?" * len(part))
            with self._explained():
                yield from self._connection.execute(f"SELECT {columns} FROM {table} WHERE {key} IN ({marks})", part)


def shard_of(id_: str, shards: int) -> int:
    """The number of the shard that a document belongs to."""
    return crc32(id_.encode()) % shards


def erase(folder: Path) -> None:
    """Remove one shard's store from the disk.

    Raises:
        StorageError: another process has it open.
    """
    if not folder.is_dir():
        return
    with alone(folder):
        remove_files(folder)


def remove_files(folder: Path) -> None:
    """Remove all that lies in a shard's folder but its lock, which must be held."""
    for file in (*folder.glob(f"{DATABASE}*"), *folder.glob(f"{APPROXIMATE}*")):
        file.unlink()
    shutil.rmtree(folder / THUMBNAILS, ignore_errors=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep every other program away from a shard's folder, which is made if it is absent.

    Raises:
        StorageError: another process uses it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder, fcntl.LOCK_EX)
    except OSError as error:
        raise StorageError(f"cannot write to the index {folder}: {error.strerror}") from error
    try:
        yield
    finally:
        os.close(lock)


def open_database(path: Path) -> sqlite3.Connection:
    """A connection to a shard's database, which is made if it is absent and brought up to date if it is older.

    Raises:
        StorageError: it was made by a later version.
        sqlite3.Error: it cannot be read or written.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=60)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit is on disk before it is acknowledged
        connection.execute("PRAGMA foreign_keys = ON")
        with transaction(connection):
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise StorageError(
                    f"{path} has format {version}, this program reads {VERSION}: index again with --overwrite"
                )
            if version < VERSION:
                for statement in chain.from_iterable(map(_statements, _STEPS[version:])):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        connection.close()
        raise
    return connection


def schema(connection: sqlite3.Connection) -> set[tuple[str, ...]]:
    """The tables, indexes and triggers of a database."""
    return set(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema"))


def expected_schema(version: int) -> set[tuple[str, ...]]:
    """Those of a database of one version of the format."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript("".join(_STEPS[:version]))
        return schema(connection)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """What is done inside is on disk at the end, all of it, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # on a full disk SQLite has ended it already
            connection.execute("ROLLBACK")
        raise


def advised(error: Exception) -> str:
    """SQLite's message, with what to do about it where that is known."""
    advice = _ADVICE.get(str(error))
    return f"{error}: {advice}" if advice else str(error)


def read_fact(folder: Path, name: str) -> str | None:
    """One fact of a store that may be in use or absent, without opening it for writing."""
    path = folder / DATABASE
    if not path.is_file():
        return None
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            if connection.execute("PRAGMA user_version").fetchone() == (0,):
                return None  # killed before its first commit
            row = connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StorageError(f"cannot read the index {path}: {advised(error)}") from error
    return row[0] if row else None


def _lock(folder: Path, kind: int) -> int:
    """Lock a store's folder, shared by those who use it and exclusive for who erases it; the kernel ends it."""
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise StorageError(f"the index {folder} is in use: stop the program that uses it first") from error
    return handle


def _array(vectors: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(vectors), "<f4").reshape(len(vectors), -1 if vectors else 0)


def _statements(script: str) -> Iterator[str]:
    """Split a script: ``executescript`` would commit the transaction that the tables belong to."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
