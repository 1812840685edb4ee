"""The page of a trace in a real Chromium, opened from disk as users open it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect
from span_files import EPOCH, raw_line, raw_span

from chromium import NoChromiumError, chromium
from flowspan.text import human
from opened import Opened, as_json
from traces import TRACE_ID, flow, many, nightly, task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

    Open = Callable[..., Opened]

_TREE = [
    "RUN nightly",
    "extract",
    "clean",
    "attempt 1",
    "attempt 2",
    "RUN enrich",
    "look_up",
    "publish",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium, shared by all tests of a session."""
    try:
        with chromium() as started:
            yield started
    except NoChromiumError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Write the page of a file with the command, and open it from disk.

    No test may cause messages on the console or requests to the network.
    """
    pages: list[Opened] = []

    def open_page(file: Path, **settings: Any) -> Opened:
        pages.append(Opened.of(browser, file, tmp_path / "report.html", settings))
        return pages[-1]

    yield open_page
    for page in pages:
        page.close()
        assert page.complaints == []


@pytest.fixture
def page(opened: Open, tmp_path: Path) -> Opened:
    """Open the page of the nightly run."""
    return opened(nightly(tmp_path))


def test_the_head_tells_the_run_and_its_bottleneck(page: Opened) -> None:
    """Name, result, start, duration and the same sentence as on the terminal and in the JSON."""
    assert page.page.title() == "nightly meaty-vicugna"
    assert (page.text("#flow"), page.text("#run")) == ("nightly", "meaty-vicugna")
    assert page.text("#ending") == "✓ success"
    assert {"10.0 s", "6 runs", "8 spans"} <= set(page.text("#about").split(" · "))
    assert page.text("#headline") == as_json(page.file)["headline"]
    assert page.text("#headline").startswith("clean is the bottleneck")


def test_every_number_on_the_page_is_that_of_the_json(page: Opened) -> None:
    """Each cell names its key, has the exact value, and shows it like the terminal."""
    document = as_json(page.file)
    cells = page.page.evaluate(
        """[...document.querySelectorAll("[data-field]:not(#details *)")].map(cell => [
          cell.closest("tr")?.dataset.place ?? null, cell.dataset.field, cell.dataset.value,
          cell.textContent.trim()])"""
    )
    root = document["root"]
    document["duration"] = (root["end"] - root["start"]) / 1e9
    told: set[str] = set()
    for place, field, value, text in cells:
        of = document if place is None else document["tasks"][int(place)]
        exact = of
        for key in field.split("."):
            exact = exact.get(key) if exact is not None else None
        if field.startswith(("causes.", "waiting.")) and exact is None:
            exact = 0  # a cause of one column that the other one lacks
        shown = value if isinstance(exact, str) else json.loads(value or "null")
        assert shown == exact, (place, field)
        if isinstance(exact, float) and not re.search("share|mean|efficiency", field):
            assert text.split(" for ")[0] in (human(round(exact * 1e9)), "·"), (place, field)
        told.add(field)
    assert len({place for place, *_ in cells}) == 1 + len(document["tasks"])
    assert {f"causes.{cause}" for cause in document["causes"]} <= told
    assert {f"waiting.{cause}" for cause in document["waiting"]} <= told
    assert {"share", "path", "cause", "slack", "drag", "saved", "runs", "failed"} <= told
    assert {"concurrency.mean", "concurrency.peak", "concurrency.efficiency"} <= told
    assert {"retry_cost.total", "orchestration.total", "rows.output"} <= told


def test_the_rows_are_the_tree_with_its_attempts(page: Opened) -> None:
    """Failed and retried attempts have rows; failures have a sign."""
    assert page.rows() == _TREE
    assert page.row("publish").locator(".sign").inner_text() == "✗"
    assert page.row("attempt 1").locator(".sign").inner_text() == "✗"
    assert page.row("extract").locator(".sign").inner_text() == ""
    assert page.row("attempt 2").get_attribute("aria-level") == "3"
    assert page.row("clean").get_attribute("aria-setsize") == "4"


def test_bars_are_to_scale_and_each_phase_has_its_look(page: Opened) -> None:
    """The chart spans from the first wait to the end, here from 0 to 10 seconds."""
    execution, dependencies = page.pixel(0.12, 1), page.pixel(0.15, 2)
    nothing = [0, 0, 0, 0]
    assert page.pixel(0.04, 1) == nothing
    assert page.pixel(0.21, 1) == nothing
    assert execution != nothing
    assert dependencies not in (nothing, execution)
    assert page.pixel(0.5, 2) == execution
    assert page.pixel(0.275, 2) != execution  # the wait for the retry
    failed = page.pixel(0.92, 7)
    assert failed not in (nothing, execution)
    assert page.pixel(0.22, 3) == failed


def test_the_critical_path_runs_below_the_bars(page: Opened) -> None:
    """The path is drawn where the JSON says it is."""
    nothing = [0, 0, 0, 0]
    rows = [f"{number:016x}" for number in (1, 2, 3, 4, 5, 6, 7, 8)]
    for step in as_json(page.file)["critical_path"]:
        middle = ((step["start"] + step["end"]) / 2 - EPOCH) / 10e9
        if step["end"] - step["start"] > 0.1e9:
            row = rows.index(step["span_id"])
            assert page.pixel(middle, row, down=19) != nothing, step
    assert page.pixel(0.45, 0, down=19) == nothing
    assert page.row("clean").locator(".share").inner_text() != ""


def test_folding_hides_what_a_row_calls(page: Opened) -> None:
    """Folding works with the pointer and with the arrow keys."""
    page.row("clean").locator(".fold").click()
    assert "attempt 1" not in page.rows()
    page.press("ArrowRight")
    assert page.rows() == _TREE
    page.page.locator("#fold").click()
    assert page.rows() == ["RUN nightly", "extract", "clean", "RUN enrich", "publish"]
    page.page.locator("#unfold").click()
    assert page.rows() == _TREE


def test_the_keyboard_reaches_everything_in_the_tree(page: Opened) -> None:
    """Arrows, Home and End move; Enter opens details and Escape closes them."""
    page.page.locator("#rows").focus()
    assert page.focused() == "RUN nightly"
    page.press("ArrowDown", "ArrowDown")
    assert page.focused() == "clean"
    page.press("ArrowRight", "ArrowRight")
    assert page.focused() == "attempt 1"
    page.press("ArrowLeft")
    assert page.focused() == "clean"
    page.press("ArrowLeft")
    assert page.row("clean").get_attribute("aria-expanded") == "false"
    page.press("End")
    assert page.focused() == "publish"
    page.press("Enter")
    assert page.text("#details h3") == "publish"
    page.press("Home")
    assert page.text("#details h3") == "RUN nightly"
    page.press("Escape")
    expect(page.page.locator("#details")).to_be_hidden()
    assert page.page.evaluate("document.activeElement.id") == "rows"


def test_zoom_and_pan_by_keys(page: Opened) -> None:
    """Plus and minus zoom, Shift with an arrow moves, 0 shows everything."""
    page.page.locator("#rows").focus()
    assert page.stretch() == "0:00.000 to 0:10.000"
    page.press("+", "+")
    assert page.stretch() == "0:02.777 to 0:07.222"
    page.press("Shift+ArrowRight")
    assert page.stretch() == "0:03.666 to 0:08.111"
    page.press("-")
    assert page.stretch() == "0:02.555 to 0:09.222"
    page.press("0")
    assert page.stretch() == "0:00.000 to 0:10.000"
    page.press("-")
    assert page.stretch() == "0:00.000 to 0:10.000"


def test_zoom_and_pan_by_pointer(page: Opened) -> None:
    """Ctrl and the wheel zoom at the pointer, dragging moves, the minimap selects."""
    box = page.page.locator("#chart").bounding_box()
    assert box is not None
    middle = box["x"] + box["width"] / 2
    page.page.mouse.move(middle, box["y"] + 30)
    page.page.keyboard.down("Control")
    page.page.mouse.wheel(0, -300)
    page.page.keyboard.up("Control")
    page.settle()
    before = page.stretch()
    assert before == "0:03.160 to 0:06.839"
    page.page.mouse.down()
    page.page.mouse.move(middle - 200, box["y"] + 30, steps=4)
    page.page.mouse.up()
    page.settle()
    assert page.stretch() > before
    expect(page.page.locator("#details")).to_be_hidden()
    page.press("0")
    small = page.page.locator("#minimap").bounding_box()
    assert small is not None
    left, width = small["x"] + 10, small["width"] - 20
    page.page.mouse.move(left + width * 0.2, small["y"] + 10)
    page.page.mouse.down()
    page.page.mouse.move(left + width * 0.6, small["y"] + 10, steps=3)
    page.page.mouse.up()
    page.settle()
    start, end = (float(time[2:]) for time in page.stretch().split(" to "))
    assert start == pytest.approx(2, abs=0.02)
    assert end == pytest.approx(6, abs=0.02)


def test_zooming_moves_what_is_drawn(page: Opened) -> None:
    """A bar to the left of the visible interval is no longer drawn."""
    page.page.locator("#rows").focus()
    assert page.pixel(0.12, 1) != [0, 0, 0, 0]
    page.press("End", "z")
    assert page.stretch() == "0:08.950 to 0:09.550"
    assert page.pixel(0.12, 1) == [0, 0, 0, 0]


def test_search_finds_names_attributes_and_messages(page: Opened) -> None:
    """Search counts the hits, moves from one to the next, and unfolds rows that hide them."""
    page.page.locator("#fold").click()
    page.press("/")
    page.page.keyboard.type("attempt")
    page.settle()
    assert (page.text("#hits"), page.focused()) == ("1 of 2", "attempt 1")
    page.press("Enter")
    assert (page.text("#hits"), page.focused()) == ("2 of 2", "attempt 2")
    page.press("Shift+Enter")
    assert page.text("#hits") == "1 of 2"
    assert "hit 1 of 2" in page.text("#said")
    for text, name in (("tromsø", "look_up"), ("FORBIDDEN", "publish"), ("clean-002", "clean")):
        page.search(text)
        assert (page.text("#hits"), page.focused()) == ("1 of 1", name)
    page.search("nowhere")
    assert page.text("#hits") == "none"
    page.press("Escape")
    assert page.page.locator("#search").input_value() == ""


def test_details_tell_all_of_a_span(page: Opened) -> None:
    """Exact times, phases, attributes, and the spans that it depends on."""
    page.row("clean").click()
    details = page.text("#details")
    assert "6,400,000,000 ns" in details
    assert re.search(r"dependencies\s+1\.40 s", details)
    assert "prefect.run.count" in details
    assert "clean-002" in details
    page.page.locator("#details").get_by_role("button", name="extract extract-001").click()
    assert page.text("#details h3") == "extract"
    assert page.focused() == "extract"
    page.row("publish").click()
    assert page.text("#details .message") == "403 Forbidden"


def test_details_hold_the_logs_of_a_span(opened: Open, tmp_path: Path) -> None:
    """The folder's log lines are included automatically; with a level, only those."""
    file = nightly(tmp_path)
    line = {
        "timeUnixNano": str(EPOCH + 1_000_000_000),
        "severityNumber": 13,
        "body": {"stringValue": "</script><b>slow</b> disk"},
        "traceId": TRACE_ID,
        "spanId": f"{2:016x}",
    }
    owner = {"scopeLogs": [{"logRecords": [line]}]}
    (tmp_path / "logs.jsonl").write_text(json.dumps({"resourceLogs": [owner]}) + "\n")
    page = opened(file)
    page.row("extract").click()
    assert "0:01.000WARNING</script><b>slow</b> disk" in page.text("#details .logs")
    page.search("slow</b>")
    assert page.text("#hits") == "1 of 1"


def test_arrows_lead_from_what_a_span_waited_for(page: Opened) -> None:
    """Arrows are drawn for the row below the pointer, and only for that one."""
    page.page.locator("#rows").focus()

    def blue() -> int:
        return int(
            page.page.evaluate(
                """(() => {
                  const canvas = document.querySelector("#chart");
                  const copy = new OffscreenCanvas(canvas.width, canvas.height)
                    .getContext("2d", { willReadFrequently: true });
                  copy.drawImage(canvas, 0, 0);
                  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
                  let count = 0;
                  for (let i = 0; i < data.length; i += 4)
                    count += data[i] === 11 && data[i + 1] === 98 && data[i + 2] === 196;
                  return count;
                })()"""
            )
        )

    assert blue() == 0
    page.row("clean").hover(position={"x": 20, "y": 8})
    page.settle()
    assert blue() > 50


def test_lanes_show_who_ran_what(page: Opened) -> None:
    """Each thread has a lane; overlapping spans, such as a flow and its tasks, have levels."""
    page.press("l")
    assert page.text("#name-head") == "Worker"
    assert page.rows() == ["MainThread", "level 2", "level 3", "pool-0"]
    nothing = [0, 0, 0, 0]
    assert page.pixel(0.4, 3) != nothing
    assert page.pixel(0.8, 3) == nothing
    assert page.pixel(0.1, 1) != nothing
    page.page.locator("#rows").focus()
    page.press("End", "Enter")
    assert page.text("#details h3") == "clean"
    page.press("l")
    assert page.rows() == _TREE


def test_the_path_alone_hides_what_it_does_not_touch(page: Opened) -> None:
    """Rows that lead to one on the path stay."""
    on_path = {step["span_id"] for step in as_json(page.file)["critical_path"]}
    page.press("p")
    assert page.page.locator("#path-only").get_attribute("aria-pressed") == "true"
    shown = page.page.evaluate(
        """[...document.querySelectorAll("#rows .row:not([hidden])")]
          .map(row => row.dataset.span)"""
    )
    assert on_path <= set(shown)
    assert "attempt 1" not in page.rows()
    page.search("attempt 1")
    assert "attempt 1" in page.rows()


def test_light_and_dark(opened: Open, tmp_path: Path) -> None:
    """The system's theme until the user chooses another; bars and rows change together."""
    file = nightly(tmp_path)
    light, dark = opened(file), opened(file, color_scheme="dark")

    def ground(page: Opened) -> str:
        style = "getComputedStyle(document.documentElement).backgroundColor"
        return str(page.page.evaluate(style))

    assert (ground(light), ground(dark)) == ("rgb(255, 255, 255)", "rgb(18, 22, 28)")
    assert light.pixel(0.12, 1) != dark.pixel(0.12, 1)
    light.press("t")
    assert ground(light) == ground(dark)
    assert light.pixel(0.12, 1) == dark.pixel(0.12, 1)
    dark.page.locator("#theme").click()
    dark.settle()
    assert ground(dark) == "rgb(255, 255, 255)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(opened: Open, tmp_path: Path, scheme: str) -> None:
    """At least 4.5 to 1, as WCAG requires for text, for every text colour."""
    page = opened(nightly(tmp_path), color_scheme=scheme)
    colours = page.page.evaluate(
        """Object.fromEntries(
          ["ground", "raised", "text", "quiet", "accent", "good", "bad", "odd"].map(name => [name,
            getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim()]))"""
    )
    for ground in ("ground", "raised"):
        for text in ("text", "quiet", "accent", "good", "bad", "odd"):
            assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


def test_paper_is_light_and_has_the_whole_of_it(opened: Open, tmp_path: Path) -> None:
    """All rows over the whole time, no controls, full tables; even from a dark, zoomed page."""
    page = opened(nightly(tmp_path), color_scheme="dark")
    page.page.locator("#rows").focus()
    page.press("+", "+")
    page.page.emulate_media(media="print")
    page.settle()
    names = page.page.locator(".paper-name").all_inner_texts()
    assert [name.strip() for name in names] == _TREE
    bars = page.page.locator(".paper-row svg").nth(1).locator("rect[fill^='url']")
    assert [round(float(bars.first.get_attribute(name) or 0)) for name in ("x", "width")] == [
        50,
        150,
    ]
    for hidden in ("#frame", "#search", "#theme", "#zoom-in"):
        expect(page.page.locator(hidden)).to_be_hidden()
    expect(page.page.locator("#tasks")).to_be_visible()
    style = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.page.evaluate(style) == "rgb(255, 255, 255)"
    assert page.page.pdf(prefer_css_page_size=True).startswith(b"%PDF")


def test_what_a_trace_says_is_never_html(opened: Open, tmp_path: Path) -> None:
    """Markup in names, attributes, messages and the title stays text."""
    evil = "</script><img src=x onerror=alert(1)><!--{{data}}"
    root = flow(0, "nightly", 0, 10, None)
    root["name"] = f"RUN {evil}"
    root["attributes"][3]["value"]["stringValue"] = evil
    child = task(1, evil, 1, 9, error=evil, note=evil)
    (tmp_path / "traces.jsonl").write_text(raw_line(root, child))
    page = opened(tmp_path / "traces.jsonl")
    page.row(evil).click()
    assert page.text("#flow") == evil
    assert page.text("#details h3") == evil
    assert page.text("#details .message") == evil
    page.search(evil)
    assert page.text("#hits") == "1 of 2"
    assert page.page.title().startswith(evil)
    page.page.emulate_media(media="print")
    page.settle()
    assert page.page.locator("img, [onerror]").count() == 0


def test_the_policy_forbids_what_the_page_does_not_need(page: Opened) -> None:
    """An injected script does not run, and the network cannot be reached."""
    page.page.evaluate(
        """const script = document.createElement("script");
           script.textContent = "window.gotIn = true";
           document.body.append(script);"""
    )
    asked = page.page.evaluate("fetch('data:text/plain,x').then(() => true, () => false)")
    assert page.page.evaluate("window.gotIn") is None
    assert asked is False
    assert page.complaints != []
    assert all("Content Security Policy" in one for one in page.complaints)
    page.complaints.clear()


def test_no_nanosecond_is_lost(opened: Open, tmp_path: Path) -> None:
    """Neither if times need more than 53 bits, nor if they start at 0."""
    spans = [
        raw_span(1, startTimeUnixNano="1", endTimeUnixNano="18446744073709551615"),
        raw_span(
            2,
            parentSpanId=f"{1:016x}",
            startTimeUnixNano="9007199254740995",
            endTimeUnixNano="9007199254740998",
        ),
    ]
    (tmp_path / "traces.jsonl").write_text(raw_line(*spans))
    page = opened(tmp_path / "traces.jsonl")
    page.row("span 1").click()
    assert page.text("#details [data-field=duration]") == "18,446,744,073,709,551,614 ns"
    page.row("span 2").click()
    assert page.text("#details [data-field=duration]") == "3 ns"
    assert ".254740995 " in page.text("#details [data-field=start]")


def test_durations_read_as_in_the_terminal(page: Opened) -> None:
    """The page formats durations itself, by the same rules."""
    shown = [0, 1, 49_999, 50_000, 999_499, 12_500_000, 13_500_000, 999_499_999, 999_500_001]
    shown += [9_994_999_999, 9_995_000_001, 59_949_999_999, 59_950_000_001, 3_599_500_000_000]
    shown += [86_399_400_000_000, 86_400_000_000_000, 10**18]
    # The scripts export nothing, so this evaluates the source of the function.
    source = page.page.locator("script:not([type])").inner_text()
    functions = "\n".join(
        re.search(rf"^function {name}\(.*?^}}", source, re.DOTALL | re.MULTILINE)[0]  # type: ignore[index]
        for name in ("fixed", "grouped", "human")
    )
    run = f"(times) => {{ const MS = 1e6, SECOND = 1e9; {functions}; return times.map(human); }}"
    assert page.page.evaluate(run, shown) == [human(time) for time in shown]


def test_spans_that_are_not_flowspans_own_say_so(opened: Open, tmp_path: Path) -> None:
    """A plain trace has rows, a path and a table, and fewer answers."""
    spans = [raw_span(1), raw_span(2, parentSpanId=f"{1:016x}")]
    (tmp_path / "traces.jsonl").write_text(raw_line(*spans))
    page = opened(tmp_path / "traces.jsonl")
    assert page.rows() == ["span 1", "span 2"]
    assert "not flowspan's" in page.text("#source")


def test_a_trace_without_length_opens(opened: Open, tmp_path: Path) -> None:
    """There is nothing to divide by, and no bottleneck."""
    spans = [raw_span(1, endTimeUnixNano=str(EPOCH + 1), name="")]
    (tmp_path / "traces.jsonl").write_text(raw_line(*spans))
    page = opened(tmp_path / "traces.jsonl")
    assert page.rows() == ["(no name)"]
    page.press("l", "+", "p", "p", "0", "l")
    page.row("(no name)").click()
    assert page.text("#details [data-field=duration]") == "0 ns"


def test_a_small_window_shows_all_of_it(opened: Open, tmp_path: Path) -> None:
    """Nothing makes the page wider than the window, and names keep some space."""
    page = opened(nightly(tmp_path), viewport={"width": 380, "height": 700})
    page.row("clean").click()
    page.settle()
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 380
    assert page.row("extract").locator(".label").bounding_box()["width"] > 40  # type: ignore[index]
    assert page.page.locator("#chart").bounding_box()["width"] > 150  # type: ignore[index]
    expect(page.page.locator("#details")).to_be_visible()


def test_ten_thousand_spans_stay_fluid(opened: Open, tmp_path: Path) -> None:
    """The work per frame and the number of elements depend only on what is visible."""
    page = opened(many(tmp_path, 10_000))
    elements = "document.querySelectorAll('*').length"
    few = page.page.evaluate(elements)
    assert few < 1_500
    page.page.locator("#rows").focus()
    page.page.evaluate("window.drawn.frames.length = 0")
    for key in (*["PageDown"] * 30, *["+"] * 8, *["Shift+ArrowRight"] * 10, "End", "0"):
        page.press(key)
    page.page.evaluate(
        """async () => {
          const scroller = document.querySelector("#scroller");
          for (let top = 0; top < 220000; top += 4000) {
            scroller.scrollTop = top;
            await new Promise(requestAnimationFrame);
          }
        }"""
    )
    page.press("l")
    for key in (*["+"] * 8, *["Shift+ArrowRight"] * 10, "0"):
        page.press(key)
    frames = page.page.evaluate("window.drawn.frames")
    calls = sorted(calls for calls, _ in frames)
    times = sorted(time for _, time in frames)
    middle, most = len(frames) // 2, int(len(frames) * 0.99)
    print(f"\n{len(frames)} frames: {times[middle]:.1f} ms, 99 %: {times[most]:.1f} ms")
    print(f"calls to draw: {calls[middle]}, at most {calls[-1]}; elements: {few}")
    assert len(frames) > 100
    # A pixel is the smallest unit drawn, so lanes of 1,000 busy pixels are the worst case.
    assert calls[-1] < 32 * 1_500
    assert page.page.evaluate(elements) < few + 200
    page.search("stage4")
    assert page.text("#hits") == "1 of 2,000"


def _contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours (https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
