"""One shard's database in the hands of the only program that uses it: examined, read where it is damaged, mended."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from storage.store import DATABASE, Source, StorageError, advised, alone, open_database, transaction

DAMAGED = f"{DATABASE}.damaged"
"""The name under which a database is kept that could not be read as a whole."""
_ROWS_AT_ONCE = 16  # pictures are large
_COLUMNS = "row, id, mime_type, text, vector, picture"


class Stored(NamedTuple):
    """All that one shard holds of a document. ``vector`` is little-endian float32, ``size`` width and height."""

    id: str
    mime_type: str = ""
    text: str = ""
    vector: bytes | None = None
    picture: bytes | None = None
    sources: frozenset[Source] = frozenset()
    size: tuple[int, int] | None = None


class Shard:
    """A shard that nobody else can open meanwhile. Every change is one transaction.

    A database that is absent is made. From a damaged one what can be read is copied into a new one.

    Args:
        folder: of the shard.

    Raises:
        StorageError: another program uses it, it cannot be written, or a later version made it.
    """

    def __init__(self, folder: Path) -> None:
        self.name = f"{folder.parent.name}/{folder.name}"
        self.folder, self.path = folder, folder / DATABASE
        self.absent = not self.path.exists()
        """Whether there was no database."""
        self.damage = ""
        """What was wrong with the database, in one line; empty: nothing."""
        self.lost: dict[str, frozenset[Source]] = {}
        """The ids of documents that could not be read, with those of their sources that could."""
        with ExitStack() as opened:
            opened.enter_context(alone(folder))
            self._connection = self._open()
            opened.callback(self._connection.close)
            self._connection.execute("PRAGMA foreign_keys = OFF")  # a document's new row shall not take all else along
            self._connection.text_factory = lambda text: text.decode("utf-8", "replace")
            self._opened = opened.pop_all()

    @property
    def broken(self) -> bool:
        """Whether documents may be gone that were here."""
        return self.absent or bool(self.damage)

    def __enter__(self) -> Shard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def _open(self) -> sqlite3.Connection:
        try:
            connection = open_database(self.path)
            self.damage = _damage(connection)
            if not self.damage:
                return connection
            connection.close()
        except sqlite3.OperationalError as error:
            raise StorageError(f"cannot open the index {self.path}: {advised(error)}") from error
        except sqlite3.DatabaseError as error:
            self.damage = str(error)
        self._recover()
        return open_database(self.path)

    def _recover(self) -> None:
        """Put a new database in the place of the damaged one, which is kept beside it. A kill leaves one of them."""
        copy = self.path.with_suffix(".recovered")
        for file in self.folder.glob(f"{copy.name}*"):
            file.unlink()
        with closing(sqlite3.connect(self.path)) as old, closing(open_database(copy)) as new:
            with suppress(sqlite3.Error):
                old.execute(
                    "PRAGMA wal_checkpoint(TRUNCATE)"
                )  # pages are moved as they are, the file then stands alone
            self.lost = _copy(old, new)
        sync(copy)
        kept = self.folder / DAMAGED
        kept.unlink(missing_ok=True)
        kept.hardlink_to(self.path)
        for suffix in ("-wal", "-shm"):
            (self.folder / f"{DATABASE}{suffix}").unlink(missing_ok=True)
        copy.replace(self.path)
        sync(self.folder)

    def fact(self, name: str) -> str | None:
        """As ``Store.fact``."""
        row = self._connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def remember(self, name: str, value: str) -> None:
        """Store a fact that is not there."""
        self._connection.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, value))

    def sweep(self) -> int:
        """Remove sources and sizes of documents that are not there; returns how many rows these were."""
        with transaction(self._connection):
            return sum(
                self._connection.execute(f"DELETE FROM {table} WHERE id NOT IN (SELECT id FROM documents)").rowcount
                for table in ("sources", "sizes")
            )

    def ids(self) -> list[str]:
        """The ids of all documents, the oldest first."""
        return [row[0] for row in self._connection.execute("SELECT id FROM documents ORDER BY row")]

    def get(self, id_: str) -> Stored:
        """A document that is held; what is not of its column's type, as a damaged page may give it, is left out."""
        row = self._connection.execute(f"SELECT {_COLUMNS} FROM documents WHERE id = ?", (id_,)).fetchone()
        sources = _sources(self._connection, id_)
        size = self._connection.execute("SELECT width, height FROM sizes WHERE id = ?", (id_,)).fetchone()
        mime_type, text = (value if isinstance(value, str) else "" for value in row[2:4])
        vector, picture = (value if isinstance(value, bytes) else None for value in row[4:])
        return Stored(id_, mime_type, text, vector, picture, sources, size)

    def texts(self) -> list[tuple[str, str]]:
        """The ids and texts of all documents that have one."""
        return self._connection.execute("SELECT id, text FROM documents WHERE text != ''").fetchall()

    def caption(self, picture_id: str) -> str:
        """The oldest text that describes a picture; empty: none does."""
        row = self._connection.execute(
            "SELECT text FROM documents JOIN sources USING (id) WHERE picture_id = ? ORDER BY row", (picture_id,)
        ).fetchone()
        return row[0] if row else ""

    def sources(self) -> set[tuple[str, Source]]:
        """All sources, each with its document's id."""
        rows = self._connection.execute("SELECT id, picture_id, path FROM sources")
        return {(id_, Source(*source)) for id_, *source in rows}

    def add_source(self, id_: str, source: Source) -> None:
        """Add a source to a document that is held."""
        self._connection.execute("INSERT OR IGNORE INTO sources VALUES (?, ?, ?)", (id_, *source))

    def resize(self, id_: str, size: tuple[int, int]) -> None:
        """Put another size in the place of a document's."""
        self._connection.execute("INSERT OR REPLACE INTO sizes VALUES (?, ?, ?)", (id_, *size))

    def put(self, stored: Stored) -> None:
        """Store a document in the place of the one with its id, in a new row: what is built from the rows notices."""
        with transaction(self._connection):
            self._drop(stored.id)
            self._connection.execute(
                "INSERT INTO documents (id, mime_type, text, vector, picture) VALUES (?, ?, ?, ?, ?)", stored[:5]
            )
            for source in stored.sources:
                self.add_source(stored.id, source)
            if stored.size:
                self.resize(stored.id, stored.size)

    def drop(self, id_: str) -> None:
        """Remove a document."""
        with transaction(self._connection):
            self._drop(id_)

    def _drop(self, id_: str) -> None:
        for table in ("sources", "sizes", "documents"):
            self._connection.execute(f"DELETE FROM {table} WHERE id = ?", (id_,))


def sync(path: Path) -> None:
    """Return when a file, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _damage(connection: sqlite3.Connection) -> str:
    found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    return "" if found == "ok" else " ".join(found.split())


def _copy(old: sqlite3.Connection, new: sqlite3.Connection) -> dict[str, frozenset[Source]]:
    """Copy what can be read; returns the ids that are known of documents that cannot, with their sources."""
    facts = _rows(old, "SELECT name, value FROM facts")
    last = max((number for (number,) in _rows(old, "SELECT seq FROM sqlite_sequence")), default=0)
    rows = _rows(old, "SELECT max(row) FROM documents")
    known = {id_ for query in ("SELECT id FROM documents", "SELECT id FROM sources") for (id_,) in _rows(old, query)}
    copied = set()
    with transaction(new):
        new.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?)", facts)
        for document in _documents(old, 1, max([last, *(row or 0 for (row,) in rows)])):
            number, id_ = document[:2]
            if new.execute(
                f"INSERT OR IGNORE INTO documents ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", document
            ).rowcount:
                copied.add(number)
                known.discard(id_)
                new.executemany("INSERT OR IGNORE INTO sources VALUES (?, ?, ?)", _owned(id_, _sources(old, id_)))
                sizes = _rows(old, "SELECT id, width, height FROM sizes WHERE id = ?", id_)
                new.executemany("INSERT OR IGNORE INTO sizes VALUES (?, ?, ?)", sizes)
        # Whatever was built from the rows must learn which are gone, under numbers that it has not seen.
        new.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('removals', ?)", (last,))
        gone = ((number,) for number in range(1, last + 1) if number not in copied)
        new.executemany("INSERT INTO removals (row) VALUES (?)", gone)
        new.execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'documents'", (last,))
    return {id_: _sources(old, id_) for id_ in known if isinstance(id_, str)}


def _owned(id_: str, sources: frozenset[Source]) -> Iterator[tuple[str, str, str]]:
    return ((id_, *source) for source in sources)


def _documents(old: sqlite3.Connection, first: int, last: int) -> Iterator[tuple[Any, ...]]:
    """The rows that can be read of those numbered from ``first`` to ``last``: of a damaged range each half is tried."""
    if last - first >= _ROWS_AT_ONCE:
        for start in range(first, last + 1, _ROWS_AT_ONCE):
            yield from _documents(old, start, min(start + _ROWS_AT_ONCE - 1, last))
        return
    try:
        query = f"SELECT {_COLUMNS} FROM documents WHERE row BETWEEN ? AND ?"
        rows = old.execute(query, (first, last)).fetchall()
    except sqlite3.Error:
        if first < last:
            middle = (first + last) // 2
            yield from _documents(old, first, middle)
            yield from _documents(old, middle + 1, last)
        return
    yield from (row for row in rows if _is_document(row))


def _is_document(row: tuple[Any, ...]) -> bool:
    """Whether a row has the types of a document's columns; a damaged page may give anything."""
    texts, blobs = row[1:4], row[4:]
    return all(isinstance(text, str) for text in texts) and all(isinstance(blob, bytes | None) for blob in blobs)


def _sources(connection: sqlite3.Connection, id_: str) -> frozenset[Source]:
    rows = _rows(connection, "SELECT picture_id, path FROM sources WHERE id = ?", id_)
    return frozenset(Source(*row) for row in rows if all(isinstance(part, str) for part in row))


def _rows(connection: sqlite3.Connection, query: str, *values: object) -> list[tuple[Any, ...]]:
    """The rows of an answer until one cannot be read."""
    rows = []
    with suppress(sqlite3.Error):
        for row in connection.execute(query, values):
            rows.append(row)  # what came before an error counts
    return rows
