"""The two Flows as programs: indexing, and what the query server answers over HTTP and gRPC."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from base64 import b64decode
from hashlib import sha1
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.processes import members
from flow import free_port
from tests.conftest import (
    COLOURS,
    PATIENCE,
    UNKNOWN,
    Indexed,
    Server,
    assert_refused,
    held,
    paint,
    picture,
    process,
    run,
    server,
    stored_id,
    taken_port,
    truncated_picture,
    unit,
    wait_until,
)


@pytest.fixture
def own(indexed: Indexed, tmp_path: Path) -> Path:
    """A copy of the index for one test."""
    return shutil.copytree(indexed.workspace, tmp_path / "workspace")


# ------------------------------------------------------------------------------------------------------- indexing


def test_indexing(indexed: Indexed) -> None:
    assert indexed.run.code == 0, indexed.run.err
    assert indexed.run.out == f"{2 * len(COLOURS)} documents indexed, 0 were there already, 0 skipped\n"
    pictures = {sha1(path.read_bytes()).hexdigest() for path in indexed.folder.glob("*.png")}
    assert set(held(indexed.workspace, "image_vector_indexer")) == pictures
    assert set(held(indexed.workspace, "image_kv_indexer")) == pictures
    assert set(held(indexed.workspace, "text_indexer", "text")) == {f"{colour} square" for colour in COLOURS}


def test_indexing_again_encodes_nothing(indexed: Indexed, own: Path) -> None:
    """An encoder that cannot be asked proves it; the model is that of the index."""
    mute = own.parent / "mute.yml"
    (own.parent / "mute.py").write_text(
        "from docarray import DocList\nfrom jina import Executor, requests\n"
        "from executors.document import Document\n\n\nclass Mute(Executor):\n"
        "    @requests(on=['/index', '/search'])\n"
        "    def encode(self, docs: DocList[Document], **_) -> DocList[Document]:\n"
        "        raise RuntimeError('asked to encode')\n"
    )
    mute.write_text("jtype: Mute\nmetas:\n  py_modules: mute.py\n")
    done = run(
        *("app.py", "-t", "index", "-d", indexed.folder),
        workspace=own,
        JINA_IMAGE_ENCODER=mute,
        JINA_TEXT_ENCODER=mute,
    )
    assert done.code == 0, done.err
    assert done.out == f"0 documents indexed, {2 * len(COLOURS)} were there already, 0 skipped\n"


def test_at_most_n_pairs(indexed: Indexed, tmp_path: Path) -> None:
    done = run("app.py", "-t", "index", "-d", indexed.folder, "-m", "vse", "-n", 2, workspace=tmp_path / "workspace")
    assert done.out == "4 documents indexed, 0 were there already, 0 skipped\n"


def test_overwriting(own: Path, tmp_path: Path) -> None:
    """Refused while the index serves, which a Ctrl-C ends; then only the new is there."""
    folder = paint(tmp_path / "new", {"teal.png": "teal"})
    command = ("app.py", "-t", "index", "-d", folder, "-m", "vse", "--overwrite")
    with server(own) as running:
        done = run(*command, workspace=own)
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
        assert "in use" in done.err
        assert running.search("red", top_k=1)[0][0]["text"] == "red square"
        os.killpg(running.process.pid, signal.SIGINT)
        _, errors = running.process.communicate(timeout=PATIENCE)
        assert "Traceback" not in errors
    done = run(*command, workspace=own)
    assert (done.code, done.out) == (0, "2 documents indexed, 0 were there already, 0 skipped\n"), done.err
    assert held(own, "text_indexer", "text") == ["teal square"]
    assert len(held(own, "image_vector_indexer")) == len(held(own, "image_kv_indexer")) == 1


def test_deleting(indexed: Indexed, own: Path) -> None:
    red, blue = indexed.folder / "red.png", stored_id(indexed, "blue")
    done = run("app.py", "-t", "delete", red, blue, "nothing", workspace=own)
    assert done.code == 1
    assert done.out.splitlines() == [
        f"{red}: 2 documents deleted",
        f"{blue}: 2 documents deleted",
        "nothing: not in the index",
    ]
    left = set(COLOURS) - {"red", "blue"}
    pictures = {stored_id(indexed, colour) for colour in left}
    assert set(held(own, "image_vector_indexer")) == set(held(own, "image_kv_indexer")) == pictures
    assert set(held(own, "text_indexer", "text")) == {f"{colour} square" for colour in left}


def test_dryrun(tmp_path: Path) -> None:
    done = run("app.py", "-t", "dryrun", "-m", "vse", workspace=tmp_path / "workspace")
    assert (done.code, done.out, done.err) == (0, "the index Flow starts with -m vse\n", "")


def test_texts_over_http(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.write_text("red line\n\n  blue line \nred line\n")
    port, workspace = free_port(), tmp_path / "workspace"
    done = run(
        *("app.py", "-t", "index_restful", "-m", "vse"), workspace=workspace, JINA_DATA_FILE=texts, JINA_PORT=port
    )
    assert done.code == 0, done.err
    assert sorted(held(workspace, "text_indexer", "text")) == ["blue line", "red line"]
    assert held(workspace, "image_vector_indexer") == []


def test_indexing_over_http(indexed: Indexed, tmp_path: Path) -> None:
    command = ("app.py", "-t", "index", "-d", indexed.folder, "-m", "vse", "-s", 4)
    done = run(*command, workspace=tmp_path, JINA_USE_REST_API="true", JINA_PORT=free_port())
    assert done.code == 0, done.err
    for indexer in ("image_vector_indexer", "image_kv_indexer", "text_indexer"):
        assert set(held(tmp_path, indexer)) == set(held(indexed.workspace, indexer))


def test_large_pictures_over_http(tmp_path: Path) -> None:
    """Two that do not fit into one request go in two; one that fits into none is passed over, and named."""
    folder = paint(tmp_path / "pictures", {"large.bmp": "red", "other.bmp": "blue", "too large.bmp": "lime"})
    for name, side in (("large.bmp", 3000), ("other.bmp", 3001), ("too large.bmp", 4100)):
        with Image.open(folder / name) as image:
            image.resize((side, side)).save(folder / name)
    command = ("app.py", "-t", "index", "-d", folder, "-m", "vse")
    done = run(*command, workspace=tmp_path / "w", JINA_USE_REST_API="true", JINA_PORT=free_port())
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "2 documents indexed, 0 were there already, 1 skipped"
    assert "skipped too large.bmp: does not fit into a request over HTTP, which has 64 MB at most" in done.out
    assert len(held(tmp_path / "w", "image_kv_indexer")) == 2


# ------------------------------------------------------------------------------------------------------- the server


def test_health_and_status(searching: Server) -> None:
    assert searching.get("/health").body == {"status": "ok"}
    status = searching.get("/status").body
    assert (status["model"], status["shards"]) == ("vse stand-in", 1)
    assert status["version"]
    assert status["pictures"] >= len(COLOURS)
    assert status["captions"] >= len(COLOURS)


def test_page(searching: Server) -> None:
    answer = searching.get("/")
    assert answer.status == 200
    assert b"<html" in answer.content.lower()
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_description_of_the_interface(searching: Server) -> None:
    assert searching.get("/docs").status == 200
    paths = searching.get("/openapi.json").body["paths"]
    assert set(paths) >= {"/search", "/index", "/health", "/status", "/images/{picture}"}


def test_text_finds_pictures(indexed: Indexed, searching: Server) -> None:
    for colour in COLOURS:
        match = searching.search(f"{colour} thing")[0][0]
        id_ = stored_id(indexed, colour)
        assert (match["id"], match["text"], match["mime_type"]) == (id_, f"{colour} square", "image/png")
        assert match["uri"] == f"{searching.url}/images/{id_}"
        assert match["tags"]["id"] == id_
        assert match["score"]["value"] == pytest.approx(0, abs=1e-6)


def test_scores_are_cosine_distances_in_order(searching: Server) -> None:
    scores = {match["text"]: match["score"]["value"] for match in searching.search("red", top_k=1000)[0]}
    assert list(scores.values()) == sorted(scores.values())
    for colour in COLOURS:
        assert scores[f"{colour} square"] == pytest.approx(1 - unit("red") @ unit(colour), abs=1e-5)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_picture_finds_captions(searching: Server, kind: str) -> None:
    match = searching.search(picture("yellow", kind), top_k=1)[0][0]
    assert (match["text"], match["mime_type"], match["tags"]["id"]) == ("yellow square", "text/plain", "yellow square")


def test_several_at_once_are_answered_in_order(searching: Server) -> None:
    answer = searching.post("/search", {"mode": "search", "top_k": 1, "data": ["blue", picture("lime"), "red", "blue"]})
    docs = answer.body["data"]["docs"]
    found = [doc["matches"][0]["text"] for doc in docs]
    assert found == ["blue square", "lime square", "red square", "blue square"]
    assert [doc["mime_type"] for doc in docs] == ["text/plain", "image/png", "text/plain", "text/plain"]


def test_both_shapes_of_jina_box(searching: Server) -> None:
    body = searching.post("/search", {"data": ["red", picture("blue")]}).body
    assert body["data"]["docs"] == body["search"]["docs"]
    assert body["status"]["code"] == "SUCCESS"
    for doc in body["search"]["docs"]:
        for one in (doc, *doc["matches"]):
            assert one["mimeType"] == one["mime_type"]
        for match in doc["matches"]:
            assert isinstance(match["score"]["value"], float)
            assert set(match) >= {"id", "uri", "text", "tags"}


def test_top_k(searching: Server) -> None:
    assert len(searching.search("red", top_k=2)[0]) == 2
    assert len(searching.search("red", parameters={"top_k": 3})[0]) == 3
    assert len(searching.search("red", top_k=2, parameters={"top_k": 3})[0]) == 3


def test_too_large_a_top_k_is_cut_and_said(searching: Server) -> None:
    for fields in ({"top_k": 5000}, {"parameters": {"top_k": 5000}}):
        status = searching.post("/search", {"data": ["red"], **fields}).body["status"]
        assert status == {"code": "SUCCESS", "description": "top_k was cut from 5000 to 1000"}
    assert searching.post("/search", {"data": ["red"], "top_k": 1000}).body["status"]["description"] == ""


def test_target(indexed: Indexed, searching: Server) -> None:
    pictures = searching.search(picture("blue"), parameters={"target": "image", "top_k": 1})[0]
    assert [match["id"] for match in pictures] == [stored_id(indexed, "blue")]
    captions = searching.search("blue", parameters={"target": "text", "top_k": 1})[0]
    assert [(match["text"], match["mime_type"]) for match in captions] == [("blue square", "text/plain")]


def test_pictures_as_data_uris(indexed: Indexed, searching: Server) -> None:
    match = searching.search("red", top_k=1, parameters={"data_uri": True})[0][0]
    head, _, body = match["uri"].partition(",")
    assert head == "data:image/png;base64"
    assert b64decode(body) == (indexed.folder / "red.png").read_bytes()


def test_picture_address(indexed: Indexed, searching: Server) -> None:
    answer = searching.get(searching.search("red", top_k=1)[0][0]["uri"])
    assert answer.content == (indexed.folder / "red.png").read_bytes()
    assert answer.headers["Content-Type"] == "image/png"
    assert "immutable" in answer.headers["Cache-Control"]
    assert "max-age=31536000" in answer.headers["Cache-Control"]


def test_picture_address_as_query(indexed: Indexed, searching: Server) -> None:
    path = f"/images/{stored_id(indexed, 'magenta')}"
    for found in searching.search(path, searching.url + path, top_k=1):
        assert found[0]["text"] == "magenta square"
        assert found[0]["mime_type"] == "text/plain"


def test_paths_and_foreign_addresses_are_texts(indexed: Indexed, searching: Server) -> None:
    """Neither is ever opened: the server that an address names sees no connection."""
    with taken_port() as (listener, port):
        queries = [
            str(indexed.folder / "red.png"),
            (indexed.folder / "red.png").as_uri(),
            f"http://127.0.0.1:{port}/red.png",
            f"http://127.0.0.1:{port}/images/{stored_id(indexed, 'red')}",
        ]
        docs = searching.post("/search", {"data": queries, "top_k": 1000}).body["data"]["docs"]
        with pytest.raises(BlockingIOError):
            listener.accept()
    black = searching.search("black", top_k=1000)[0]
    for query, doc in zip(queries, docs, strict=True):
        assert (doc["uri"], doc["mime_type"]) == (query, "text/plain")
        assert doc["matches"] == black


# ------------------------------------------------------------------------------------------------------- /index


def test_indexing_while_serving(searching: Server) -> None:
    before = searching.get("/status").body
    body = {"data": ["teal text", picture("teal"), {"image": picture("purple"), "text": "purple dot"}]}
    for _ in range(2):
        answer = searching.post("/index", body)
        assert (answer.status, answer.body["status"]["code"]) == (200, "SUCCESS")
        assert [bool(doc.get("error")) for doc in answer.body["data"]["docs"]] == [False] * 3
    after = searching.get("/status").body
    assert (after["pictures"] - before["pictures"], after["captions"] - before["captions"]) == (2, 2)
    teal, purple = (sha1(b64decode(picture(colour).partition(",")[2])).hexdigest() for colour in ("teal", "purple"))
    found = searching.search("teal", "purple", top_k=1)
    assert [(match[0]["id"], match[0]["text"]) for match in found] == [(teal, ""), (purple, "purple dot")]
    assert searching.search(picture("teal"), top_k=1)[0][0]["text"] == "teal text"
    assert searching.get(f"/images/{teal}").content == b64decode(picture("teal").partition(",")[2])


def test_broken_item_is_refused_alone(searching: Server) -> None:
    before = searching.get("/status").body
    body = {"data": ["silver text", {"image": truncated_picture(), "text": "orange ghost"}, "data:image/png,plain"]}
    answer = searching.post("/index", body)
    assert answer.status == 200
    good, *bad = answer.body["data"]["docs"]
    assert "error" not in good
    assert "damaged JPEG" in bad[0]["error"]
    assert "base64" in bad[1]["error"]
    description = answer.body["status"]["description"]
    assert "item 2: " in description
    assert "item 3: " in description
    after = searching.get("/status").body
    assert (after["pictures"] - before["pictures"], after["captions"] - before["captions"]) == (0, 1)
    ghost = sha1(b64decode(truncated_picture().partition(",")[2])).hexdigest()
    assert_refused(searching.get(f"/images/{ghost}"), 404)


def test_nothing_but_broken_items(searching: Server) -> None:
    answer = searching.post("/index", {"data": [truncated_picture()]})
    assert (answer.status, answer.body["status"]["code"]) == (422, "ERROR")
    assert "damaged JPEG" in answer.body["status"]["description"]


def test_an_index_run_while_serving_is_found(indexed: Indexed, own: Path, tmp_path: Path) -> None:
    folder = paint(tmp_path / "more", {"olive.png": "olive"})
    with server(own) as running:
        assert running.search("olive", top_k=1)[0][0]["text"] != "olive square"
        done = run("app.py", "-t", "index", "-d", folder, workspace=own)
        assert done.code == 0, done.err
        assert running.search("olive", top_k=1)[0][0]["text"] == "olive square"
        assert run("app.py", "-t", "delete", folder / "olive.png", workspace=own).code == 0
        assert running.search("olive", top_k=1)[0][0]["text"] != "olive square"


# ------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"data": ["red"], "top_k": 0}, "top_k"),
        ({"data": ["red"], "top_k": "many"}, "top_k"),
        ({"data": ["red"], "parameters": {"top_k": -1}}, "top_k"),
        ({"data": ["red"], "parameters": {"target": "sound"}}, "target"),
        ({"data": []}, "data"),
        ({"data": [5]}, "data"),
        ({"data": "red"}, "data"),
        ({}, "data"),
        ([], ""),
        (b'{"data": ["red"', ""),
        (b"\xff\xfe", ""),
        (b"", ""),
    ],
)
def test_malformed_search(searching: Server, body: object, named: str) -> None:
    assert_refused(searching.post("/search", body), 422, named)


@pytest.mark.parametrize("body", [{"data": []}, {"data": [{"image": "data:,"}]}, {"data": [7]}, b"nonsense"])
def test_malformed_index(searching: Server, body: object) -> None:
    assert_refused(searching.post("/index", body), 422)


def test_broken_picture_among_good_queries(searching: Server) -> None:
    answer = searching.post("/search", {"data": ["red", truncated_picture(), picture("blue")], "top_k": 1})
    assert answer.status == 200
    red, broken, blue = answer.body["data"]["docs"]
    assert (red["matches"][0]["text"], blue["matches"][0]["text"]) == ("red square", "blue square")
    assert broken["matches"] == []
    assert "damaged JPEG" in broken["error"]
    assert "query 2: " in answer.body["status"]["description"]


@pytest.mark.parametrize("query", ["data:image/png;base64,@@@", "data:image/png;base64,aGVsbG8=", "data:,"])
def test_only_broken_pictures(searching: Server, query: str) -> None:
    answer = searching.post("/search", {"data": [query]})
    assert (answer.status, answer.body["status"]["code"]) == (422, "ERROR")
    assert "query 1: " in answer.body["status"]["description"]


def test_any_text_is_answered(searching: Server) -> None:
    for text in ("", " ", "\0", "🐈" * 3000, "'; DROP TABLE documents"):
        assert len(searching.search(text, top_k=1)[0]) == 1


def test_text_that_is_not_unicode(searching: Server) -> None:
    assert_refused(searching.post("/search", {"data": ["\ud800"]}), 422)
    assert_refused(searching.post("/index", {"data": ["\ud800"]}), 422)


@pytest.mark.parametrize("path", [f"/images/{UNKNOWN}", "/images/../../etc/passwd", "/images/x", "/nowhere"])
def test_unknown_addresses(searching: Server, path: str) -> None:
    assert_refused(searching.get(path), 404)


def test_unknown_picture_as_query(searching: Server) -> None:
    assert_refused(searching.post("/search", {"data": [f"/images/{UNKNOWN}"]}), 404, UNKNOWN)


def test_wrong_method(searching: Server) -> None:
    assert_refused(searching.get("/search"), 405)


# ------------------------------------------------------------------------------------------------------- ends


def test_empty_index_and_sigterm(tmp_path: Path) -> None:
    """Nothing indexed is said with how to index; then SIGTERM leaves no process and frees the port."""
    with server(tmp_path / "workspace", "-m", "vse") as running:
        for query in ("red", picture("red")):
            answer = running.post("/search", {"data": [query]})
            assert_refused(answer, 404, "nothing is indexed yet", "app.py -t index")
        assert running.get("/status").body["pictures"] == 0
        assert running.get("/samples").body == {"pictures": [], "captions": []}
        running.process.terminate()
        _, errors = running.process.communicate(timeout=PATIENCE)
        assert errors == ""
        wait_until(lambda: not members(running.process.pid), "no process is left")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", running.port))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("processes", [2, 6, 10])
def test_stop_while_it_starts(tmp_path: Path, processes: int, number: signal.Signals) -> None:
    """The program and its Flow end at whatever moment they are told to: there are ten processes when it has started."""
    port = free_port()
    with process("app.py", "-t", "query", "-m", "vse", workspace=tmp_path, JINA_PORT=port) as running:
        wait_until(lambda: len(members(running.pid)) >= processes, f"{processes} processes are there")
        os.killpg(running.pid, number)  # as a terminal does with Ctrl-C: only the program is in this group
        _, errors = running.communicate(timeout=PATIENCE)
        assert (running.returncode, errors) == (128 + number, "")
        wait_until(lambda: not members(running.pid), "no process is left")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


def test_grpc_and_the_loss_of_the_first_process(indexed: Indexed, own: Path) -> None:
    """Also over gRPC; and when the program alone is killed, the Flow's processes end by themselves."""
    from docarray import DocList
    from jina import Client

    from executors.document import IMAGE, TEXT, Document

    with server(own, JINA_USE_REST_API="false") as running:
        queries = [
            Document(id="0", modality=TEXT, target=IMAGE, text="blue"),
            Document(id="1", modality=IMAGE, target=TEXT, uri=picture("red")),
            Document(id="a", query="2", part=1, modality=IMAGE, target=IMAGE, uri=picture("red")),
            Document(id="b", query="2", part=2, modality=TEXT, target=IMAGE, text="blue", weight=9),
        ]
        answer = Client(port=running.port).post(
            "/search", DocList[Document](queries), parameters={"top_k": 1}, return_type=DocList[Document]
        )
        found = {doc.id: doc.matches[0] for doc in answer}
        assert found["0"].id == stored_id(indexed, "blue")
        assert found["1"].text == "red square"
        together = unit("red") + 9 * unit("blue")
        distance = 1 - together @ unit("blue") / np.linalg.norm(together)
        assert (found["2"].id, found["2"].score) == (stored_id(indexed, "blue"), pytest.approx(distance, abs=1e-6))
        running.process.kill()
        running.process.wait(PATIENCE)
        wait_until(lambda: not members(running.process.pid), "the Flow's processes have ended")
