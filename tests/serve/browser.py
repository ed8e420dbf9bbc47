"""A real Chromium for tests of the page, headless: Debian's, which `.ci/system-packages.sh` installs."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = (
    "--no-sandbox",  # root has none
    "--use-fake-device-for-media-stream",  # a camera that shows a test picture, and is always allowed
    "--use-fake-ui-for-media-stream",
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (.ci/system-packages.sh installs Debian's)"
)


@contextmanager
def started() -> Iterator[Browser]:
    """A browser. While it is there, nothing else in this thread can run an event loop."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, url: str, **context: Any) -> Iterator[Page]:
    """The page of the service at `url`, once it knows what the service offers (or asks for a key).

    Fails where a script failed, the browser refused something, or anything was asked of another server.
    """
    faults: list[str] = []

    def note(message: ConsoleMessage) -> None:
        # That a request was answered by 4xx or 5xx is noted by the browser itself.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            faults.append(message.text)

    held = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce", **context})
    page = held.new_page()
    page.set_default_timeout(20_000)
    page.on("console", note)
    page.on("pageerror", lambda error: faults.append(str(error)))
    # From the start: asked for only when a dialog is about to open, Chromium may open a real one that nobody sees.
    page.on("filechooser", lambda chooser: None)
    page.on("request", lambda sent: None if sent.url.startswith((url, "blob:")) else faults.append(sent.url))
    try:
        page.goto(f"{url}/")
        page.locator("#bench:not([hidden]), #ask:not([hidden])").first.wait_for()
        yield page
    finally:
        held.close()
    assert not faults


def bring(page: Page, photo: bytes, name: str = "photo.png") -> None:
    """Choose a photo, as the file dialog does."""
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": photo})
    page.get_by_role("button", name="Another photo").wait_for()


def apply(page: Page) -> None:
    """Press Apply and wait for the result."""
    page.get_by_role("button", name="Apply").click()
    page.get_by_role("heading", name="Result").wait_for()


def choose(page: Page, *steps: str) -> None:
    """Only these steps, by their names in requests."""
    for box in page.locator("input[name=step]").all():
        box.set_checked(box.get_attribute("value") in steps)
