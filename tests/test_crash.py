"""Kill -9 of everything while it indexes: nothing acknowledged is lost, and the same command completes the rest."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from hashlib import sha1
from pathlib import Path

import pytest

from flow import INDEXERS
from tests.conftest import ROOT, held, kill, paint_random, process, run, server, wait_until

PICTURES, SHARDS = 240, 2

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import app, client

send = client._send

def telling(flow, docs, request_size, progress):
    post = flow.post

    def spied(*arguments, on_done, **others):
        def tell(response):
            for doc in filter(client.is_held, response.docs):
                print(doc.id, flush=True)
            on_done(response)

        return post(*arguments, on_done=tell, **others)

    flow.post = spied
    return send(flow, docs, request_size, progress)

client._send = telling
sys.argv[:2] = ["app.py"]
sys.exit(app.main())
"""
"""``app.py`` as it is, but for saying the id of every document whose acknowledgement reached the client."""

MOMENTS: dict[str, Callable[[Path, list[str]], object]] = {
    "the first shards are made": lambda workspace, _: list(workspace.glob("*/*/documents.sqlite")),
    "the first pictures lie on disk": lambda workspace, _: held(workspace, "image_kv_indexer"),
    "a quarter of the vectors lies on disk": lambda workspace, _: (
        len(held(workspace, "image_vector_indexer")) > PICTURES / 4
    ),
    "half of all is acknowledged": lambda _, acknowledged: len(acknowledged) > PICTURES,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_kill(tmp_path: Path, moment: str) -> None:
    folder, workspace = tmp_path / "pictures", tmp_path / "workspace"
    folder.mkdir()
    paint_random(folder, PICTURES)
    arguments = ("-t", "index", "-d", folder, "-m", "vse", "-n", PICTURES, "-s", "2")
    acknowledged = _killed(arguments, workspace, moment)
    for database in workspace.glob("*/*/documents.sqlite"):  # what is committed but not yet in its shared memory
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA wal_checkpoint")
    before = {indexer: set(held(workspace, indexer)) for indexer in INDEXERS}
    assert sum(map(len, before.values())) < 3 * PICTURES, "it was finished before it was killed"
    pictures = {sha1(path.read_bytes()).hexdigest() for path in folder.glob("*.png")}
    assert acknowledged & pictures <= before["image_vector_indexer"] & before["image_kv_indexer"]
    assert acknowledged - pictures <= before["text_indexer"]

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
    log, program = workspace.with_name("acknowledged"), workspace.with_name("program.py")
    program.write_text(PROGRAM)

    def arrived() -> object:
        assert running.poll() is None, "it ended before it could be killed"
        return MOMENTS[moment](workspace, log.read_text().splitlines())

    command = (program, ROOT, *arguments)
    with log.open("w") as out, process(*command, workspace=workspace, out=out, JINA_SHARDS=SHARDS) as running:
        wait_until(arrived, moment)
        kill(running)
    return set(log.read_text().rpartition("\n")[0].splitlines())  # without a line that was cut short
