"""Bad input is named in one line and costs nothing but itself; a command that cannot run says why in one line."""

from __future__ import annotations

import shutil
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha1
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
from PIL import Image

from flow import free_port
from tests.conftest import Indexed, Result, held, paint, run, taken_port, write_captions

GOOD = {"red.png": "red", "blue.png": "blue", "one.webp": "lime"}
BAD = ("truncated.jpg", "notes.jpg", "huge.png", "empty.jpg")
INDEXERS = ("image_vector_indexer", "image_kv_indexer", "text_indexer")


def spoil(folder: Path) -> dict[str, str]:
    """Add the ``BAD`` files to a folder; returns a caption for each."""
    folder.mkdir(exist_ok=True)
    noise = np.random.default_rng(3).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(folder / "truncated.jpg")
    whole = (folder / "truncated.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.jpg").write_text("a shopping list")
    (folder / "huge.png").write_bytes(huge_png(50_000))
    (folder / "empty.jpg").touch()
    return {name: f"black caption of {name}" for name in BAD}


def huge_png(side: int) -> bytes:
    """A small file that says it is a square picture of so many grey pixels, with its first lines."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    lines = zlib.compress(bytes(side + 1) * 10)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


class Mixed(NamedTuple):
    """A run over good and bad pictures."""

    folder: Path
    workspace: Path
    run: Result


@pytest.fixture(scope="module", params=["grpc", "http"])
def mixed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    folder, workspace = tmp_path_factory.mktemp("mixed"), tmp_path_factory.mktemp("index")
    paint(folder, GOOD)
    captions = {name: f"{colour} square" for name, colour in GOOD.items()}
    write_captions(folder, {**captions, **spoil(folder), "gone.png": "blue picture that is not there"})
    with (folder / "captions.txt").open("a") as file:
        file.write("red.png,a comma, and no quotation mark\n")
    http = {"JINA_USE_REST_API": "true", "JINA_PORT": free_port()} if request.param == "http" else {}
    done = run("app.py", "-t", "index", "-d", folder, "-m", "vse", workspace=workspace, **http)
    return Mixed(folder, workspace, done)


@pytest.mark.parametrize("name", [*BAD, "gone.png", "captions.txt, line 10"])
def test_each_is_named_in_one_line(mixed: Mixed, name: str) -> None:
    named = [line for line in (mixed.run.out + mixed.run.err).splitlines() if name in line]
    assert len(named) == 1
    assert named[0].startswith("skipped ")
    assert named[0].partition(name)[2].startswith(": ")


def test_reasons_say_what_is_wrong(mixed: Mixed) -> None:
    for reason in ("damaged JPEG", "not a picture", "50000 x 50000 pixels", "is empty", "no such picture", "3 columns"):
        assert reason in mixed.run.out


def test_the_good_ones_are_indexed(mixed: Mixed) -> None:
    assert mixed.run.code == 0
    assert "6 skipped" in mixed.run.out.splitlines()[-1]
    pictures = {sha1((mixed.folder / name).read_bytes()).hexdigest() for name in GOOD}
    assert set(held(mixed.workspace, "image_vector_indexer")) == pictures
    assert set(held(mixed.workspace, "image_kv_indexer")) == pictures
    assert set(held(mixed.workspace, "text_indexer", "text")) == {f"{colour} square" for colour in GOOD.values()}


def test_nothing_of_the_bad_ones_is_left(mixed: Mixed) -> None:
    bad = {sha1((mixed.folder / name).read_bytes()).hexdigest() for name in BAD}
    for indexer in INDEXERS:
        rows = held(mixed.workspace, indexer, "id, picture_id, path", "sources")
        assert len(rows) == len(GOOD)
        assert bad.isdisjoint(value for row in rows for value in row)


def test_all_bad_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    write_captions_of = spoil(folder)
    write_captions(folder, write_captions_of)
    done = run("app.py", "-t", "index", "-d", folder, "-m", "vse", workspace=tmp_path / "workspace")
    assert done.code == 1
    assert done.out.splitlines()[-1] == "0 documents indexed, 0 were there already, 4 skipped"
    assert [held(tmp_path / "workspace", indexer) for indexer in INDEXERS] == [[], [], []]


@pytest.fixture
def busy_port() -> Iterator[int]:
    with taken_port() as (_, port):
        yield port


def refused(*command: object, workspace: Path, code: int = 1, **environment: Any) -> str:
    """Run a command that must end with one line; gives the line. argparse puts its usage before it."""
    done = run(*command, workspace=workspace, **environment)
    assert done.code == code
    assert done.out == ""
    assert "Traceback" not in done.err
    lines = [line for line in done.err.splitlines() if not line.startswith(("comparing: ", "indexing: "))]
    assert len(lines) == 1 or (code == 2 and lines[0].startswith("usage: "))
    assert lines[-1].startswith(f"{command[0]}: ")
    return lines[-1]


@pytest.mark.parametrize("script", ["app.py", "evaluate.py"])
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--no-such-option"], "--no-such-option"),
        (["-m", "resnet"], "'resnet'"),
        (["-n", "0"], "'0' is not a whole number from 1 on"),
        (["-s", "many"], "'many' is not a whole number from 1 on"),
    ],
)
def test_bad_options(tmp_path: Path, script: str, arguments: list[str], named: str) -> None:
    assert named in refused(script, *arguments, workspace=tmp_path, code=2)


@pytest.mark.parametrize(
    ("name", "value"), [("JINA_PORT", "x"), ("JINA_PORT", "70000"), ("JINA_SHARDS", "0"), ("JINA_PARALLEL", "-1")]
)
def test_bad_settings(tmp_path: Path, name: str, value: str) -> None:
    line = refused("app.py", "-t", "query", "-m", "vse", workspace=tmp_path, **cast(Any, {name: value}))
    assert name in line
    assert value in line


def test_bad_default_of_an_option(tmp_path: Path) -> None:
    assert "'few'" in refused("app.py", "-t", "dryrun", workspace=tmp_path, code=2, JINA_MAX_DOCS="few")


def test_port_in_use(tmp_path: Path, busy_port: int) -> None:
    line = refused("app.py", "-t", "query", "-m", "vse", workspace=tmp_path, JINA_PORT=busy_port)
    assert f"port {busy_port} cannot be used" in line
    assert "JINA_PORT" in line


def test_workspace_that_cannot_be_written(tmp_path: Path, indexed: Indexed) -> None:
    (tmp_path / "file").touch()
    workspace = tmp_path / "file" / "workspace"
    line = refused("app.py", "-t", "index", "-d", indexed.folder, "-m", "vse", workspace=workspace)
    assert f"cannot write to {workspace}" in line
    assert "JINA_WORKSPACE" in line


@pytest.mark.parametrize("script", ["app.py", "evaluate.py"])
def test_missing_data_set(tmp_path: Path, script: str) -> None:
    task = ["-t", "index"] if script == "app.py" else []
    missing = tmp_path / "missing"
    assert str(missing) in refused(script, *task, "-d", missing, "-m", "vse", workspace=tmp_path / "workspace")
    assert not (tmp_path / "workspace").exists()


def test_folder_without_pictures(tmp_path: Path) -> None:
    line = refused("app.py", "-t", "index", "-d", tmp_path, "-m", "vse", workspace=tmp_path / "workspace")
    assert f"no picture below {tmp_path}" in line


@pytest.mark.parametrize("command", [("app.py", "-t", "query"), ("app.py", "-t", "index"), ("evaluate.py", "-i", "0")])
def test_index_of_another_model(indexed: Indexed, command: tuple[str, ...]) -> None:
    line = refused(*command, "-m", "clip", "-d", indexed.folder, workspace=indexed.workspace)
    assert "-m vse, not -m clip" in line


def test_index_of_other_weights(indexed: Indexed, tmp_path: Path) -> None:
    """The same name, but another fingerprint: only the executors can see it."""
    workspace = shutil.copytree(indexed.workspace, tmp_path / "workspace")
    for path in workspace.glob("*/*/documents.sqlite"):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE facts SET value = 'vse other weights' WHERE name = 'model'")
    folder = paint(tmp_path / "more", {"teal.png": "teal"})
    line = refused("app.py", "-t", "index", "-d", folder, workspace=workspace)
    assert "vse other weights" in line
    assert "vse stand-in" in line
    assert len(held(workspace, "image_vector_indexer")) == len(held(indexed.workspace, "image_vector_indexer"))


@pytest.mark.parametrize("command", [("app.py", "-t", "delete", "some-id"), ("evaluate.py", "-i", "0")])
def test_no_index(tmp_path: Path, indexed: Indexed, command: tuple[str, ...]) -> None:
    line = refused(*command, "-d", indexed.folder, workspace=tmp_path / "workspace")
    assert f"nothing is indexed in {tmp_path / 'workspace'}" in line


def test_nothing_to_delete(indexed: Indexed) -> None:
    assert "say what to delete" in refused("app.py", "-t", "delete", workspace=indexed.workspace)


def test_nothing_to_evaluate_with(indexed: Indexed, tmp_path: Path) -> None:
    paint(tmp_path / "mute", {"red.png": "red"})
    (tmp_path / "mute" / "captions.txt").unlink()
    line = refused("evaluate.py", "-i", "0", "-d", tmp_path / "mute", workspace=indexed.workspace)
    assert "has no captions" in line


def test_no_texts_to_index(tmp_path: Path) -> None:
    assert "JINA_DATA_FILE" in refused("app.py", "-t", "index_restful", "-m", "vse", workspace=tmp_path / "workspace")
    assert not (tmp_path / "workspace").exists()  # no Flow was started for nothing


def test_damaged_index(tmp_path: Path) -> None:
    database = tmp_path / "text_indexer" / "0" / "documents.sqlite"
    database.parent.mkdir(parents=True)
    database.write_bytes(b"damaged" * 1000)
    assert str(database) in refused("app.py", "-t", "query", "-m", "vse", workspace=tmp_path)
