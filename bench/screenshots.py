"""Reports in a browser without a screen, and pictures of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass
class Opened:
    """A report that was opened.

    Attributes:
        page: of playwright.
        requests: addresses that the browser asked for.
        complaints: what it said meanwhile.
    """

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def keep(self, picture: Path) -> None:
        """Keeps a picture of the whole page, as PNG."""
        self.page.screenshot(path=picture, full_page=True)


@contextmanager
def chromium() -> Iterator[Any]:
    """The system's Chromium, or else playwright's own; None if there is neither.

    Raises:
        ImportError: playwright is not installed.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = shutil.which("chromium") or shutil.which("chromium-browser")
        found = found or playwright.chromium.executable_path
        if not Path(found).exists():
            yield None
            return
        started = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        try:
            yield started
        finally:
            started.close()


def opened(browser: Any, report: Path, *, width: int = 1280, scheme: str = "light") -> Opened:
    """Opens a report.

    Args:
        browser: that ``chromium`` started.
        report: a file.
        width: of the window, in CSS pixels.
        scheme: ``light`` or ``dark``.
    """
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    found = Opened(page)
    page.on("request", lambda request: found.requests.append(request.url))
    page.on("console", lambda message: found.complaints.append(message.text))
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.goto(report.as_uri(), wait_until="networkidle")
    return found
