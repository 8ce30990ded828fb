"""Who is let in: addresses that are listened on, names of the server, other pages, tokens."""

from __future__ import annotations

import http.client
import re
import shutil
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from bench.processes import members
from tests.conftest import (
    Answer,
    Indexed,
    Server,
    assert_refused,
    listening,
    refused_start,
    run,
    server,
    stored_id,
)

READ, WRITE = "read-0123456789abcdef", "write-0123456789abcdef"
TOKENS = {"JINA_READ_TOKEN": READ, "JINA_WRITE_TOKEN": WRITE}
ORIGIN = "https://friend.example"


def ask(running: Server, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
    """A request with exactly these headers, and the right length."""
    with closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)) as client:
        client.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in {"Host": f"localhost:{running.port}", "Content-Length": str(len(body)), **headers}.items():
            client.putheader(name, value)
        client.endheaders(body)
        response = client.getresponse()
        return Answer(response.status, response.headers, response.read())


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def basic(password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {b64encode(f'anybody:{password}'.encode()).decode()}"}


# ------------------------------------------------------------------------------------------------------- addresses


def test_every_process_listens_on_this_machine_only(searching: Server) -> None:
    found = [address for pid in members(searching.process.pid) for address, _ in listening(pid)]
    assert len(found) > 8
    assert all(address.is_loopback for address in found)


@pytest.fixture(scope="module")
def guarded(indexed: Indexed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that listens to everybody, and asks for tokens; a page elsewhere may ask too."""
    workspace = shutil.copytree(indexed.workspace, tmp_path_factory.mktemp("guarded") / "workspace")
    with server(workspace, JINA_HOST="0.0.0.0", JINA_CORS_ORIGINS=ORIGIN, **TOKENS) as running:
        yield running


def test_only_the_gateway_listens_to_everybody(guarded: Server) -> None:
    found = [(address, port) for pid in members(guarded.process.pid) for address, port in listening(pid)]
    assert [port for address, port in found if not address.is_loopback] == [guarded.port]


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"JINA_HOST": "0.0.0.0"}, "would let everybody in"),
        ({"JINA_HOST": "0.0.0.0", "JINA_USE_REST_API": "false", **TOKENS}, "gRPC asks for no token"),
        ({"JINA_HOST": "192.0.2.1"}, "192.0.2.1 is neither"),
        ({"JINA_READ_TOKEN": "short-secret"}, "JINA_READ_TOKEN has fewer than 16 characters"),
        ({"JINA_WRITE_TOKEN": "ünsafe-0123456789abcdef"}, "JINA_WRITE_TOKEN"),
        ({"JINA_CORS_ORIGINS": "*"}, "'*' is no origin"),
        ({"JINA_CORS_ORIGINS": "https://a.example https://b.example/path"}, "'https://b.example/path' is no origin"),
    ],
)
def test_settings_that_would_let_everybody_in(indexed: Indexed, environment: dict[str, str], words: str) -> None:
    line = refused_start(indexed.workspace, **environment)
    assert words in line
    assert "secret" not in line
    assert "0123456789abcdef" not in line


def test_everybody_if_it_is_wanted(indexed: Indexed, tmp_path: Path) -> None:
    workspace = shutil.copytree(indexed.workspace, tmp_path / "workspace")
    with server(workspace, "--insecure", JINA_HOST="0.0.0.0") as running:
        assert running.search("red", top_k=1)[0][0]["text"] == "red square"


# ------------------------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize("path", ["/status", "/samples", "/health", "/openapi.json", "/docs", "/nowhere", "//status"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer(""),
        bearer(READ[:-1]),
        bearer(READ + "x"),
        bearer(READ.upper()),
        {"Authorization": READ},
        {"Authorization": "Basic !"},
        {"Authorization": "Basic /w=="},
        basic("no"),
        {"X-Forwarded-For": "127.0.0.1"},
        {"Cookie": f"token={READ}"},
    ],
)
def test_reading_without_the_token(guarded: Server, path: str, headers: dict[str, str]) -> None:
    answer = ask(guarded, "GET", path, headers)
    assert_refused(answer, 401, "a token is needed")
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")


def test_reading_with_a_token(indexed: Indexed, guarded: Server) -> None:
    for headers in (bearer(READ), bearer(WRITE), basic(READ), {"Authorization": f"bearer {READ}"}):
        assert ask(guarded, "GET", "/status", headers).status == 200
        assert ask(guarded, "GET", f"/thumbnails/{stored_id(indexed, 'red')}", headers).status == 200
        answer = ask(guarded, "POST", "/search", {**headers, "Content-Type": "application/json"}, b'{"data": ["red"]}')
        assert answer.body["data"]["docs"][0]["matches"][0]["text"] == "red square"


def test_writing_needs_the_other_token(guarded: Server) -> None:
    json = {"Content-Type": "application/json"}
    for headers in ({}, bearer(READ), basic(READ)):
        for path in ("/index", "/%69ndex", "/index?", "/index/"):
            assert ask(guarded, "POST", path, {**headers, **json}, b'{"data": ["stolen"]}').status in (307, 401, 404)
    assert ask(guarded, "POST", "/index", {**bearer(WRITE), **json}, b'{"data": ["bought"]}').status == 200
    body = b'{"data": ["stolen", "bought"], "parameters": {"target": "text", "top_k": 1000}}'
    docs = ask(guarded, "POST", "/search", {**bearer(READ), **json}, body).body["data"]["docs"]
    found = {match["text"] for doc in docs for match in doc["matches"]}
    assert "bought" in found
    assert "stolen" not in found


def test_a_token_for_writing_alone(indexed: Indexed, tmp_path: Path) -> None:
    workspace = shutil.copytree(indexed.workspace, tmp_path / "workspace")
    with server(workspace, JINA_HOST="0.0.0.0", JINA_WRITE_TOKEN=WRITE) as running:
        assert running.search("red", top_k=1)[0][0]["text"] == "red square"
        assert_refused(running.post("/index", {"data": ["stolen"]}), 401)


def test_the_pages_own_files_need_no_token(guarded: Server) -> None:
    for path in ("/", "/web/page.js"):
        assert ask(guarded, "GET", path, {}).status == 200
    for path in ("/web/../status", "/web/%2e%2e/status", "/web//status"):
        assert ask(guarded, "GET", path, {}).status in (401, 404)


def test_the_page_asks_for_a_password(guarded: Server) -> None:
    pytest.importorskip("playwright", reason="requirements-dev.txt is not installed")
    from playwright.sync_api import expect

    from tests.browser import chromium, visits

    with chromium() as browser, visits(browser, guarded) as visit:
        one = visit(http_credentials={"username": "anybody", "password": READ})
        expect(one.pictures.first).to_be_visible()
        one.ask("red")
        expect(one.pictures.first).to_be_visible()


def test_our_own_client_shows_the_token(indexed: Indexed, tmp_path: Path) -> None:
    environment = {"JINA_USE_REST_API": "true", **TOKENS}
    done = run("app.py", "-t", "index", "-d", indexed.folder, "-m", "vse", workspace=tmp_path / "new", **environment)
    assert done.code == 0, done.err
    assert WRITE not in done.out + done.err


# ------------------------------------------------------------------------------------------------------- names, pages


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "[::1]:1", "192.0.2.7", "LOCALHOST:45678"])
def test_names_of_this_server(searching: Server, host: str) -> None:
    answer = ask(searching, "GET", "/samples", {"Host": host})
    assert answer.status == 200
    assert answer.body["pictures"][0]["uri"].startswith(f"http://{host}/images/")


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:45678", "0x7f.1"])
def test_a_page_that_gives_this_address_to_its_own_name(searching: Server, host: str) -> None:
    """DNS rebinding: the browser takes this server for a part of that page."""
    headers = {"Host": host, "Origin": f"http://{host}", "Content-Type": "application/json"}
    assert_refused(ask(searching, "GET", "/samples", headers), 421, "JINA_ALLOWED_HOSTS")
    assert_refused(ask(searching, "POST", "/index", headers, b'{"data": ["planted"]}'), 421)


@pytest.mark.parametrize("host", ["", 'a"b', "a b", "a/b", "a@localhost", "localhost:x", "<script>", "localhost#"])
def test_a_name_that_is_none(searching: Server, host: str) -> None:
    assert ask(searching, "GET", "/samples", {"Host": host}).status == 400


def test_a_name_that_is_allowed(indexed: Indexed, tmp_path: Path) -> None:
    workspace = shutil.copytree(indexed.workspace, tmp_path / "workspace")
    with server(workspace, JINA_ALLOWED_HOSTS="pictures.example, other.example") as running:
        assert ask(running, "GET", "/status", {"Host": "Pictures.example:80"}).status == 200
        assert_refused(ask(running, "GET", "/status", {"Host": "evil.example"}), 421)


def test_no_other_page_may_read(searching: Server) -> None:
    for method, asked in (("GET", {}), ("OPTIONS", {"Access-Control-Request-Method": "POST"})):
        answer = ask(searching, method, "/search" if asked else "/status", {"Origin": ORIGIN, **asked})
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_a_page_that_is_named_may(guarded: Server) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    preflight = ask(guarded, "OPTIONS", "/search", {"Origin": ORIGIN, **asked})
    assert (preflight.status, preflight.headers["Access-Control-Allow-Origin"]) == (200, ORIGIN)
    assert "Access-Control-Allow-Credentials" not in preflight.headers
    allowed = ask(guarded, "GET", "/status", {"Origin": ORIGIN, **bearer(READ)})
    assert allowed.headers["Access-Control-Allow-Origin"] == ORIGIN
    for origin in ("https://enemy.example", "https://friend.example.enemy.example", "http://friend.example", "null"):
        refused = ask(guarded, "OPTIONS", "/search", {"Origin": origin, **asked})
        assert "Access-Control-Allow-Origin" not in refused.headers
        assert refused.status == 400


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_no_other_page_may_write(searching: Server, kind: str) -> None:
    """A browser sends these kinds for any page without asking first; ``fetch`` also sends a body without a kind."""
    headers = {"Origin": "https://enemy.example", **({"Content-Type": kind} if kind else {})}
    assert_refused(ask(searching, "POST", "/index", headers, b'{"data": ["planted by a page"]}'), 422)
    found = searching.search("planted", parameters={"target": "text"}, top_k=1000)[0]
    assert "planted by a page" not in {match["text"] for match in found}


def test_tokens_are_not_shown(guarded: Server) -> None:
    answers = [ask(guarded, "GET", path, bearer(READ)).content for path in ("/status", "/openapi.json", "/nowhere")]
    assert not re.search(rb"0123456789abcdef", b"".join(answers))
