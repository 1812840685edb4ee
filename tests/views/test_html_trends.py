"""The page of trends: self-contained, safe with any names, and as exact as the table."""

import base64
import hashlib
import re
from html import unescape
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

from made_runs import made, noise, retried

from flowspan.analysis.trends.answers import answer
from flowspan.views.html.charts import nice_ticks
from flowspan.views.html.trends import to_html
from flowspan.views.trend_words import sentences

HOSTILE = "</title><script>alert(1)</script><img src=x onerror='alert(2)'>&\"\x1b"


class _Elements(HTMLParser):
    """A parser that lists the elements of a page and checks that they nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes += attrs
        if tag not in {"meta", "link"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def a_page(flow: str = "nightly") -> str:
    """Make a page with every chart."""
    factor = noise(1, 0.05)
    runs = [
        made(d, (90 if d >= 30 else 60) * factor(), flow=flow, rows=round(1e6 * factor()))
        for d in range(60)
    ]
    runs += [made(d, 60, hour=5, flow=flow, result="failure") for d in (3, 4)]
    runs += [retried(d, 7, task=flow, error=flow) for d in range(5)]
    return to_html([answer(runs, target=0.95), answer([made(1, 60, flow="weekly")])])


def test_the_page_needs_nothing_else() -> None:
    """The page has no script and no external address, and its policy allows no more."""
    page = a_page()
    found = _Elements(page)
    assert found.open == []
    assert not found.names & {"script", "img", "iframe", "object", "form"}
    addresses = {value for name, value in found.attributes if name in {"src", "href"}}
    assert addresses == {"data:,", "#flow-0", "#flow-1"}
    assert not [name for name, _ in found.attributes if name == "style" or name.startswith("on")]
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'" in page
    assert "url(" not in style


def test_names_are_only_ever_text() -> None:
    """This holds for flows, tasks and errors in tables, titles and labels."""
    page = a_page(HOSTILE)
    found = _Elements(page)
    assert found.open == []
    assert not found.names & {"script", "img"}
    assert "\x1b" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 5


def test_every_chart_is_a_sound_image_with_a_name() -> None:
    """Its numbers are also in a table."""
    page = a_page()
    images = re.findall(r"<svg .*?</svg>", page, re.DOTALL)
    for image in images:
        root = ET.fromstring(image)  # noqa: S314 - made here
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert "nan" not in image
    charts = len(re.findall("<figure>", page))
    assert charts == page.count("<details><summary>Table: ")
    assert {*re.findall("<h3>(.*?)</h3>", page)} == {
        "Duration over time",
        "Share of the critical path",
        "Success by day",
        "Duration by weekday",
        "Duration against rows",
        "Retried tasks by hour of the day",
        "Retries",
    }
    assert page.count('class="failed"') == 2
    assert page.count('class="fit"') == 1


def test_the_page_says_what_the_terminal_says() -> None:
    """The sentences are the same word for word."""
    found = answer([made(d, 60 + d) for d in range(60)], target=0.9)
    page = unescape(to_html([found]))
    for sentence in sentences(found):
        assert sentence.text in page


def test_a_single_run_makes_a_page() -> None:
    """Its charts have one point."""
    page = to_html([answer([made(0, 60)])])
    assert _Elements(page).open == []
    assert "Trends of nightly" in page


def test_ticks_are_round_numbers() -> None:
    """They start at 0, and their number is about the requested one."""
    assert nice_ticks(100, 4) == [0, 50, 100]
    assert nice_ticks(7, 4) == [0, 2, 4, 6]
    assert nice_ticks(0, 4) == [0]
    assert len(nice_ticks(1e-9, 4)) in range(2, 6)
