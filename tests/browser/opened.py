"""A page in the browser, with its console messages and requests."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Locator, Page

# Counts the drawing calls of a frame, by wrapping the canvas before any script of the page runs.
_COUNT = """
window.drawn = { calls: 0, frames: [] };
for (const name of ["fillRect", "stroke", "fill", "fillText", "strokeRect"]) {
  const original = CanvasRenderingContext2D.prototype[name];
  CanvasRenderingContext2D.prototype[name] = function (...args) {
    window.drawn.calls += 1;
    return original.apply(this, args);
  };
}
const request = window.requestAnimationFrame.bind(window);
window.requestAnimationFrame = (does) => request((now) => {
  const [before, began] = [window.drawn.calls, performance.now()];
  does(now);
  window.drawn.frames.push([window.drawn.calls - before, performance.now() - began]);
});
"""


@dataclass
class Opened:
    """A page, the file of its trace, and its errors."""

    page: Page
    context: BrowserContext
    file: Path
    complaints: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, browser: Browser, file: Path, report: Path, settings: dict[str, Any]) -> "Opened":
        """Write the page of a trace with the command, and open it."""
        command(file, "--html", str(report))
        context = browser.new_context(
            **({"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"} | settings)
        )
        context.add_init_script(_COUNT)
        page = context.new_page()
        opened = cls(page, context, file)
        complain = opened.complaints.append
        page.on("console", lambda message: complain(f"console: {message.text}"))
        page.on("pageerror", lambda error: complain(f"error: {error}"))
        page.on("dialog", lambda dialog: complain(f"dialog: {dialog.message}"))
        page.on("request", lambda request: _only(report, request.url, complain))
        page.goto(report.as_uri())
        opened.settle()
        return opened

    def settle(self) -> None:
        """Wait until the page is drawn."""
        self.page.evaluate("new Promise(done => setTimeout(() => requestAnimationFrame(done), 0))")

    def press(self, *keys: str) -> None:
        """Press keys one after the other."""
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def search(self, text: str) -> None:
        """Type into the search box."""
        self.page.locator("#search").fill(text)
        self.settle()

    def rows(self) -> list[str]:
        """Return the names of the visible rows, from top to bottom."""
        self.page.evaluate("new Promise(requestAnimationFrame)")  # draws pending changes
        found = self.page.evaluate(
            """[...document.querySelectorAll("#rows .row:not([hidden])")]
              .map(row => [Number(row.getAttribute("aria-rowindex")),
                           row.querySelector(".label").textContent
                           + row.querySelector(".alias").textContent])
              .sort(([a], [b]) => a - b).map(([, name]) => name)"""
        )
        return list(found)

    def row(self, name: str) -> Locator:
        """Return a visible row by the name of its span."""
        return self.page.locator("#rows .row:not([hidden])").filter(
            has=self.page.get_by_text(name, exact=True)
        )

    def focused(self) -> str:
        """Return the name of the row with the keyboard focus."""
        return self.page.locator(
            f"#{self.page.locator('#rows').get_attribute('aria-activedescendant')} .label"
        ).inner_text()

    def stretch(self) -> str:
        """Return the interval of time in view."""
        return str(self.page.locator("#minimap").get_attribute("aria-valuetext"))

    def text(self, selector: str) -> str:
        """Return the text of one element."""
        return self.page.locator(selector).inner_text()

    def pixel(self, x: float, row: int, *, of: str = "#chart", down: float = 9) -> list[int]:
        """Return the colour at a share of the chart's width, in a row."""
        found = self.page.evaluate(
            """([of, x, y]) => {
              const canvas = document.querySelector(of);
              const width = canvas.clientWidth - 20;
              const copy = new OffscreenCanvas(canvas.width, canvas.height)
                .getContext("2d", { willReadFrequently: true });
              copy.drawImage(canvas, 0, 0);
              return [...copy.getImageData(10 + x * width, y, 1, 1).data];
            }""",
            [of, x, row * 22 + down],
        )
        return list(found)

    def close(self) -> None:
        """Close the page."""
        self.context.close()


def command(file: Path, *arguments: str) -> str:
    """Run ``flowspan timeline`` on a file, and return its output."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from flowspan.cli.main import main; main()",
            *("timeline", "--file", str(file), *arguments),
        ],
        capture_output=True,
        check=True,
    )
    return done.stdout.decode()


def as_json(file: Path) -> dict[str, Any]:
    """Return the JSON that ``flowspan timeline --json`` prints for a file."""
    found: dict[str, Any] = json.loads(command(file, "--json"))
    return found


def _only(report: Path, url: str, complain: Any) -> None:
    if url != report.as_uri():
        complain(f"request: {url[:200]}")
