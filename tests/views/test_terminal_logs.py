"""Log records as terminal lines."""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from log_files import FLOW_RUN, TASK_RUN, Process, of_run, raw_line, raw_log
from rich.cells import cell_len
from span_files import EPOCH, run, write

from flowspan.analysis import log_places, tree
from flowspan.read import log_files, trace_files
from flowspan.text import clock, stopwatch
from flowspan.views.terminal import logs, timeline

SECOND = 10**9


@pytest.fixture(autouse=True)
def _utc_plus_one(monkeypatch: pytest.MonkeyPatch) -> Iterable[None]:
    """Set local time to an hour ahead of UTC, all year."""
    import time

    monkeypatch.setenv("TZ", "XXX-1")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def records(folder: Path) -> tuple[log_files.Log, ...]:
    """Read the log records of the flow run."""
    return log_files.load(folder, FLOW_RUN).logs


def written(folder: Path) -> list[str]:
    """Write the log records of the flow run."""
    return [line.plain for line in logs.write(records(folder))]


def short(folder: Path, **options: Any) -> list[str]:
    """Write the log records in short form."""
    given = {"everything": False, "unicode": True} | options
    return [line.plain for line in logs.shorten(records(folder), EPOCH, **given)]


def drawn(folder: Path, width: int = 100, **options: Any) -> list[str]:
    """Draw the timeline of the flow run with its log lines."""
    built = tree.build(trace_files.load(folder).spans)
    found = log_files.load_trace(log_files.find_files(folder), built.about.span.trace_id).logs
    rows = log_places.by_row(log_places.by_span(found, built.spans), built)
    return [line.plain.rstrip() for line in timeline.draw(built, width=width, logs=rows, **options)]


def test_a_record_is_a_line(tmp_path: Path) -> None:
    """It has columns: local time with milliseconds, level, place, message and fields."""
    with closing(Process(tmp_path / "logs.jsonl")) as process:
        process.log("begin  now", 0)
        process.log(
            "read", 1.2345, level="WARN", attributes=of_run(task_run="load-0"), rows=3, path="a b"
        )
        process.log("request", 2, level="", attributes={})
    assert written(tmp_path) == [
        "2023-11-14T23:13:20.000+01:00 INFO     etl        begin  now",
        '2023-11-14T23:13:21.234+01:00 WARNING  etl/load-0 read  rows=3  path="a b"',
        "2023-11-14T23:13:22.000+01:00 -        -          request",
    ]


def test_further_lines_are_indented(tmp_path: Path) -> None:
    """Each line at the margin is a record; tabs and fields do not change."""
    with closing(Process(tmp_path / "logs.jsonl")) as process:
        process.log("table\n a\tb  \r\n\nend\n", rows=2)
        process.log("")
    assert [line[30:] for line in written(tmp_path)[:1]] == ["INFO     etl table  rows=2"]
    assert written(tmp_path)[1:4] == ["     a      b", "", "    end"]
    assert written(tmp_path)[4][30:] == "INFO     etl"


def test_an_exception_stands_below_its_line_with_its_stack(tmp_path: Path) -> None:
    """An exception without a stack is a single line."""
    with closing(Process(tmp_path / "logs.jsonl")) as process:
        try:
            raise ValueError("no such table")
        except ValueError as error:
            process.log("failed", level="ERROR", exception=error)
        bare = {"exception.type": "KeyError", "exception.message": "'a'"}
        process.log("again", 1, attributes=of_run() | bare)
    lines = written(tmp_path)
    assert lines[1] == "    Traceback (most recent call last):"
    assert lines[2].startswith("      File ")
    assert lines[-3:-2] == ["    ValueError: no such table"]
    assert lines[-1:] == ["    KeyError: 'a'"]


def test_long_lines_are_neither_cut_nor_wrapped(tmp_path: Path) -> None:
    """A long name shifts only its own line."""
    name = "n" * 60
    with closing(Process(tmp_path / "logs.jsonl")) as process:
        process.log("m" * 5_000, 0, value="v" * 5_000)
        process.log("short", 1, attributes=of_run(name))
    first, second = written(tmp_path)
    assert first.endswith(f"etl {'m' * 5_000}  value={'v' * 5_000}")
    assert second.endswith(f"{name} short")


HOSTILE = "a\x1b[2J\x07b\u202e[bold]\x85"


def test_nothing_that_was_logged_can_move_the_cursor(tmp_path: Path) -> None:
    """This holds for messages, names, levels, fields and exceptions."""
    span_ids = write(tmp_path / "traces.jsonl", run("RUN etl", 0, 9, run_id=FLOW_RUN))
    for trace_id in (span_ids.trace_id, None):
        with closing(Process(tmp_path / "logs.jsonl", trace_id)) as process:
            attributes = of_run(HOSTILE, task_run=HOSTILE) | {HOSTILE: HOSTILE, "l": [HOSTILE]}
            process.log(HOSTILE, 1, attributes=attributes, level=HOSTILE)
            process.log(HOSTILE, 2, exception=ValueError(HOSTILE))
            process.log([HOSTILE], 3)
    lines = [*written(tmp_path), *drawn(tmp_path), *short(tmp_path)]
    assert all(line.isprintable() for line in lines)
    assert sum("a�[2J�b�[bold]" in line for line in lines) > 10


def test_spaces_of_any_kind_are_plain_ones(tmp_path: Path) -> None:
    """Numbers and dates in many languages contain other spaces, which are hard to search for."""
    with closing(Process(tmp_path / "logs.jsonl")) as process:
        process.log("1\u00a0000\u202f€\u3000sold")
    assert written(tmp_path)[0].endswith(" 1 000 € sold")
    assert short(tmp_path)[0].endswith(" 1 000 € sold")


def test_short_lines_count_from_the_start(tmp_path: Path) -> None:
    """Fields are cut, and an exception has one line below the message."""
    with closing(Process(tmp_path / "logs.jsonl")) as process:
        process.log("read\n  rows", 1.5, rows=3, path="p" * 60)
        process.log("failed", 2, level="FATAL", exception=ValueError("no\nsuch table"))
        process.log("early", -1)
    assert short(tmp_path) == [
        "-0:01.000 INFO     early",
        f"0:01.500 INFO     read rows  rows=3  path={'p' * 31}…",
        "0:02.000 CRITICAL failed",
        "                  ValueError: no such table",
    ]


def test_of_many_the_first_and_the_last_are_shown(tmp_path: Path) -> None:
    """The line between them counts the others, and the grave ones among them."""
    with closing(Process(tmp_path / "logs.jsonl")) as process:
        levels = {7: "WARN", 8: "WARN", 9: "FATAL", 10: "ERROR", 1240: "ERROR"}
        for number in range(1_244):
            process.log(f"line {number}", number / 1000, level=levels.get(number, "INFO"))
    lines = short(tmp_path)
    assert [line.split()[-1] for line in lines[:5] + lines[-5:]] == [
        *"01234",
        *map(str, range(1_239, 1_244)),
    ]
    assert lines[5:-5] == ["… 1,234 more, 2 WARNING, 1 ERROR, 1 CRITICAL"]
    assert short(tmp_path, unicode=False)[5].startswith("... 1,234 more")
    assert len(short(tmp_path, everything=True)) == 1_244


def test_a_line_that_counts_only_one_is_not_worth_it(tmp_path: Path) -> None:
    """The hidden record is shown instead."""
    with closing(Process(tmp_path / "logs.jsonl")) as process:
        for number in range(11):
            process.log(f"line {number}", number)
        process.export()
        assert [line.split()[-1] for line in short(tmp_path)] == list(map(str, range(11)))
        process.log("line 11", 11)
    assert [line for line in short(tmp_path) if "more" in line] == ["… 2 more"]


def test_lines_stand_below_their_row_and_count_from_the_left_edge(tmp_path: Path) -> None:
    """They follow the span's own notes and precede its children; the wait comes before them."""
    flow = run("RUN etl", 0, 10, run("load", 1, 5, run_id=TASK_RUN), late=2.0, run_id=FLOW_RUN)
    ids = write(tmp_path / "traces.jsonl", flow)
    with closing(Process(tmp_path / "logs.jsonl", ids.trace_id)) as process:
        process.log("end", 10, span_id=ids.span_ids["RUN etl"])
        process.log("loading", 1, span_id=ids.span_ids["load"], rows=7)
    assert [line.partition("█")[0].rstrip() for line in drawn(tmp_path)[5:-2]] == [
        "RUN etl       ✓ success    10.0 s  ···········",
        "│  waited 2.00 s for a late start",
        "│  0:12.000 INFO     end",
        "└─ load       ✓ success    4.00 s",
        "      0:03.000 INFO     loading  rows=7",
    ]


@pytest.mark.parametrize("width", [1, 48, 80, 120])
def test_lines_fit_the_terminal(tmp_path: Path, width: int) -> None:
    """Longer text is cut; wide characters count double."""
    deep = run("load", 1, 2, run_id=TASK_RUN)
    for _ in range(30):
        deep = run("nested", 0, 3, deep)
    trace_id = write(tmp_path / "traces.jsonl", deep).trace_id
    with closing(Process(tmp_path / "logs.jsonl", trace_id)) as process:
        attributes = of_run(task_run="load-0")
        process.log("日本語" * 99, attributes=attributes, exception=ValueError("語" * 99))
        process.log("m", 1, attributes=attributes | {"日本語" * 99: "本" * 99})
    lines = drawn(tmp_path, width)[3:]
    assert max(map(cell_len, lines)) <= max(width, 48)
    assert sum(line.endswith("…") for line in lines if "語" in line) >= 2


def test_a_record_of_no_time_has_one_all_the_same(tmp_path: Path) -> None:
    """The same holds for a record with the largest possible time."""
    raw = raw_log(1, timeUnixNano=None), raw_log(2, timeUnixNano=str(2**64 - 1))
    (tmp_path / "logs.jsonl").write_text(raw_line(*raw))
    found = log_files.load(tmp_path, "ab" * 16).logs
    assert [line.plain for line in logs.write(found)] == [
        "1970-01-01T01:00:00.000+01:00 INFO     - line 1",
        "2554-07-22T00:34:33.709+01:00 INFO     - line 2",
    ]


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0:00.000"),
        (-999_999, "0:00.000"),
        (-1_000_000, "-0:00.001"),
        (3_410_999_999, "0:03.410"),
        (3_599 * SECOND, "59:59.000"),
        (3_725 * SECOND, "1:02:05.000"),
        (400_000 * SECOND, "111:06:40.000"),
    ],
)
def test_a_stopwatch_shows_milliseconds(nanoseconds: int, text: str) -> None:
    """It always shows three digits of them, and hours only if needed."""
    assert stopwatch(nanoseconds) == text


def test_a_clock_rounds_no_millisecond_up() -> None:
    """It rounds down, because the next second has not begun."""
    assert clock(EPOCH + SECOND - 1) == "2023-11-14T23:13:20.999+01:00"
