"""The page in a browser: what a person does with it, on the photographs of ``-d toy`` with the embedded model vse."""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha1
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("playwright", reason="requirements-dev.txt is not installed")

from playwright.sync_api import Browser, expect

from tests.browser import Open, Visit, chromium, record, visits
from tests.conftest import Server, run, server

OWN_BOXES = dict.fromkeys(("JINA_NORMALIZER", "JINA_IMAGE_ENCODER", "JINA_TEXT_ENCODER"), "")
PHOTOGRAPHS = Path(next(iter(find_spec("skimage").submodule_search_locations))) / "data"  # type: ignore[union-attr, arg-type]
CAT, MOTORCYCLE = PHOTOGRAPHS / "chelsea.png", PHOTOGRAPHS / "motorcycle_left.png"
CAT_CAPTIONS = re.compile("A cat with green eyes|face of a brown tabby kitten")
MOTORCYCLE_CAPTIONS = re.compile("A red motorcycle|A shiny motorbike")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def serving(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    workspace = tmp_path_factory.mktemp("toy") / "workspace"
    done = run("app.py", "-t", "index", "-d", "toy", "-m", "vse", workspace=workspace, **OWN_BOXES)
    assert done.code == 0, done.err
    with server(workspace, **OWN_BOXES) as running:
        yield running


@pytest.fixture
def visit(browser: Browser, serving: Server) -> Iterator[Open]:
    with visits(browser, serving) as open_:
        yield open_


def stored_id(photograph: Path) -> str:
    return sha1(photograph.read_bytes()).hexdigest()


def asked(one: Visit) -> dict[str, list[str]]:
    """The query in the address."""
    return parse_qs(urlsplit(one.page.url).query)


# ----------------------------------------------------------------------------------------------------- arrival


def test_arrival(visit: Open) -> None:
    one = visit()
    expect(one.page.get_by_text("16 pictures · 32 captions · vse")).to_be_visible()
    expect(one.pictures.first).to_be_visible()
    one.settle()
    one.screenshot("arrival")
    example = one.page.get_by_role("list", name="Examples").get_by_role("link").first
    words = example.inner_text()
    example.click()
    expect(one.heading).to_have_text(f"Pictures for “{words}”")
    expect(one.bar).to_have_value(words)
    expect(one.results).to_have_count(16)


def test_the_first_picture_and_the_layout(visit: Open) -> None:
    """The time is recorded; that nothing moves when pictures arrive is asserted."""
    one = visit()
    expect(one.pictures.first).to_be_visible()
    one.page.wait_for_load_state("networkidle")
    milliseconds, shifts = one.page.evaluate(
        """async () => {
            const image = document.querySelector("#results img");
            await image.decode();
            const entries = (type) => new Promise((resolve) => {
                new PerformanceObserver((list) => resolve(list.getEntries())).observe({ type, buffered: true });
                setTimeout(() => resolve([]), 1000);
            });
            const paints = await entries("largest-contentful-paint");
            const shifts = await entries("layout-shift");
            return [
                paints.find((paint) => paint.element?.matches("#results img")).startTime,
                shifts.reduce((sum, shift) => sum + shift.value, 0),
            ];
        }"""
    )
    record(first_picture_milliseconds=milliseconds, layout_shift=shifts)
    assert shifts < 0.1


# ---------------------------------------------------------------------------------------------- words, pictures


def test_words_find_pictures(visit: Open) -> None:
    one = visit()
    one.ask("a cat")
    expect(one.results).to_have_count(16)
    expect(one.results.first).to_contain_text("A cat with green eyes")
    expect(one.page).to_have_title(re.compile("Pictures for “a cat”"))
    summary = re.fullmatch(r"16 pictures in (\d+\.\d\d) s", one.page.locator(".summary").inner_text())
    assert summary
    assert float(summary[1]) > 0
    scores = [float(score.split()[-1]) for score in one.page.locator(".score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    assert -1 <= scores[-1] < scores[0] <= 1
    image = one.results.first.locator("img")
    expect(image).to_have_js_property("naturalWidth", 320)
    box = image.bounding_box()
    assert box
    assert box["width"] / box["height"] == pytest.approx(451 / 300, rel=0.02)
    one.screenshot("words")


def test_chosen_picture_finds_captions(visit: Open) -> None:
    one = visit()
    one.choose(MOTORCYCLE)
    expect(one.heading).to_have_text("Captions for this picture")
    expect(one.results.first).to_contain_text(MOTORCYCLE_CAPTIONS)
    expect(one.page.get_by_role("img", name="Your picture")).to_be_visible()
    one.screenshot("own-picture")
    one.page.get_by_role("link", name="Pictures", exact=True).click()
    expect(one.heading).to_have_text("Pictures like this one")
    expect(one.results.first).to_contain_text(MOTORCYCLE_CAPTIONS)


def test_a_caption_asks(visit: Open) -> None:
    one = visit()
    one.choose(CAT)
    one.results.get_by_role("link", name="A cat with green eyes").click()
    expect(one.heading).to_contain_text("Pictures for “A cat with green eyes")
    expect(one.results.first).to_contain_text("A cat with green eyes")


def test_dropped_picture(visit: Open) -> None:
    one = visit()
    expect(one.pictures.first).to_be_visible()
    one.drop(CAT)
    expect(one.results.first).to_contain_text(CAT_CAPTIONS)
    expect(one.page.get_by_text("Drop here")).to_have_count(0)
    one.page.get_by_role("img", name="Your picture").drag_to(one.bar)
    expect(one.page.get_by_text("Drop here")).to_have_count(0)
    expect(one.heading).to_have_text("Captions for this picture")
    assert asked(one)["find"] == ["captions"]


def test_pasted_picture(visit: Open) -> None:
    one = visit(permissions=["clipboard-read", "clipboard-write"])
    expect(one.pictures.first).to_be_visible()
    one.page.evaluate(
        """async (address) => {
            const blob = await (await fetch(address)).blob();
            await navigator.clipboard.write([new ClipboardItem({ [blob.type]: blob })]);
        }""",
        f"/images/{stored_id(CAT)}",
    )
    one.bar.press("Control+V")
    expect(one.results.first).to_contain_text(CAT_CAPTIONS)


def test_pasted_words_stay_in_the_bar(visit: Open) -> None:
    one = visit(permissions=["clipboard-read", "clipboard-write"])
    one.page.evaluate("navigator.clipboard.writeText('a cup of coffee')")
    one.bar.press("Control+V")
    expect(one.bar).to_have_value("a cup of coffee")


def test_camera(visit: Open) -> None:
    """Its picture asks, and its live search answers in Jina Box's own panel."""
    one = visit()
    one.page.get_by_role("button", name="Add a picture").click()
    one.page.get_by_role("button", name="Camera").click()
    expect(one.page.get_by_role("combobox", name="Camera")).to_be_visible()
    one.page.get_by_role("button", name="Live Search").click()
    expect(one.page.locator(".jina-text-result")).to_have_count(16)
    one.screenshot("live")
    one.page.get_by_role("button", name="Back", exact=True).click()
    one.photograph()
    panel = one.page.get_by_role("group", name="Add a picture")
    panel.get_by_role("button", name="search").click()
    expect(one.heading).to_have_text("Captions for this picture")
    expect(one.results).to_have_count(20)
    expect(panel).to_be_hidden()


def test_click_on_a_result_asks_with_it(visit: Open) -> None:
    one = visit("/?q=a+cat")
    one.pictures.first.click()
    expect(one.heading).to_have_text("Pictures like this one")
    assert asked(one) == {"image": [stored_id(CAT)]}
    expect(one.results).to_have_count(15)  # it is not like itself
    expect(one.results.filter(has_text="A cat with green eyes")).to_have_count(0)
    one.screenshot("more-like-this")


def test_captions_of_a_result_and_the_full_picture(visit: Open) -> None:
    one = visit("/?q=a+cat")
    with one.context.expect_page() as opened:
        one.page.get_by_role("link", name="Open A cat with green eyes").click()
    expect(opened.value.locator("img")).to_have_js_property("naturalWidth", 451)
    one.page.get_by_role("link", name="Captions of A cat with green eyes").click()
    own = one.page.locator("h3:has-text('Its own captions') + ol > li")
    expect(own).to_have_count(2)
    expect(own.nth(1)).to_contain_text("A close-up of the face of a brown tabby kitten")
    expect(one.results.first).to_contain_text("A cat with green eyes")
    one.screenshot("captions")


def test_dragged_result_asks_with_it(visit: Open) -> None:
    one = visit("/?q=a+cat")
    expect(one.results).to_have_count(16)
    one.wait_for_pictures()
    one.pictures.first.hover()
    one.page.mouse.down()
    one.page.mouse.move(700, 400, steps=5)
    expect(one.page.get_by_text("Drop here")).to_be_visible()
    one.bar.hover()
    one.page.mouse.up()
    expect(one.heading).to_have_text("Pictures like this one")
    assert asked(one) == {"image": [stored_id(CAT)]}


def test_several_pictures_each_find_their_own(visit: Open) -> None:
    one = visit()
    one.choose(CAT, MOTORCYCLE)
    expect(one.heading).to_have_text("Captions for each of these 2 pictures")
    groups = one.page.locator("#results section")
    expect(groups).to_have_count(2)
    expect(groups.nth(0).locator("li").first).to_contain_text(CAT_CAPTIONS)
    expect(groups.nth(1).locator("li").first).to_contain_text(MOTORCYCLE_CAPTIONS)
    expect(one.page.locator(".summary")).to_contain_text("40 captions in ")
    one.page.get_by_role("link", name="Pictures", exact=True).click()
    expect(one.heading).to_have_text("Pictures like each of these 2")
    expect(groups.nth(1).locator("li").first).to_contain_text(MOTORCYCLE_CAPTIONS)
    expect(one.page.get_by_role("img", name="Picture 1 of 2")).to_have_js_property("naturalWidth", 451)
    expect(one.page.get_by_role("img", name="Picture 2 of 2")).to_have_js_property("naturalWidth", 741)
    one.screenshot("several")
    remove = one.page.get_by_role("link", name="Remove this picture")
    remove.last.click()
    expect(one.heading).to_have_text("Pictures like this one")
    expect(one.results.first).to_contain_text(CAT_CAPTIONS)
    one.page.go_back()
    remove.first.click()
    expect(one.heading).to_have_text("Pictures like this one")
    expect(one.results.first).to_contain_text(MOTORCYCLE_CAPTIONS)


# ------------------------------------------------------------------------------------------ combined, left out


def test_picture_and_words_together(visit: Open) -> None:
    photographer = stored_id(PHOTOGRAPHS / "camera.png")
    one = visit(f"/?image={photographer}")
    expect(one.results).to_have_count(15)
    expect(one.results.first).not_to_contain_text("rocket")
    one.bar.fill("in space")
    one.page.get_by_role("button", name="Search", exact=True).click()
    expect(one.heading).to_have_text("Pictures like this one, with “in space”")
    expect(one.results.first).to_contain_text("rocket")
    assert asked(one) == {"image": [photographer], "q": ["in space"]}
    one.page.get_by_role("link", name="Remove this picture").click()
    expect(one.heading).to_have_text("Pictures for “in space”")
    assert asked(one) == {"q": ["in space"]}


def test_words_to_be_left_out(visit: Open) -> None:
    one = visit("/?q=a+cat+and+a+cup+of+coffee")
    expect(one.results.first).to_contain_text("A cat")
    one.page.get_by_text("Leave something out").click()
    field = one.page.get_by_label("What the results should not show")
    field.fill("a cat")
    field.press("Enter")
    expect(one.heading).to_have_text("Pictures for “a cat and a cup of coffee”, without “a cat”")
    expect(one.results.first).to_contain_text("A cup of coffee")
    assert asked(one) == {"q": ["a cat and a cup of coffee"], "not": ["a cat"]}
    one.screenshot("left-out")
    one.bar.fill("")
    one.bar.press("Enter")
    expect(one.notice).to_contain_text("Say also what to look for")


# ---------------------------------------------------------------------------------------- address, back, forward


def test_the_address_holds_the_query(visit: Open) -> None:
    one = visit()
    one.ask("a cat & a dog?")
    first = one.page.url
    assert asked(one) == {"q": ["a cat & a dog?"]}
    one.ask("a red motorcycle")
    one.pictures.first.click()
    expect(one.heading).to_have_text("Pictures like this one")
    one.page.go_back()
    expect(one.bar).to_have_value("a red motorcycle")
    expect(one.results.first).to_contain_text(MOTORCYCLE_CAPTIONS)
    one.page.go_back()
    expect(one.heading).to_contain_text("a cat & a dog?")
    one.page.go_back()
    expect(one.heading).to_contain_text("Find pictures with words")
    one.page.go_forward()
    expect(one.heading).to_contain_text("a cat & a dog?")
    order = one.results.all_inner_texts()
    assert visit(first).results.nth(15).inner_text() == order[15]  # the link in somebody else's browser


def test_link_to_everything_at_once(visit: Open) -> None:
    cat, motorcycle = stored_id(CAT), stored_id(MOTORCYCLE)
    one = visit(f"/?q=on+a+table&image={cat}&image={motorcycle}&not=a+dog&find=captions")
    expect(one.heading).to_have_text("Captions for each of these 2 pictures, with “on a table”, without “a dog”")
    expect(one.page.locator("#results section")).to_have_count(2)
    expect(one.page.get_by_role("img", name="A stored picture")).to_have_count(2)
    expect(one.page.get_by_label("What the results should not show")).to_have_value("a dog")


def test_back_shows_where_one_was(visit: Open) -> None:
    one = visit("/?q=a+cat", viewport={"width": 400, "height": 600})
    expect(one.results).to_have_count(16)
    one.pictures.nth(12).scroll_into_view_if_needed()
    place = one.page.evaluate("scrollY")
    one.pictures.nth(12).click()
    expect(one.heading).to_have_text("Pictures like this one")
    one.page.wait_for_function("() => scrollY === 0")
    one.page.go_back()
    expect(one.heading).to_have_text("Pictures for “a cat”")
    one.page.wait_for_function("(place) => Math.abs(scrollY - place) < 50", arg=place)


def test_own_picture_goes_back_and_forward_but_not_into_a_link(visit: Open) -> None:
    one = visit()
    one.choose(CAT)
    expect(one.results.first).to_contain_text(CAT_CAPTIONS)
    expect(one.page.get_by_text("An address cannot hold your own picture")).to_be_visible()
    link = one.page.url
    one.ask("in the snow")
    expect(one.heading).to_have_text("Pictures like this one, with “in the snow”")
    one.page.go_back()
    expect(one.results.first).to_contain_text(CAT_CAPTIONS)
    other = visit(link)
    expect(other.notice).to_contain_text("which an address cannot hold")
    other.ask("a red motorcycle")
    expect(other.results.first).to_contain_text(MOTORCYCLE_CAPTIONS)
    assert asked(other) == {"q": ["a red motorcycle"]}


# -------------------------------------------------------------------------------------------- everybody, anywhere


def test_keyboard_alone(visit: Open) -> None:
    one = visit()
    expect(one.pictures.first).to_be_visible()
    keyboard, focused = one.page.keyboard, one.page.locator(":focus")
    for _ in range(3):  # the name of the page, the button for pictures, the bar
        keyboard.press("Tab")
    expect(one.bar).to_be_focused()
    keyboard.type("a cat")
    keyboard.press("Enter")
    expect(one.results.first).to_contain_text("A cat with green eyes")
    expect(one.bar).to_be_focused()
    for _ in range(20):
        keyboard.press("Tab")
        if focused.get_attribute("title") == "More like this":
            break
    assert focused.evaluate("link => getComputedStyle(link).outlineStyle") == "solid"
    keyboard.press("Enter")
    expect(one.heading).to_have_text("Pictures like this one")
    expect(one.heading).to_be_focused()


def test_keyboard_in_the_panel(visit: Open) -> None:
    one = visit()
    button = one.page.get_by_role("button", name="Add a picture")
    button.focus()
    expect(button).to_have_attribute("aria-expanded", "false")
    one.page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-expanded", "true")
    expect(one.page.get_by_role("button", name="Upload Files")).to_be_focused()
    one.page.keyboard.press("Tab")
    one.page.keyboard.press("Space")
    expect(one.page.get_by_role("combobox", name="Camera").get_by_role("option")).to_have_count(1)
    one.photograph()
    expect(one.page.get_by_role("button", name="search", exact=True)).to_be_focused()
    one.page.keyboard.press("Escape")
    expect(button).to_be_focused()
    expect(button).to_have_attribute("aria-expanded", "false")


def test_words_survive_the_panel_and_a_drag(visit: Open) -> None:
    one = visit()
    expect(one.pictures.first).to_be_visible()
    one.bar.fill("half a question")
    one.page.get_by_role("button", name="Add a picture").click()
    one.page.mouse.click(5, 800)  # beside the panel
    expect(one.page.get_by_role("button", name="Upload Files")).to_have_count(0)
    for event in ("dragenter", "dragleave"):
        one.page.dispatch_event("main", event)
    expect(one.page.get_by_text("Drop here")).to_have_count(0)
    expect(one.bar).to_have_value("half a question")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(visit: Open, scheme: str) -> None:
    one = visit(color_scheme=scheme, permissions=["camera"], reduced_motion="reduce")  # nothing is half faded in
    expect(one.pictures.first).to_be_visible()
    one.settle()
    found = {"arrival": one.violations()}
    one.page.get_by_role("button", name="Add a picture").click()
    found["panel"] = one.violations()
    one.page.get_by_role("button", name="Camera").click()
    expect(one.page.get_by_role("button", name="Take a picture")).to_be_visible()
    found["camera"] = one.violations()
    one.page.keyboard.press("Escape")
    one.page.dispatch_event("main", "dragenter")
    expect(one.page.get_by_text("Drop here")).to_be_visible()
    found["drop zone"] = one.violations()
    one.page.dispatch_event("main", "dragleave")
    one.ask("a cat")
    found["pictures"] = one.violations()
    one.page.get_by_text("Leave something out").click()
    one.screenshot(f"pictures-{scheme}")
    one.page.get_by_role("link", name="Captions of A cat with green eyes").click()
    expect(one.results).to_have_count(20)
    found["captions"] = one.violations()
    one.choose(CAT, MOTORCYCLE)
    expect(one.page.locator("#results section")).to_have_count(2)
    found["several"] = one.violations()
    one.drop(url="https://example.org/cat.png")
    expect(one.notice).to_contain_text("another site")
    found["notice"] = one.violations()
    assert found == {state: [] for state in found}


@pytest.mark.parametrize("width", [360, 768, 1280, 2560])
def test_any_width(visit: Open, width: int) -> None:
    one = visit(viewport={"width": width, "height": 800})
    expect(one.pictures.first).to_be_visible()
    assert one.overflow() == 0
    one.ask("a cat")
    expect(one.results).to_have_count(16)
    one.screenshot(f"width-{width}")
    assert one.overflow() == 0
    one.page.get_by_role("button", name="Add a picture").click()
    one.page.get_by_role("button", name="Camera").click()
    expect(one.page.get_by_role("button", name="Take a picture")).to_be_in_viewport()
    assert one.overflow() == 0
    one.page.keyboard.press("Escape")
    one.choose(CAT, MOTORCYCLE)
    expect(one.page.locator("#results section")).to_have_count(2)
    assert one.overflow() == 0


def test_dark(visit: Open) -> None:
    one = visit("/?q=a+red+motorcycle", color_scheme="dark")
    expect(one.results).to_have_count(16)
    one.screenshot("dark")
    assert one.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 21, 24)"
