"""Start the system's Chromium for Playwright, which does not install its own here."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from playwright.sync_api import Browser, sync_playwright

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class NoChromiumError(Exception):
    """No Chromium was found; the message says what to do."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run Chromium without a window.

    Raises:
        NoChromiumError: No Chromium was found.
    """
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        raise NoChromiumError(
            f"No Chromium found on PATH: looked for {', '.join(_NAMES)}. On Debian: apt-get install"
            " chromium. If it is elsewhere, set CHROMIUM=/path/to/it"
        )
    # Chromium has no sandbox for root, as in a container.
    arguments = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()
