"""A tree drawn in a terminal."""

from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.text import Text
from span_files import EPOCH, Plan, attempt, raw_line, raw_span, run, write

from flowspan.analysis import tree
from flowspan.analysis.phases import Segment
from flowspan.read import trace_files
from flowspan.text import human, moment
from flowspan.views.terminal import timeline
from flowspan.views.terminal.timeline import Axis, cells

SECOND = 10**9


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give each test an empty folder for its files."""
    return tmp_path


def draw(folder: Path, root: Plan, width: int = 100, *, unicode: bool = True) -> list[str]:
    """Draw a trace and return its lines."""
    file = folder / "traces.jsonl"
    file.unlink(missing_ok=True)
    write(file, root)
    return lines(file, width, unicode=unicode)


def lines(file: Path, width: int, *, unicode: bool = True) -> list[str]:
    """Draw the trace in a file and return its lines."""
    built = tree.build(trace_files.load(file).spans)
    return [text.plain.rstrip() for text in timeline.draw(built, width=width, unicode=unicode)]


def body(drawn: list[str]) -> list[str]:
    """Return the rows and notes, without header, columns and legend."""
    return drawn[5 : len(drawn) - 1 - drawn[::-1].index("")]


def bar(drawn: list[str], name: str) -> dict[str, tuple[float, float]]:
    """Return the part of the axis that each glyph of a row takes, in fractions of its width."""
    columns = drawn[4]
    left = columns.index("0", columns.index("duration"))
    row = next(line for line in drawn[5:] if name in line)[left:]
    width = 100 - left
    return {
        glyph: (row.index(glyph) / width, (row.rindex(glyph) + 1) / width)
        for glyph in set(row.strip()) - {" "}
    }


def test_bars_are_to_scale(folder: Path) -> None:
    """A bar starts and ends where its span does on the axis of the whole trace."""
    drawn = draw(folder, run("RUN etl", 0, 10, run("a", 2.5, 5), run("b", 5, 10)))
    assert bar(drawn, "RUN etl")["█"] == (0, 1)
    assert bar(drawn, " a ")["█"] == pytest.approx((0.25, 0.5), abs=0.02)
    assert bar(drawn, " b ")["█"] == pytest.approx((0.5, 1), abs=0.02)


def test_each_wait_has_its_glyph_in_its_place(folder: Path) -> None:
    """Waits before the span are in front of its bar, other waits inside it."""
    totals: dict[str, Any] = {
        "late": 2.0,
        "infrastructure": 1.0,
        "queue": 1.0,
        "dependencies": 1.0,
        "concurrency": 2.0,
        "execution": 2.0,
        "orchestration": 1.0,
    }
    parts = bar(draw(folder, run("RUN etl", 4, 10, **totals)), "RUN etl")
    expected = {
        "·": (0, 0.2),
        "╍": (0.2, 0.3),
        "─": (0.3, 0.4),
        "░": (0.4, 0.5),
        "▞": (0.5, 0.7),
        "█": (0.7, 0.9),
        "▒": (0.9, 1),
    }
    assert parts.keys() == expected.keys()
    for glyph, place in expected.items():
        assert parts[glyph] == pytest.approx(place, abs=0.03)


def test_hours_of_lateness_leave_room_for_the_run(folder: Path) -> None:
    """Waits before the first span are cut to twice the width of the spans, with a mark."""
    drawn = draw(folder, run("RUN etl", 0, 10, late=36_000.0))
    assert bar(drawn, "RUN etl")["█"] == pytest.approx((2 / 3, 1), abs=0.02)
    assert "…" in next(line for line in drawn[5:] if "RUN etl" in line)
    assert body(drawn)[1].strip() == "waited 10 h 00 m for a late start"


def test_the_legend_names_the_glyphs_that_occur_and_no_others(folder: Path) -> None:
    """Simple traces have short legends."""
    assert draw(folder, run("RUN etl", 0, 10))[-1] == "█ execution"
    drawn = draw(folder, run("RUN etl", 0, 10, Plan("GET", 1, 9), concurrency=5.0, execution=5.0))
    assert drawn[-1] == "▞ concurrency   █ execution   ━ other span"


def test_rows_are_a_tree_with_results_durations_and_row_counts(folder: Path) -> None:
    """A state name appears if it says more than the result."""
    drawn = draw(
        folder,
        run(
            "RUN etl",
            0,
            130,
            run("load", 0, 3.41, rows=1_234_567),
            run("cached", 4, 4.012, state="Cached"),
            run("skipped", 5, 5, result="skip", state="NotReady"),
            run("stopped", 6, 7, result="cancellation", state="Cancelled"),
            run("waiting", 8, 9, result=None, state="Suspended"),
        ),
    )
    left = [line[: line.index("█")].rstrip() if "█" in line else line for line in body(drawn)]
    assert [" ".join(line.split()) for line in left] == [
        "RUN etl ✓ success 2 m 10 s",
        "├─ load ✓ success 3.41 s 1,234,567",
        "├─ cached ✓ Cached 12 ms",
        "├─ skipped ○ NotReady 0 ms",
        "├─ stopped ⊘ cancellation 1.00 s",
        "└─ waiting … Suspended 1.00 s",
    ]


def test_errors_and_waits_stand_below_their_row(folder: Path) -> None:
    """An attempt does not repeat its run's error; waits too short to see are left out."""
    failed = run(
        "load",
        1,
        9,
        attempt(1, 3, 5, error="first\nline"),
        attempt(2, 8, 9, error="no such table"),
        result="failure",
        state="Failed",
        error="no such table",
        concurrency=1.2,
        retry=3.0,
    )
    drawn = draw(folder, run("RUN etl", 0, 10, failed, run("save", 9, 10, queue=0.001)))
    notes = [line for line in body(drawn) if "ms" not in line and " s  " not in line]
    assert notes == [
        "│  │  no such table",
        "│  │  waited 1.20 s for concurrency, 3.00 s for a retry",
        "│  │     first line",
    ]


def test_a_violated_objective_stands_below_its_flow(folder: Path) -> None:
    """An objective that the run violated is noted below the run."""
    root = run("RUN etl", 0, 10, run("load", 0, 9))
    root.violation = "max_duration: the run took 10 s, more than 5 s"
    notes = [line for line in body(draw(folder, root)) if "violates" in line]
    assert notes == ["│  violates max_duration: the run took 10 s, more than 5 s"]


def test_missing_parents_are_told_once(folder: Path) -> None:
    """The tasks of a killed flow are roots with one note for all of them."""
    file = folder / "traces.jsonl"
    killed = run("RUN etl", 0, 9, run("a", 1, 2), run("b", 3, 4), lost=True)
    parent = write(file, killed).span_ids["RUN etl"]
    drawn = lines(file, 100)
    notes = [line.strip() for line in drawn if "not in these files" in line]
    assert notes == [f"its parent {parent} is not in these files: not ended yet, or killed"]
    assert drawn[0] == "etl  … not ended  3.00 s"


def test_the_header_tells_what_ran(folder: Path) -> None:
    """Flow, run name, result, duration, start, number of runs, service and trace."""
    flow = run("RUN etl", 0, 10, run("load", 1, 2), run_name="meaty-vicugna")
    trace_id = write(folder / "traces.jsonl", flow, service="nightly").trace_id
    head = lines(folder / "traces.jsonl", 100)[:3]
    assert head == [
        "etl  meaty-vicugna  ✓ success  10.0 s",
        f"started {moment(EPOCH)}, 2 runs, service nightly",
        f"trace {trace_id}",
    ]


def test_many_siblings_are_one_row_with_their_totals(folder: Path) -> None:
    """The row says how many more there are, how they ended and how long they took."""
    tasks = [run("load", n, n + 1, run_name=f"load-{n}") for n in range(30)]
    tasks += [run("load", 31, 32, result="failure", error="no") for _ in range(15)]
    drawn = body(draw(folder, run("RUN etl", 0, 40, *tasks)))
    place = next(n for n, line in enumerate(drawn) if "… 35 more load" in line)
    assert "✗ 5 failed" in drawn[place]
    assert drawn[place + 1].strip() == "success 30, failure 5, 35.0 s in total, 1.00 s at most"


@pytest.mark.parametrize("width", [1, 48, 60, 80, 120, 200, 500])
def test_lines_fit_the_terminal(folder: Path, width: int) -> None:
    """No line is wider than the terminal, from 48 cells up; wide characters count double."""
    name = "日本語の長いタスク名前" * 10
    deep = run(name, 0, 5, run("x" * 300, 1, 2, result="failure", error="e" * 500))
    for _ in range(30):
        deep = run("nested", 0, 6, deep, late=2.0, concurrency=1.0)
    made = [Text(line) for line in draw(folder, deep, width)]
    assert max(cell_len(line.plain) for line in made[3:]) <= max(width, 48)
    assert sum("nested" in line.plain for line in made) >= 30


def test_a_cut_name_keeps_what_tells_it_apart(folder: Path) -> None:
    """The end of a mapped task's long run name stays."""
    tasks = [run("load" * 20, n, n + 1, run_name=f"{'load' * 20}-{n}f{n}") for n in range(2)]
    drawn = body(draw(folder, run("RUN etl", 0, 9, *tasks), 80))
    assert [line.split()[1][-5:] for line in drawn[1:]] == ["…-0f0", "…-1f1"]


def test_thousands_of_levels_are_drawn(folder: Path) -> None:
    """Guides of outer levels give way, names and notes stay visible."""
    file = folder / "f.jsonl"
    status = {"code": 2, "message": "it broke"}
    chain = (raw_span(n, parentSpanId=f"{n - 1:016x}", status=status) for n in range(1, 3000))
    file.write_text(raw_line(*chain))
    drawn = lines(file, 80)
    assert sum("span 2" in line for line in drawn) > 1000
    assert max(map(cell_len, drawn)) <= 80


def test_names_cannot_move_the_cursor(folder: Path) -> None:
    """Escape sequences and line breaks of names and messages never reach the terminal."""
    hostile = "a\x1b[2J\nb\u202e[bold]"
    drawn = draw(folder, run("RUN etl", 0, 9, run(hostile, 1, 2, result="failure", error=hostile)))
    assert all(line.isprintable() for line in drawn)
    assert any("a�[2J b�[bold]" in line for line in drawn)


def test_ascii_is_enough(folder: Path) -> None:
    """An output without Unicode gets other glyphs for everything flowspan itself draws."""
    totals: dict[str, Any] = {"late": 2.0, "queue": 2.0, "concurrency": 3.0, "execution": 5.0}
    tree_of = run("RUN etl", 4, 20, run("load", 5, 15, **totals), run("GET", 16, 17), late=1e5)
    assert all(line.isascii() for line in draw(folder, tree_of, unicode=False))


def test_spans_without_any_time_are_drawn(folder: Path) -> None:
    """A trace that took no time, and one across decades, still have an axis."""
    file = folder / "f.jsonl"
    file.write_text(raw_line(raw_span(1, endTimeUnixNano=str(EPOCH + 1))))
    assert any("span 1" in line for line in lines(file, 80))
    backwards = raw_span(2, startTimeUnixNano=EPOCH, endTimeUnixNano=EPOCH - SECOND)
    file.write_text(raw_line(raw_span(1, startTimeUnixNano=0), backwards))
    assert any("span 2" in line and "0 ms" in line for line in lines(file, 80))
    file.write_text(raw_line(raw_span(1, startTimeUnixNano=2**64 - 1, endTimeUnixNano=2**64 - 1)))
    assert any("span 1" in line for line in lines(file, 80))


def test_a_cell_shows_the_phase_that_covers_most_of_it() -> None:
    """Less than half a cell is left out, unless the span would then be invisible."""
    axis = Axis(0, 10, 10)
    assert cells([Segment("a", 0, 2), Segment("b", 2, 4)], axis)[:5] == ["a", "a", "b", "b", None]
    hundred = Axis(0, 100, 10)
    assert cells([Segment("a", 0, 14)], hundred)[:3] == ["a", None, None]
    assert cells([Segment("a", 0, 16)], hundred)[:3] == ["a", "a", None]
    assert cells([Segment("a", 41, 43)], hundred)[3:6] == [None, "a", None]
    assert cells([Segment("a", 40, 43), Segment("b", 43, 50)], hundred)[4] == "b"
    assert cells([Segment("a", 100, 100)], hundred)[9] == "a"


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (-5, "0 ms"),
        (0, "0 ms"),
        (1, "<0.1 ms"),
        (400_000, "0.4 ms"),
        (12_000_000, "12 ms"),
        (999_499_999, "999 ms"),
        (999_500_000, "1.00 s"),
        (3_410_000_000, "3.41 s"),
        (9_996_000_000, "10.0 s"),
        (59_949_000_000, "59.9 s"),
        (59_950_000_000, "1 m 00 s"),
        (125 * SECOND, "2 m 05 s"),
        (3_599_600_000_000, "1 h 00 m"),
        (3_720 * SECOND, "1 h 02 m"),
        (183_600 * SECOND, "2 d 03 h"),
        (86_400_000 * SECOND, "1,000 d 00 h"),
    ],
)
def test_durations_read_like_speech(nanoseconds: int, text: str) -> None:
    """Three digits suffice, and rounding never shows sixty seconds."""
    assert human(nanoseconds) == text


@pytest.mark.parametrize("length", [1, 999, 10**6, 7 * 10**9, 3_600 * 10**9, 86_400 * 10**9, 2**64])
def test_the_scale_marks_round_times_where_they_are(length: int) -> None:
    """The first mark is 0, and no mark crosses the edge."""
    scale = timeline._scale(Axis(0, length, 60))
    assert (scale[0], len(scale)) == ("0", 60)


def test_a_mark_of_the_scale_begins_in_its_cell() -> None:
    """Ten seconds on a hundred cells: 2 s begins in cell 20."""
    scale = timeline._scale(Axis(0, 10 * SECOND, 100))
    assert (scale.index("2 s"), scale.index("8 s")) == (20, 80)
