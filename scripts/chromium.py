"""Start the Chromium of the system, which Playwright drives; it brings none of its own here."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from playwright.sync_api import Browser, sync_playwright

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class NoChromiumError(Exception):
    """There is no Chromium to be found; the message says what to do."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run a Chromium without a window.

    Raises:
        NoChromiumError: There is none.
    """
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        raise NoChromiumError(
            f"No Chromium here: looked for {', '.join(_NAMES)}. On Debian: apt-get install"
            " chromium. One that lies elsewhere: CHROMIUM=/path/to/it"
        )
    # For root, as in a container, Chromium has no sandbox.
    arguments = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()
