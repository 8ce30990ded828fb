"""A real browser for the tests of the page: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, expect, sync_playwright

from tests.conftest import ROOT, Server

ARTIFACTS = ROOT / "test-artifacts"
AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
PATIENCE = 60_000
"""Milliseconds after which an expectation is given up; a shared machine answers slowly at times."""

expect.set_options(timeout=PATIENCE)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running Chromium with a camera that shows a test picture; skips the tests where there is none."""
    program = shutil.which("chromium")
    if not program:
        pytest.skip("no chromium (Debian's package) on this machine")
    if not AXE.is_file():
        pytest.skip("the page's development packages are missing: `npm ci` in web/, which `make test` does")
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=camera)
        yield browser
        browser.close()


class Visit:
    """The page as one person sees it, in a browser profile of its own.

    Args:
        settings: of Playwright's ``new_context``, such as ``viewport`` and ``color_scheme``.
    """

    def __init__(self, browser: Browser, server: Server, **settings: Any) -> None:
        self.server = server
        settings = {"viewport": {"width": 1280, "height": 900}, **settings}
        self.context = browser.new_context(base_url=server.url, **settings)
        self.context.set_default_timeout(PATIENCE)
        self.page: Page = self.context.new_page()
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self.tolerated = "nothing"
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._see)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error" and self.tolerated not in message.text:
            self.errors.append(message.text)

    def _see(self, request: Request) -> None:
        if not request.url.startswith((self.server.url, "data:", "blob:")):
            self.foreign.append(request.url)

    def tolerate(self, words: str = "Failed to load resource") -> None:
        """From now on, errors with these words are expected on the console."""
        self.tolerated = words

    def open(self, path: str = "/") -> Visit:
        self.page.goto(path)
        return self

    @property
    def bar(self) -> Locator:
        return self.page.get_by_role("searchbox", name="Describe what you look for")

    @property
    def results(self) -> Locator:
        """What was found, best first: pictures or captions."""
        return self.page.locator("#results li:has(.score)")

    @property
    def pictures(self) -> Locator:
        """The links that ask with a picture that is shown."""
        return self.page.locator("#results a.frame")

    @property
    def heading(self) -> Locator:
        return self.page.locator("#results h2")

    @property
    def notice(self) -> Locator:
        return self.page.get_by_role("alert")

    def ask(self, words: str) -> None:
        """Type words and wait until their results are there."""
        self.bar.fill(words)
        self.bar.press("Enter")
        expect(self.heading).to_contain_text(words)
        self.settle()

    def settle(self) -> None:
        """Wait until nothing is being searched."""
        expect(self.page.locator("body.busy")).to_have_count(0)

    def choose(self, *files: Path | dict[str, Any]) -> None:
        """Choose files in Jina Box's panel."""
        with self.page.expect_file_chooser() as chooser:
            self.page.get_by_role("button", name="Add a picture").click()
            self.page.get_by_role("button", name="Upload Files").click()
        chooser.value.set_files(list(files))  # type: ignore[arg-type]

    def photograph(self) -> None:
        """Press the shutter in Jina Box's panel when the camera shows something."""
        shutter = self.page.get_by_role("button", name="Take a picture")
        expect(shutter).to_be_focused()
        self.page.wait_for_function("() => document.querySelector('.jina-capture-preview').videoWidth")
        shutter.press("Enter")

    def drop(self, *files: Path, on: str = "main", url: str = "", text: str = "") -> None:
        """Drop files or texts at the upper left of an element, as the system hands them to the browser."""
        box = self.page.locator(on).bounding_box()
        assert box
        texts = {"text/uri-list": url, "text/plain": text}
        data = {
            "items": [{"mimeType": kind, "data": words} for kind, words in texts.items() if words],
            "files": [str(file) for file in files],
            "dragOperationsMask": 1,
        }
        session = self.context.new_cdp_session(self.page)
        for event in ("dragEnter", "dragOver", "drop"):
            place = {"x": box["x"] + 8, "y": max(box["y"], 0) + 8}
            session.send("Input.dispatchDragEvent", {"type": event, **place, "data": data})
        session.detach()

    def wait_for_pictures(self) -> None:
        """Wait until the pictures on the screen are drawn."""
        self.page.wait_for_function(
            """() => [...document.querySelectorAll("main img")].every((image) =>
                image.getBoundingClientRect().top > innerHeight || (image.complete && image.naturalWidth))"""
        )

    def screenshot(self, name: str) -> None:
        """Keep what is on the screen as a test artefact."""
        self.wait_for_pictures()
        ARTIFACTS.mkdir(exist_ok=True)
        self.page.screenshot(path=ARTIFACTS / f"page-{name}.png")

    def violations(self) -> list[str]:
        """What axe-core finds that is serious or critical."""
        self.page.evaluate(AXE.read_text())
        found = self.page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
        grave = [one for one in found if one["impact"] in ("serious", "critical")]
        return [f"{one['id']}: {[node['html'] for node in one['nodes']]}" for one in grave]

    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def close(self) -> None:
        self.context.close()


Open = Callable[..., Visit]


@contextmanager
def visits(browser: Browser, server: Server) -> Iterator[Open]:
    """Opens the page any number of times; in the end no console had an error, and nobody else was asked."""
    opened: list[Visit] = []

    def open_(path: str = "/", **settings: Any) -> Visit:
        opened.append(Visit(browser, server, **settings))
        return opened[-1].open(path)

    yield open_
    for visit in opened:
        visit.close()
        assert not visit.errors, visit.errors
        assert not visit.foreign, visit.foreign


def record(**figures: float) -> None:
    """Add figures to the file that is kept as a test artefact."""
    ARTIFACTS.mkdir(exist_ok=True)
    file = ARTIFACTS / "page-figures.json"
    known = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**known, **figures}, indent=2) + os.linesep)
    print(figures)
