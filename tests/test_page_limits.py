"""The page when things go wrong or are large or hostile: the stand-in model, for the model does not matter here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("playwright", reason="requirements-dev.txt is not installed")

from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser import Open, chromium, record, visits
from tests.conftest import PATIENCE, ROOT, Server, paint, run, server, write_captions
from tests.test_page import CAT, PHOTOGRAPHS

HOSTILE = '<img src=x onerror="window.hacked=true">'
BUNDLES = {"0.1.49": "jinabox-0.1.49", "0.1.50": "jinabox"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def serving(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """60 photographs without captions, a red picture, and a black one whose caption and name are markup."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(3)
    for number in range(60):
        with Image.open(PHOTOGRAPHS / ("coffee.png", "astronaut.png", "motorcycle_left.png")[number % 3]) as photograph:
            left, top = (int(random.integers(0, side // 3)) for side in photograph.size)
            crop = photograph.crop((left, top, left + photograph.width * 2 // 3, top + photograph.height * 2 // 3))
            crop.resize((600, 450)).save(folder / f"{number}.jpg")
    black = f"{HOSTILE}.png".replace('"', "")
    paint(folder, {"red.png": "red", black: "black"})
    quoted = HOSTILE.replace('"', '""')
    write_captions(folder, {"red.png": "red square", black: f'"{quoted}"'})
    workspace = tmp_path_factory.mktemp("index") / "workspace"
    done = run("app.py", "-t", "index", "-d", folder, "-m", "vse", "-n", "100", workspace=workspace)
    assert done.code == 0, done.err
    with server(workspace) as running:
        yield running


@pytest.fixture
def visit(browser: Browser, serving: Server) -> Iterator[Open]:
    with visits(browser, serving) as open_:
        yield open_


def count_searches(page: Page) -> list[str]:
    """The searches that a page sends from now on."""
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.url.endswith("/search") else None)
    return sent


# ---------------------------------------------------------------------------------------------------- the server


def test_the_newer_query_wins(visit: Open) -> None:
    one = visit()
    held: list[Route] = []

    def hold_red(route: Route) -> None:
        held.append(route) if "red" in (route.request.post_data or "") else route.continue_()

    one.page.route("**/search", hold_red)
    one.bar.fill("red")
    one.bar.press("Enter")
    expect(one.page.locator("body.busy")).to_have_count(1)
    one.ask("black")
    assert len(held) == 1
    held[0].continue_()
    expect(one.results).to_have_count(50)
    one.page.wait_for_load_state("networkidle")
    expect(one.heading).to_have_text("Pictures for “black”")
    expect(one.results.first).to_contain_text("onerror")


def test_a_server_that_never_answers(visit: Open) -> None:
    one = visit()
    one.page.evaluate(
        """() => {
            const timeout = AbortSignal.timeout;
            AbortSignal.timeout = () => timeout.call(AbortSignal, window.patience ?? 300);
        }"""
    )
    one.page.route("**/search", lambda route: None)
    one.bar.fill("red")
    one.bar.press("Enter")
    expect(one.notice).to_contain_text("The server has not answered in time")
    one.settle()
    one.page.unroute("**/search")
    one.page.evaluate("window.patience = 30_000")
    one.page.get_by_role("link", name="Ask again").click()
    expect(one.results).to_have_count(50)
    expect(one.notice).to_be_empty()


def test_an_answer_that_is_none(visit: Open) -> None:
    one = visit()
    one.tolerate()
    one.page.route("**/search", lambda route: route.fulfill(status=502, body="<h1>Bad Gateway</h1>"))
    one.bar.fill("red")
    one.bar.press("Enter")
    expect(one.notice).to_contain_text("an answer that cannot be read (status 502)")
    one.settle()


def test_without_jina_box(visit: Open) -> None:
    one = visit()
    one.tolerate()
    one.page.route("**/jinabox*.js", lambda route: route.abort())
    one.page.reload()
    expect(one.notice).to_contain_text("npm ci")


def test_nothing_indexed_nothing_found_and_the_server_stopped(browser: Browser, tmp_path: Path) -> None:
    with server(tmp_path / "workspace", "-m", "vse") as running, visits(browser, running) as open_:
        one = open_()
        expect(one.notice).to_contain_text("Nothing is indexed yet. Run python app.py -t index -d toy")
        one.screenshot("nothing-indexed")
        one.tolerate()
        one.bar.fill("red")
        one.bar.press("Enter")
        expect(one.notice).to_contain_text("othing is indexed yet")

        assert running.post("/index", {"data": ["red text"]}).status == 200
        one.open()
        expect(one.page.get_by_text("0 pictures · 1 caption")).to_be_visible()
        expect(one.page.get_by_role("list", name="Examples").get_by_role("link")).to_have_text(["red text"])
        one.ask("red")  # finds captions, where there are no pictures
        expect(one.results).to_have_text(["red textSimilarity 1.00"])
        one.page.get_by_role("link", name="Pictures", exact=True).click()
        expect(one.notice).to_contain_text("othing was found")

        running.process.terminate()
        running.process.wait(PATIENCE)
        one.bar.fill("blue")
        one.bar.press("Enter")
        expect(one.notice).to_contain_text("The server does not answer. Start it with python app.py -t query")
        expect(one.page.get_by_role("link", name="Ask again")).to_be_visible()
        expect(one.heading).to_have_text("Captions like “blue”")  # not over what was found before
        one.settle()
        one.screenshot("server-stopped")


# ---------------------------------------------------------------------------------------------------- own pictures


def test_what_is_not_a_picture_or_too_large(visit: Open, tmp_path: Path) -> None:
    one = visit("/?q=red")
    expect(one.results).to_have_count(50)
    searches = count_searches(one.page)
    (tmp_path / "notes.txt").write_text("no picture")
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(47 * 2**20 + 1)
    one.choose(tmp_path / "notes.txt", tmp_path / "large.png")
    expect(one.notice).to_have_text("“notes.txt” is not a picture. “large.png” is larger than 47 MB.")
    one.screenshot("refused")
    expect(one.results).to_have_count(50)
    shutil.copy(tmp_path / "notes.txt", tmp_path / HOSTILE)
    one.results.last.scroll_into_view_if_needed()
    one.drop(tmp_path / HOSTILE)
    expect(one.notice).to_have_text(f"“{HOSTILE}” is not a picture.")
    expect(one.notice).to_be_in_viewport()
    assert searches == []
    one.ask("black")
    expect(one.notice).to_be_empty()


def test_a_damaged_picture(visit: Open, tmp_path: Path) -> None:
    one = visit()
    one.tolerate()
    red = paint(tmp_path, {"red.png": "red"}) / "red.png"
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(CAT.read_bytes()[:50_000])
    one.choose(damaged)
    expect(one.notice).to_contain_text("amaged")
    expect(one.notice).not_to_contain_text("uery 1")
    expect(one.page.get_by_role("link", name="Ask again")).to_have_count(0)
    one.choose(red, damaged)
    groups = one.page.locator("#results section")
    expect(groups.nth(0).locator("li").first).to_contain_text("red square")
    expect(groups.nth(1)).to_contain_text("amaged")


def test_more_pictures_than_can_be_asked_with(visit: Open, tmp_path: Path) -> None:
    one = visit()
    paint(tmp_path, {f"{number}.png": "red" for number in range(9)})
    one.choose(*(tmp_path / f"{number}.png" for number in range(9)))
    expect(one.page.locator("#results section")).to_have_count(8)
    expect(one.notice).to_have_text("“8.png” was left out: 8 pictures can be asked with at once.")


def test_dropped_addresses_and_words(visit: Open) -> None:
    one = visit("/?q=red")
    expect(one.results).to_have_count(50)
    searches = count_searches(one.page)
    one.drop(on=".jina-search-input", url="https://example.org/cat.jpg", text="https://example.org/cat.jpg")
    expect(one.notice).to_contain_text("an address on another site, from which nothing is fetched")
    expect(one.results).to_have_count(50)
    assert searches == []
    one.drop(text="black hole")
    expect(one.heading).to_have_text("Pictures for “black hole”")
    one.drop(CAT, url="https://example.org/cat.png")  # a browser hands over both
    expect(one.heading).to_have_text("Captions for this picture")
    one.drop(text="black hole")
    expect(one.heading).to_have_text("Pictures like this one, with “black hole”")


# -------------------------------------------------------------------------------------------------- size, hostility


def test_bytes_of_fifty_results(visit: Open) -> None:
    """Of everything: the page, its scripts, and all thumbnails, also those far below."""
    one = visit()
    sizes: list[int] = []
    one.page.on(
        "requestfinished",
        lambda request: sizes.append(
            sum(request.sizes()[part] for part in ("responseBodySize", "responseHeadersSize"))
        ),
    )
    one.open("/?q=grey")
    expect(one.results).to_have_count(50)
    for number in range(50):
        image = one.page.locator("#results img").nth(number)
        image.scroll_into_view_if_needed()
        expect(image).to_have_js_property("complete", True)
    one.page.wait_for_load_state("networkidle")
    record(bytes_of_50_results=sum(sizes))
    assert 50 * 3_000 < sum(sizes) < 1_500_000


def test_hostile_captions_are_text(visit: Open) -> None:
    one = visit()
    expect(one.pictures.first).to_be_visible()
    one.ask(f"black {HOSTILE}")
    expect(one.results.first.locator(".caption")).to_have_text(HOSTILE)
    one.page.get_by_role("link", name=f"Captions of {HOSTILE}").click()
    expect(one.page.locator("#results li").first).to_have_text(HOSTILE)
    expect(one.page.locator("#results img[src=x]")).to_have_count(0)
    assert one.page.evaluate("window.hacked") is None
    one.screenshot("hostile")


@pytest.mark.parametrize("version", BUNDLES)
def test_published_jina_box(browser: Browser, serving: Server, tmp_path: Path, version: str) -> None:
    """Both published versions, unchanged, on a page that has nothing else and no content security policy."""
    package = ROOT / "web" / "node_modules" / BUNDLES[version]
    assert f'"version": "{version}"' in (package / "package.json").read_text()
    start = "JinaBox.init('/search', { timeout: 60000 })"  # else 5 s, too short for a busy machine
    html = f"<jina-searchbar></jina-searchbar><script src=box.js></script><script>{start}</script>"
    page = browser.new_page(base_url=serving.url)
    page.route("https://**", lambda route: route.abort())  # 0.1.49 asks for a font
    page.route("**/box.js", lambda route: route.fulfill(path=package / "dist" / "jinabox.umd.js"))
    page.route("**/box", lambda route: route.fulfill(body=html, content_type="text/html"))
    page.goto("/box")
    results = page.locator(".jina-result")

    page.locator(".jina-search-input").fill("red")
    page.locator(".jina-search-input").press("Enter")
    expect(results).to_have_count(16)
    expect(results.first.locator("img")).to_have_js_property("naturalWidth", 8)

    black = paint(tmp_path, {"black.png": "black"}) / "black.png"
    page.evaluate("document.querySelector('jina-searchbar').showInputOptions()")
    page.locator(".jina-expander-file-input").set_input_files(black)
    expect(page.locator(".jina-text-result").first).to_have_text(HOSTILE)

    page.evaluate("document.querySelector('jina-searchbar').search(['data:image/png;base64,aGVsbG8='])")
    expect(page.locator(".jina-error")).to_contain_text("not a picture")
    assert page.evaluate("window.hacked") is None
    page.close()
