"""The whole index in one file: taken while the index is used, and put back in one step."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from storage.repair import sync
from storage.store import (
    DATABASE,
    VERSION,
    StorageError,
    Store,
    advised,
    alone,
    expected_schema,
    remove_files,
    schema,
)

_FORMAT = "cross-modal search backup 1"
_MANIFEST = "manifest.json"
_MANIFEST_BYTES = 2**20
_MOST_SHARDS = 1000
_STAGING = ".restoring"
_BLOCK = 2**20

# ------------------------------------------------------------------------------------------------- taking one


def backup(stores: Mapping[str, Sequence[Store]], vectors: str, pictures: str, file: Path) -> None:
    """Write all databases of an index into one file, which is there whole or not at all.

    Other programs may go on using the index. What they had acknowledged before the call is in the file; a picture that
    they add or delete meanwhile is in it with its vector, or not at all.

    Args:
        stores: of each indexer, in any order.
        vectors: the indexer that holds the vectors of the pictures that ``pictures`` holds.
        pictures: the other one.
        file: a tar archive to be made, or to be replaced.

    Raises:
        StorageError: the index cannot be read, or the file cannot be written.
    """
    if len({len(some) for some in stores.values()}) > 1:
        raise StorageError("a part of the index is absent: `python app.py -t verify` says what can be done")
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with TemporaryDirectory(prefix=f".{file.name}-", dir=file.parent) as folder:
            # The pictures that lie there now were not added meanwhile.
            last = {store.path.parent.name: store.last_row() for store in stores[pictures]}
            copies: dict[str, Path] = {}
            for name in (vectors, pictures, *(stores.keys() - {vectors, pictures})):
                for store in stores[name]:
                    copies[_member(name, store.path.parent.name)] = copy = Path(folder, f"{name}-{len(copies)}")
                    store.copy(copy)
            for number, row in last.items():
                _trim(copies[_member(vectors, number)], copies[_member(pictures, number)], row)
            _write(unfinished, copies, shards=len(last), model=_model(stores))
        unfinished.replace(file)
        sync(file.parent)
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"cannot write the backup {file}: {advised(error)}") from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _member(indexer: str, shard: object) -> str:
    return f"{indexer}/{shard}/{DATABASE}"


def _model(stores: Mapping[str, Sequence[Store]]) -> str:
    return next((model for some in stores.values() for store in some if (model := store.fact("model"))), "")


def _trim(vectors: Path, pictures: Path, last: int) -> None:
    """Take out of two copies what was added (a row after ``last``) or deleted between the one and the other."""
    with closing(sqlite3.connect(vectors)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("ATTACH ? AS pictures", (str(pictures),))
        connection.execute("DELETE FROM main.documents WHERE id NOT IN (SELECT id FROM pictures.documents)")
        connection.execute(
            "DELETE FROM pictures.documents WHERE row > ? AND id NOT IN (SELECT id FROM main.documents)", (last,)
        )
        connection.commit()


def _write(file: Path, copies: Mapping[str, Path], **about: Any) -> None:
    files = {name: {"bytes": copy.stat().st_size, "sha256": _hash(copy)} for name, copy in copies.items()}
    made = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = {"format": _FORMAT, "version": VERSION, "made": made, **about, "files": files}
    with file.open("xb") as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        content = json.dumps(manifest, indent=1).encode()
        head = tarfile.TarInfo(_MANIFEST)
        head.size = len(content)
        archive.addfile(head, BytesIO(content))
        for name, copy in copies.items():
            archive.add(copy, name)
            copy.unlink()  # so that no more room is needed than for the file and one database
    sync(file)


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# ------------------------------------------------------------------------------------------------- putting it back


def restore(workspace: Path, indexers: Sequence[str], file: Path, *, overwrite: bool) -> dict[str, Any]:
    """Put a backup in the place of the index, if there is one. A kill leaves the old index or the new one.

    Args:
        workspace: the folder of the index, made if it is absent.
        indexers: the folders in it.
        file: written by ``backup``; nothing that it holds is trusted.
        overwrite: whether an index that is there may go.

    Returns:
        What the file says of itself.

    Raises:
        StorageError: the file is no backup or a damaged one, or there is an index, or it is in use.
    """
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        with _only(workspace), ExitStack() as locks:
            _require_none(workspace, indexers, overwrite)
            new = workspace / _STAGING / "new"
            shutil.rmtree(new, ignore_errors=True)  # of one that was killed
            try:
                manifest = _extract(file, new, indexers)
                names = {str(Path(name).parent) for name in manifest["files"]}
                for folder in sorted({*_folders(workspace, indexers), *(workspace / name for name in names)}):
                    locks.enter_context(alone(folder))
                _require_none(workspace, indexers, overwrite)
                new.rename(_ready(workspace))  # from here on it counts
            except BaseException:
                shutil.rmtree(new.parent, ignore_errors=True)
                raise
            sync(new.parent)
            _install(workspace, indexers)
        return manifest
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"cannot restore {file}: {advised(error)}") from error


def finish_restore(workspace: Path, indexers: Sequence[str]) -> None:
    """Put the rest of a backup in its place if a restore was killed over it; to be called before an index is used.

    Raises:
        StorageError: the old index is in use.
    """
    if not _ready(workspace).exists():
        return
    try:
        with _only(workspace), ExitStack() as locks:
            if _ready(workspace).exists():
                for folder in _folders(workspace, indexers):
                    locks.enter_context(alone(folder))
                _install(workspace, indexers)
    except OSError as error:
        raise StorageError(f"cannot finish the restore into {workspace}: {error}") from error


def _ready(workspace: Path) -> Path:
    """A backup under this name is whole, and the index is to be replaced by it."""
    return workspace / _STAGING / "ready"


def _folders(workspace: Path, indexers: Sequence[str]) -> list[Path]:
    return sorted(folder for name in indexers for folder in workspace.glob(f"{name}/*") if folder.is_dir())


def _require_none(workspace: Path, indexers: Sequence[str], overwrite: bool) -> None:
    if not overwrite and any((folder / DATABASE).exists() for folder in _folders(workspace, indexers)):
        raise StorageError(f"there is an index in {workspace}: say --overwrite to lose it, or set JINA_WORKSPACE")


@contextmanager
def _only(workspace: Path) -> Iterator[None]:
    """One restore at a time."""
    handle = os.open(workspace, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _install(workspace: Path, indexers: Sequence[str]) -> None:
    """Move the databases to their places, all of which are locked. It can be done again after a kill at any moment."""
    ready = _ready(workspace)
    kept = json.loads((ready / _MANIFEST).read_text())["files"]
    for name in kept:
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
    for folder in _folders(workspace, indexers):
        name = _member(folder.parent.name, folder.name)
        if (ready / name).exists():
            remove_files(folder)
            (ready / name).rename(folder / DATABASE)
        elif name not in kept:
            remove_files(folder)
        sync(folder)
        sync(folder.parent)
    sync(workspace)
    ready.rename(workspace / _STAGING / "done")  # what is removed now does not count any more
    shutil.rmtree(workspace / _STAGING)


def _extract(file: Path, new: Path, indexers: Sequence[str]) -> dict[str, Any]:
    """Unpack a backup into a new folder, and check everything in it."""
    with _blamed(file), file.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        first = archive.next()
        if first is None or first.name != _MANIFEST or not first.isreg() or first.size > _MANIFEST_BYTES:
            raise ValueError("it does not begin with a manifest")
        content = _content(archive, first).read()
        manifest = _manifest(content, indexers)
        missing = dict(manifest["files"])
        while (member := archive.next()) is not None:
            expected = missing.pop(member.name, None)
            if expected is None or not member.isreg() or member.size != expected["bytes"]:
                raise ValueError(f"{member.name!r} is not what the manifest says")
            target = new / member.name  # one of the names that were made here
            target.parent.mkdir(parents=True, exist_ok=True)
            if _unpack(_content(archive, member), target) != (expected["bytes"], expected["sha256"]):
                raise ValueError(f"{member.name} is damaged")
            _require_database(target, manifest)
        if missing:
            raise ValueError(f"{min(missing)} is missing")
    (new / _MANIFEST).write_bytes(content)
    for path in (new / _MANIFEST, *(folder for folder in (new, *new.rglob("*")) if folder.is_dir())):
        sync(path)
    return manifest


@contextmanager
def _blamed(file: Path) -> Iterator[None]:
    """Whatever is wrong with a file's content becomes one line that names it."""
    try:
        yield
    except (tarfile.TarError, ValueError, KeyError, TypeError, RecursionError, sqlite3.DatabaseError) as error:
        if isinstance(error, sqlite3.OperationalError):
            raise  # the disk's fault
        reason = " ".join(str(error).split())[:200]
        raise StorageError(f"{file} is no backup, or a damaged one: {reason}") from error


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = archive.extractfile(member)
    if content is None:
        raise ValueError(f"{member.name!r} has no content")
    return content


def _manifest(content: bytes, indexers: Iterable[str]) -> dict[str, Any]:
    manifest = json.loads(content)
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise ValueError("it is of another program")
    version, shards = manifest["version"], manifest["shards"]
    if type(version) is not int or not 1 <= version <= VERSION:
        raise ValueError(f"it has format {version!r}, this program reads {VERSION}")
    if type(shards) is not int or not 1 <= shards <= _MOST_SHARDS:
        raise ValueError(f"{shards!r} is no number of shards")
    names = {_member(name, number) for name in indexers for number in range(shards)}
    if not isinstance(manifest["model"], str) or set(manifest["files"]) != names:
        raise ValueError("its manifest is not complete")
    if not all(type(file["bytes"]) is int and isinstance(file["sha256"], str) for file in manifest["files"].values()):
        raise ValueError("its manifest has no sizes or checksums")
    return manifest


def _unpack(content: IO[bytes], target: Path) -> tuple[int, str]:
    """Write a file; returns the number and the SHA-256 of its bytes when they are on disk."""
    number, digest = 0, hashlib.sha256()
    with target.open("xb") as out:
        while block := content.read(_BLOCK):
            number += len(block)
            digest.update(block)
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    return number, digest.hexdigest()


def _require_database(path: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a database that has other tables or triggers than ours, is damaged, or belongs to another index."""
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        connection.execute("PRAGMA trusted_schema = OFF")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != manifest["version"] or schema(connection) != expected_schema(version):
            raise ValueError(f"{path.parent.parent.name} has other tables than an index")
        if connection.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
            raise ValueError(f"{path.parent.parent.name} is damaged")
        facts = dict(connection.execute("SELECT name, value FROM facts"))
    if facts.get("shards") != str(manifest["shards"]) or facts.get("model", manifest["model"]) != manifest["model"]:
        raise ValueError(f"{path.parent.parent.name} belongs to another index")
