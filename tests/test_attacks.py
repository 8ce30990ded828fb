"""Real attacks: pictures, folders, addresses and JSON that are meant to make the program run or read something else."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from hashlib import sha1
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from executors.picture import PictureError, decode, inspect, read, thumbnail
from tests.conftest import ROOT, Indexed, Server, as_data_uri, assert_refused, held, paint, run, write_captions

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
(/etc/passwd) (r) file 100 string readstring pop print
%%EOF
"""
SVG = b"""<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="8" height="8">
<image xlink:href="http://127.0.0.1:1/x.png"/><script>alert(1)</script><text>&x;</text></svg>"""


# ------------------------------------------------------------------------------------------------------- pictures


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name, which leaves a file behind when it is started."""
    ran, program = tmp_path / "ran", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] || touch {ran}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # Pillow looks for it once
    return ran


def test_the_attack_works_on_pillow(ghostscript: Path) -> None:
    with pytest.raises(OSError, match=r"truncated|cannot|broken|No such"):
        Image.open(BytesIO(EPS)).load()
    assert ghostscript.exists()


def test_a_picture_starts_no_program(ghostscript: Path) -> None:
    for data in (EPS, b"\xc5\xd0\xd3\xc6" + (30).to_bytes(4, "little") + bytes(22) + EPS):
        for use in (inspect, decode, lambda data: thumbnail(data, 320)):
            with pytest.raises(PictureError, match="not a picture"):
                use(data)
    assert not ghostscript.exists()


def encoded(kind: str) -> bytes:
    file = BytesIO()
    Image.new("1" if kind in ("XBM", "MSP") else "RGB", (8, 8)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [EPS, SVG, b"%PDF-1.4\n", *map(encoded, ("PCX", "PPM", "TGA", "ICO", "SGI", "XBM", "MSP", "PDF", "AVIF", "DDS"))],
    ids=lambda data: data[:8].hex(),
)
def test_other_kinds_are_no_pictures(searching: Server, data: bytes) -> None:
    """However they call themselves."""
    for kind in ("image/png", "image/svg+xml"):
        uri = as_data_uri(data, kind)
        for path, item in (("/search", {"image": uri}), ("/index", {"image": uri, "text": "planted"})):
            answer = searching.post(path, {"data": [item]})
            assert answer.status == 422
            assert "not a picture" in answer.body["data"]["docs"][0]["error"]


def test_a_stored_picture_is_what_it_is(searching: Server) -> None:
    """A picture that is HTML too is sent as a picture, and no browser looks for something else in it."""
    file = BytesIO()
    Image.new("RGB", (8, 8), "peru").save(file, "GIF", comment=b"<script>alert(1)</script>")
    uri = f"data:text/html;base64,{b64encode(file.getvalue()).decode()}"
    id_ = searching.post("/index", {"data": [uri]}).body["data"]["docs"][0]["id"]
    answer = searching.get(f"/images/{id_}")
    assert answer.headers["Content-Type"] == "image/gif"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


# ------------------------------------------------------------------------------------------------------- addresses

ADDRESSES = (
    "file:///etc/hostname",
    "FILE:/etc/hostname",
    "/etc/hostname",
    "//127.0.0.1:{port}/images/{id}",
    "http://127.0.0.1:{port}/images/{id}@evil.example",
    "http://user@127.0.0.1:{port}/images/{id}",
    "http://127.0.0.1:{port}/images/../images/{id}",
    "http://127.0.0.1:{port}/images/{id}?x",
    "http://127.0.0.1:{port}/images/{id}\n",
    "/images/../../etc/hostname",
    "/images/%2e%2e/etc/hostname",
    "ftp://127.0.0.1/x.png",
    "jar:file:///x!/y.png",
    "blob:null/x",
    "\\\\127.0.0.1\\x.png",
    "data:image/png,/etc/hostname",
    "data:image/png;base64,@/etc/hostname",
    "data://etc/hostname",
)


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_other_address_is_read(indexed: Indexed, searching: Server, address: str) -> None:
    id_ = sha1((indexed.folder / "red.png").read_bytes()).hexdigest()
    address = address.format(port=searching.port, id=id_)
    with pytest.raises(PictureError):
        read(address, None)
    for query in ({"image": address}, [{"image": address}, {"text": "red"}]):
        answer = searching.post("/search", {"data": [query]})
        assert answer.status == 422
        assert "matches" not in answer.body["data"]["docs"][0] or not answer.body["data"]["docs"][0]["matches"]
    assert searching.post("/index", {"data": [{"image": address, "text": "planted"}]}).status == 422


# ------------------------------------------------------------------------------------------------------- folders


def test_a_folder_that_is_an_attack(tmp_path: Path) -> None:
    """Its name would be YAML, and its links and captions lead out of it; what is right in it is indexed."""
    secret = paint(tmp_path / "secrets", {"secret.png": "gold"}) / "secret.png"
    folder = tmp_path / 'x: !!python/object/apply:os.system ["touch ran"] ${{ ENV.HOME }} $HOME'
    paint(folder, {"red.png": "red"})
    (folder / "link.png").symlink_to(secret)
    (folder / "folder").symlink_to(secret.parent)
    (folder / "..png").symlink_to("../secrets/secret.png")
    stolen = ("../secrets/secret.png", str(secret), "folder/secret.png", "link.png", "./../secrets/secret.png")
    write_captions(folder, {"red.png": "red square", **dict.fromkeys(stolen, "stolen")})
    workspace = tmp_path / "workspace"
    done = run("app.py", "-t", "index", "-d", folder, "-m", "vse", workspace=workspace)
    assert done.code == 0, done.err
    assert "2 documents indexed" in done.out
    assert "link.png: its symbolic link leads out of the data set's folder" in done.out
    assert held(workspace, "text_indexer", "text") == ["red square"]
    assert held(workspace, "image_kv_indexer") == [sha1((folder / "red.png").read_bytes()).hexdigest()]
    assert not (ROOT / "ran").exists()


# ------------------------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"\xff\xfe",
        b"\x1f\x8b\x08\x00",
        b'{"data": ["\\ud800"]}',
        b'{"data": ["red"], "top_k": NaN}',
        b'{"data": ["red"], "top_k": Infinity}',
        b'{"data": ["red"], "top_k": 1e999}',
        b'{"data": ["red"], "top_k": -1}',
        b'{"data": ["red"], "top_k": 0.5}',
        b'{"data": ["red"], "top_k": ' + b"9" * 5000 + b"}",
        b'{"data": ["red"], "parameters": {"top_k": {"$gt": 0}}}',
        b'{"data": ["red"], "parameters": {"target": "!!python/object/apply:os.system [id]"}}',
        b'{"data": [[{"text": "red", "weight": NaN}]]}',
        b'{"data": [[{"text": "red", "weight": 1e999}]]}',
        b'{"data": [[{"text": "red", "weight": ' + b"9" * 400 + b"}]]}",
        b'{"data": {"__proto__": ["red"]}}',
        b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"data": ["red"], "mode": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda body: repr(body[:40]),
)
def test_json_that_is_an_attack(searching: Server, body: bytes) -> None:
    for path in ("/search", "/index"):
        answer = searching.post(path, body)
        if path == "/index" and answer.status == 200:  # where it means nothing, and is passed over
            assert b'["red"]' in body
            continue
        assert_refused(answer, 422)
        json.loads(answer.content, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert searching.search("red", top_k=1)[0][0]["text"] == "red square"
