"""The HTTP gateway beside the search itself: thumbnails, samples, limits, headers, and texts that would be markup."""

from __future__ import annotations

import asyncio
import html
import http.client
import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from executors.limits import MAX_BODY
from executors.web import prepare
from tests.conftest import (
    COLOURS,
    ROOT,
    UNKNOWN,
    Answer,
    Indexed,
    Server,
    as_data_uri,
    assert_refused,
    paint,
    paint_random,
    picture,
    run,
    server,
    stored_id,
    taken_port,
    truncated_picture,
    write_captions,
)

MARKUP = '<img src=x onerror=alert(1)> & "it\'s"'
JINA_BOX = {"mode": "search"}


def add(searching: Server, uri: str, caption: str = "") -> str:
    """Index a picture; returns its id."""
    item = {"image": uri, "text": caption} if caption else uri
    answer = searching.post("/index", {"data": [item]})
    assert answer.status == 200, answer.body
    return str(answer.body["data"]["docs"][0]["id"])


def opened(answer: Answer) -> Image.Image:
    assert answer.status == 200
    return Image.open(BytesIO(answer.content))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def assert_colour(image: Image.Image, place: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """As nearly as a JPEG has it."""
    np.testing.assert_allclose(np.asarray(image)[place[::-1]], colour, atol=4)


def turned(width: int, height: int) -> bytes:
    """A JPEG whose pixels lie on their side: upright it is ``width`` x ``height``, brown above and green below."""
    upright = Image.new("RGB", (width, height), "saddlebrown")
    upright.paste("olive", (0, height // 2, width, height))
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)


# ------------------------------------------------------------------------------------------------------- thumbnails


def test_a_large_picture(searching: Server) -> None:
    """Upright, 320 pixels high, and the size that the match says is that of the whole picture."""
    data = turned(1000, 2000)
    id_ = add(searching, as_data_uri(data, "image/jpeg"), "saddlebrown and olive")
    match = next(match for match in searching.search("olive", top_k=1000)[0] if match["id"] == id_)
    assert (match["tags"]["width"], match["tags"]["height"]) == ("1000", "2000")
    assert match["tags"]["thumbnail"] == f"/thumbnails/{id_}"
    answer = searching.get(f"/thumbnails/{id_}")
    small = opened(answer)
    assert (small.format, small.mode, small.size) == ("JPEG", "RGB", (160, 320))
    assert not small.getexif()
    assert_colour(small, (80, 40), (139, 69, 19))
    assert_colour(small, (80, 280), (128, 128, 0))
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert {"immutable", "max-age=31536000"} <= set(answer.headers["Cache-Control"].split(", "))


def test_a_small_picture_keeps_its_size(indexed: Indexed, searching: Server) -> None:
    small = opened(searching.get(f"/thumbnails/{stored_id(indexed, 'blue')}"))
    assert small.size == (8, 8)
    assert_colour(small, (4, 4), (0, 0, 255))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_white(searching: Server, mode: str) -> None:
    clear = Image.new("RGBA", (400, 100), (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (0, 0, 100, 100))
    data = encoded(clear.quantize() if mode == "P" else clear.convert(mode))
    small = opened(searching.get(f"/thumbnails/{add(searching, as_data_uri(data, 'image/png'))}"))
    assert small.size == (320, 80)
    assert_colour(small, (20, 40), (0, 0, 0))
    assert_colour(small, (300, 40), (255, 255, 255))


@pytest.mark.parametrize(
    ("mode", "kind"), [("1", "PNG"), ("L", "WEBP"), ("CMYK", "JPEG"), ("I;16", "TIFF"), ("F", "TIFF")]
)
def test_other_colour_modes(searching: Server, mode: str, kind: str) -> None:
    data = encoded(Image.new(mode, (500, 250)), kind)
    id_ = add(searching, as_data_uri(data, f"image/{kind.lower()}"))
    assert opened(searching.get(f"/thumbnails/{id_}")).size == (320, 160)


@pytest.mark.parametrize("path", [f"/thumbnails/{UNKNOWN}", "/thumbnails/x", "/thumbnails/..%2f..%2fetc%2fpasswd"])
def test_no_thumbnail(searching: Server, path: str) -> None:
    assert_refused(searching.get(path), 404)


def test_its_address_is_a_query(indexed: Indexed, searching: Server) -> None:
    """A result that is dropped on the search bar of Jina Box arrives as the address that the page shows it with."""
    assert (
        searching.search(f"{searching.url}/thumbnails/{stored_id(indexed, 'red')}", top_k=1)[0][0]["text"]
        == "red square"
    )


def test_it_is_made_once_and_goes_with_its_picture(indexed: Indexed, tmp_path: Path) -> None:
    workspace = shutil.copytree(indexed.workspace, tmp_path / "workspace")
    red, blue = stored_id(indexed, "red"), stored_id(indexed, "blue")
    with server(workspace) as running:
        for id_ in (red, blue):
            running.get(f"/thumbnails/{id_}")
        files = {path.stem: path for path in workspace.glob("image_kv_indexer/*/thumbnails/*/*.jpg")}
        assert set(files) == {red, blue}
        files[red].write_bytes(b"as it lies on the disk")
        assert running.get(f"/thumbnails/{red}").content == b"as it lies on the disk"
        assert run("app.py", "-t", "delete", red, workspace=workspace).code == 0
        assert_refused(running.get(f"/thumbnails/{red}"), 404)
        assert not files[red].exists()
        assert running.get(f"/thumbnails/{blue}").content == files[blue].read_bytes()
    again = run("app.py", "-t", "index", "-d", indexed.folder, "-n", 1, "--overwrite", workspace=workspace)
    assert again.code == 0, again.err
    assert not files[blue].exists()


def test_searches_do_not_wait_for_it(searching: Server) -> None:
    """A picture of 80 million pixels takes seconds to shrink; the searches meanwhile do not."""
    id_ = add(searching, as_data_uri(encoded(Image.new("RGB", (8000, 10_000), "tan")), "image/png"))
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.append(searching.get(f"/thumbnails/{id_}")))
    asking.start()
    for _ in range(3):
        assert searching.search("red", top_k=1)[0][0]["text"] == "red square"
        assert opened(searching.get(searching.search("blue", top_k=1)[0][0]["tags"]["thumbnail"])).size == (8, 8)
    assert not answers
    asking.join()
    assert opened(answers[0]).size == (256, 320)


# ------------------------------------------------------------------------------------------------------- samples, sizes


def test_samples(searching: Server) -> None:
    for colour in ("gold", "gray", "pink"):
        add(searching, picture(colour), f"{colour} sample")
    answer = searching.get("/samples").body
    assert len(answer["pictures"]) == 8
    assert len(set(answer["captions"])) == 6
    for sample in answer["pictures"]:
        assert opened(searching.get(sample["uri"])).mode
        assert sample["thumbnail"] == f"/thumbnails/{sample['id']}"
        assert sample["width"] >= 1
        assert sample["height"] >= 1
    seen = [json.dumps(searching.get("/samples").body) for _ in range(5)]
    assert len(set(seen)) > 1


def test_captions_of_a_picture(indexed: Indexed, searching: Server) -> None:
    id_ = add(searching, picture("navy"), "navy one")
    add(searching, picture("navy"), "a second one")
    assert searching.get(f"/images/{id_}/captions").body == {"captions": ["a second one", "navy one"]}
    assert searching.get(f"/images/{stored_id(indexed, 'red')}/captions").body == {"captions": ["red square"]}
    assert searching.get(f"/images/{UNKNOWN}/captions").body == {"captions": []}


def test_in_shards(tmp_path: Path) -> None:
    paint_random(tmp_path, 40)
    workspace = tmp_path / "workspace"
    done = run("app.py", "-t", "index", "-d", tmp_path, "-m", "vse", workspace=workspace, JINA_SHARDS=3)
    assert done.code == 0, done.err
    with server(workspace) as running:
        samples = running.get("/samples").body
        assert len({sample["id"] for sample in samples["pictures"]}) == 8
        assert len(set(samples["captions"])) == 6
        for sample in samples["pictures"]:
            assert (sample["width"], sample["height"]) == (8, 8)
            assert opened(running.get(sample["thumbnail"])).size == (8, 8)
            assert running.get(f"/images/{sample['id']}/captions").body == {"captions": [sample["text"]]}
        assert_refused(running.get(f"/thumbnails/{UNKNOWN}"), 404)


def test_an_index_without_sizes(indexed: Indexed, tmp_path: Path) -> None:
    """As it was made by the format's first version: it opens, and the sizes are there."""
    workspace = old_format(shutil.copytree(indexed.workspace, tmp_path / "workspace"))
    with server(workspace) as running:
        matches = running.search("red", top_k=1000)[0]
    assert len(matches) == len(COLOURS)
    assert {(match["tags"]["width"], match["tags"]["height"]) for match in matches} == {("8", "8")}


def old_format(workspace: Path) -> Path:
    """Take from an index what the second version of its format has added."""
    for path in workspace.glob("*/*/documents.sqlite"):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("DROP TABLE sizes")
            connection.execute("PRAGMA user_version = 1")
    return workspace


# ------------------------------------------------------------------------------------------------------- hostile texts


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on one picture whose name and caption are markup."""
    folder, workspace = tmp_path_factory.mktemp("hostile"), tmp_path_factory.mktemp("index")
    paint(folder, {"<img src=x onerror=alert(1)>.png": "red"})
    write_captions(folder, {"<img src=x onerror=alert(1)>.png": '"<img src=x onerror=alert(1)> & ""it\'s"""'})
    done = run("app.py", "-t", "index", "-d", folder, "-m", "vse", workspace=workspace)
    assert done.code == 0, done.err
    with server(workspace) as running:
        yield running


def strings(value: Any) -> Iterator[str]:
    """All texts of a JSON value but its keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


@pytest.mark.parametrize("target", ["image", "text"])
def test_a_caption_is_not_markup(hostile: Server, target: str) -> None:
    """0.1.49 reads ``search`` and 0.1.50 ``data``; both say ``mode``. A client that does not gets what was stored."""
    body = {"data": [MARKUP], "parameters": {"target": target}}
    raw, boxed = hostile.post("/search", body).body, hostile.post("/search", {**body, **JINA_BOX}).body
    escaped = '&lt;img src=x onerror=alert(1)&gt; &amp; "it\'s"'
    for docs in (boxed["data"]["docs"], boxed["search"]["docs"], raw["search"]["docs"]):
        assert docs[0]["matches"][0]["text"] == docs[0]["text"] == escaped
        assert html.unescape(docs[0]["uri"]) == MARKUP
        assert not any("<" in text for text in strings(docs))
        assert '"' not in docs[0]["uri"]  # an attribute of Jina Box's markup
    [doc] = raw["data"]["docs"]
    assert doc["uri"] == doc["text"] == doc["matches"][0]["text"] == MARKUP
    if target == "image":
        assert doc["matches"][0]["tags"]["file"] == "<img src=x onerror=alert(1)>.png"
        assert boxed["data"]["docs"][0]["matches"][0]["tags"]["file"] == "&lt;img src=x onerror=alert(1)&gt;.png"


def test_the_rest_of_the_interface_is_raw(hostile: Server) -> None:
    samples = hostile.get("/samples").body
    assert samples["captions"] == [samples["pictures"][0]["text"]] == [MARKUP]
    assert samples["pictures"][0]["file"] == "<img src=x onerror=alert(1)>.png"
    assert hostile.get(f"/images/{samples['pictures'][0]['id']}/captions").body == {"captions": [MARKUP]}


def test_a_click_on_a_caption_asks_with_the_caption(hostile: Server) -> None:
    shown = hostile.post("/search", {"data": [MARKUP], "parameters": {"target": "text"}, **JINA_BOX}).body
    text = shown["data"]["docs"][0]["matches"][0]["text"]
    again = hostile.post("/search", {"data": [text], "parameters": {"target": "text"}, **JINA_BOX}).body
    assert again == shown
    assert hostile.post("/search", {"data": [text]}).body["data"]["docs"][0]["text"] == text
    typed = hostile.post("/search", {"data": ["Tom & <Jerry>"], **JINA_BOX}).body["data"]["docs"][0]
    assert typed["text"] == "Tom &amp; &lt;Jerry&gt;"


@pytest.mark.parametrize("key", ["<img src=x onerror=alert(1)>", "<b>\n</b>", "<" * 5000])
def test_an_error_that_quotes_is_not_markup(hostile: Server, key: str) -> None:
    body = {"data": [{"text": "red", key: 1}]}
    raw, boxed = hostile.post("/search", body), hostile.post("/search", {**body, **JINA_BOX})
    assert_refused(raw, 422)
    assert_refused(boxed, 422)
    assert "<" in raw.body["status"]["description"]
    assert "<" not in boxed.body["status"]["description"]
    assert html.unescape(boxed.body["status"]["description"]) == raw.body["status"]["description"]
    assert len(raw.body["status"]["description"]) <= 500


def test_a_failed_query_is_a_match_for_jina_box(searching: Server) -> None:
    """It would wait for ever for a query that has none."""
    answer = searching.post("/search", {"data": [truncated_picture(), "red"], **JINA_BOX})
    assert answer.status == 200
    broken, red = answer.body["data"]["docs"]
    assert [match["text"] for match in broken["matches"]] == [broken["error"]]
    assert broken["matches"][0]["mime_type"] == broken["matches"][0]["mimeType"] == "text/plain"
    assert red["matches"][0]["text"] == "red square"
    assert answer.body["data"] == answer.body["search"]


def test_pictures_are_not_sent_twice(indexed: Indexed, searching: Server) -> None:
    body = searching.post("/search", {"data": ["red"], "top_k": 1, "parameters": {"data_uri": True}}).body
    assert body["data"]["docs"][0]["matches"][0]["uri"].startswith("data:image/png;base64,")
    assert body["search"]["docs"][0]["matches"][0]["uri"] == f"/images/{stored_id(indexed, 'red')}"


# ------------------------------------------------------------------------------------------------------- limits


def test_a_request_that_says_it_is_too_large(searching: Server) -> None:
    """Refused before any of it is sent; 64 MB themselves are not."""
    for path in ("/search", "/index"):
        connection = http.client.HTTPConnection("127.0.0.1", searching.port, timeout=20)
        connection.putrequest("POST", path)
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(MAX_BODY + 1))
        connection.endheaders()
        assert_too_large(connection)
    body = json.dumps({"data": ["red"], "top_k": 1}).encode()
    assert searching.post("/search", body.ljust(MAX_BODY)).status == 200


def test_a_request_that_does_not_say_how_large_it_is(searching: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", searching.port, timeout=20)
    chunks = (b" " * 2**20 for _ in range(MAX_BODY // 2**20 + 1))
    connection.request("POST", "/search", chunks, {"Content-Type": "application/json"}, encode_chunked=True)
    assert_too_large(connection)
    assert searching.search("red", top_k=1)[0][0]["text"] == "red square"


def assert_too_large(connection: http.client.HTTPConnection) -> None:
    response = connection.getresponse()
    assert_refused(Answer(response.status, response.headers, response.read()), 413, "64 MB")
    assert_headers(response.headers)
    connection.close()


def test_too_much_to_index(searching: Server) -> None:
    assert_refused(searching.post("/index", {"data": ["red"] * 257}), 422, "256")
    before = searching.get("/status").body
    items = ["x" * 10_001, {"image": picture("plum"), "text": "x" * 10_001}, "y" * 10_000]
    docs = searching.post("/index", {"data": items}).body["data"]["docs"]
    assert [doc.get("error") for doc in docs] == ["a text of more than 10000 characters"] * 2 + [None]
    after = searching.get("/status").body
    assert (after["pictures"] - before["pictures"], after["captions"] - before["captions"]) == (0, 1)


@pytest.mark.parametrize("place", ["string", "object", "part", "item", "pair"])
def test_no_address_is_fetched_and_no_path_read(indexed: Indexed, searching: Server, place: str) -> None:
    """Wherever a picture can stand; the server that an address names sees no connection."""
    red = indexed.folder / "red.png"
    with taken_port() as (listener, port):
        for uri in (f"http://127.0.0.1:{port}/red.png", red.as_uri(), str(red), f"../../../../../../../../..{red}"):
            if place in ("item", "pair"):
                item = uri if place == "item" else {"image": uri, "text": "silver thing"}
                error = searching.post("/index", {"data": [item]}).body["data"]["docs"][0].get("error")
            else:
                part = {"image": uri}
                query = {"string": uri, "object": part, "part": [part, {"text": "red"}]}[place]
                doc = searching.post("/search", {"data": [query]}).body["data"]["docs"][0]
                error = doc.get("error")
            if place in ("string", "item"):  # a text like any other
                assert error is None
            else:
                assert "only data: URIs and pictures of this server are read" in error
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert searching.search("silver", parameters={"target": "text"}, top_k=1)[0][0]["text"] != "silver thing"


# ------------------------------------------------------------------------------------------------------- headers, files


def assert_headers(headers: Any) -> None:
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["style-src"] == "'self'"
    assert "script-src" not in policy
    assert policy["frame-ancestors"] == "'none'"
    assert [name for name, value in policy.items() if "unsafe" in value] == ["style-src-attr"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "camera=(self)" in headers["Permissions-Policy"]
    assert len(headers.get_all("Content-Security-Policy")) == 1


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/web/index.html", 200),
        ("/status", 200),
        ("/samples", 200),
        ("/openapi.json", 200),
        ("/nowhere", 404),
        ("/web/nowhere.js", 404),
        (f"/images/{UNKNOWN}", 404),
        ("/search", 405),
    ],
)
def test_headers(searching: Server, path: str, status: int) -> None:
    answer = searching.get(path)
    assert answer.status == status
    assert_headers(answer.headers)


def test_headers_of_errors(searching: Server) -> None:
    assert_headers(searching.post("/search", {"data": []}).headers)
    assert_headers(searching.post("/search", {"data": [truncated_picture()]}).headers)


def test_headers_of_an_error_that_nobody_has_foreseen() -> None:
    app = FastAPI()
    prepare(app)

    @app.get("/bug")
    def bug() -> None:
        raise ValueError("<b>\nbug")

    sent: list[dict[str, Any]] = []

    async def ask() -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"host", b"localhost")]
        scope = {"type": "http", "method": "GET", "path": "/bug", "headers": headers, "query_string": b""}
        with pytest.raises(ValueError, match="bug"):  # for the log
            await app(scope, receive, send)

    asyncio.run(ask())
    headers = http.client.HTTPMessage()
    for name, value in sent[0]["headers"]:
        headers[name.decode()] = value.decode()
    assert_refused(Answer(sent[0]["status"], headers, sent[1]["body"]), 500, "<b> bug")
    assert_headers(headers)


def test_the_page_of_the_interface(searching: Server) -> None:
    """Its script comes from the network and stands in its markup: the only exception, and only for this page."""
    answer = searching.get("/docs")
    assert b"swagger-ui" in answer.content
    assert "default-src" not in answer.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert searching.get("/redoc").status == 404


def test_files_of_the_page(searching: Server) -> None:
    """A browser asks each time whether its copy is still right, and is answered without the file."""
    for path in ("/", "/web/page.js", "/web/page.css"):
        answer = searching.get(path)
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-cache")
        again = searching.get(path, {"If-None-Match": answer.headers["ETag"]})
        assert (again.status, again.content) == (304, b"")
        assert again.headers["Cache-Control"] == "no-cache"
        assert searching.get(path, {"If-None-Match": '"other"'}).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "package.json",
        "package-lock.json",
        "node_modules/.package-lock.json",
        "node_modules/jinabox/package.json",
        "node_modules/jinabox/README.md",
        "x/../node_modules/jinabox/package.json",
        "./node_modules/jinabox/dist/../package.json",
        "node_modules//jinabox/package.json",
        "%6eode_modules/jinabox/package.json",
        "../executors/web.py",
        "..%2fexecutors%2fweb.py",
        "%2e%2e/executors/web.py",
        "/etc/passwd",
        "//etc/passwd",
        "index.html%00.js",
        "",
    ],
)
def test_nothing_else_is_served(searching: Server, path: str) -> None:
    assert_refused(searching.get(f"/web/{path}"), 404)


def test_jina_box_is_served(searching: Server) -> None:
    bundle = ROOT / "web/node_modules/jinabox/dist/jinabox.umd.min.js"
    if not bundle.is_file():
        pytest.skip("the page's packages are not installed: cd web && npm ci")
    assert searching.get("/web/node_modules/jinabox/dist/jinabox.umd.min.js").content == bundle.read_bytes()


# ------------------------------------------------------------------------------------------------------- description


def test_everything_is_described(searching: Server) -> None:
    description = searching.get("/openapi.json").body
    errors = {
        (method, path): {status for status in route["responses"] if status[0] in "45"}
        for path, methods in description["paths"].items()
        for method, route in methods.items()
    }
    assert errors == {
        ("get", "/health"): {"503"},
        ("get", "/status"): {"503"},
        ("get", "/samples"): {"503"},
        ("get", "/images/{picture}"): {"404", "422", "503"},
        ("get", "/images/{picture}/captions"): {"422", "503"},
        ("get", "/thumbnails/{picture}"): {"404", "422", "500", "503"},
        ("post", "/index"): {"409", "413", "422", "429", "500", "503"},
        ("post", "/search"): {"404", "409", "413", "422", "429", "500", "503"},
    }
    schemas = description["components"]["schemas"]
    assert {"QueryPart", "SearchRequest", "IndexRequest", "Answer", "Refusal", "Samples", "Captions"} <= set(schemas)
    assert "HTTPValidationError" not in schemas  # FastAPI's own shape of an error
    assert all("description" in field for field in schemas["QueryPart"]["properties"].values())
    for example in schemas["SearchRequest"]["examples"]:
        answer = searching.post("/search", example)
        assert answer.status == 200 or "there is no picture" in answer.body["status"]["description"]
