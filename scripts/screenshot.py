"""Take the screenshot for README.md and docs/: the page of the demo's run."""

import argparse
import sys
from pathlib import Path
from typing import Final

from chromium import NoChromiumError, chromium

_WIDTH: Final = 1400
_HEIGHT: Final = 1150  # of the window, so that its timeline shows all rows of the demo
_MARGIN: Final = 16  # below the last table
_MOST: Final = 300_000  # bytes


def main() -> None:
    """Open a page and write its screenshot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    try:
        with chromium() as browser:
            page = browser.new_page(
                viewport={"width": _WIDTH, "height": _HEIGHT}, color_scheme="light"
            )
            page.goto(arguments.page.resolve().as_uri())
            page.locator("#rows").wait_for()
            end = page.locator("#tasks").evaluate("table => table.getBoundingClientRect().bottom")
            page.screenshot(
                path=arguments.picture,
                full_page=True,
                clip={"x": 0, "y": 0, "width": _WIDTH, "height": end + _MARGIN},
            )
    except NoChromiumError as error:
        sys.exit(str(error))
    size = arguments.picture.stat().st_size
    if size > _MOST:
        sys.exit(f"{arguments.picture} has {size:,} bytes, more than {_MOST:,}.")
    print(f"{arguments.picture}: {size:,} bytes")


if __name__ == "__main__":
    main()
