"""A report drawn in a terminal."""

import itertools
import json
import random
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from metric_files import Process, raw_line
from rich.cells import cell_len
from rich.text import Text

from flowspan.analysis import run_metrics
from flowspan.read import metric_files
from flowspan.views.json.metrics import to_json
from flowspan.views.terminal import metrics

Record = Callable[[Process], object]


def texts(folder: Path, *records: Record, width: int = 120, unicode: bool = True) -> list[Text]:
    """Record runs, each in its own process, and draw the report."""
    file = folder / "metrics.jsonl"
    file.unlink(missing_ok=True)
    for number, record in enumerate(records):
        with closing(Process(file, instance=str(number))) as process:
            record(process)
    report = run_metrics.summarize(metric_files.load(file))
    return list(metrics.draw(report, width=width, unicode=unicode))


def draw(folder: Path, *records: Record, width: int = 120, unicode: bool = True) -> list[str]:
    """Return the lines of `texts` without styles."""
    return [text.plain for text in texts(folder, *records, width=width, unicode=unicode)]


def nightly(process: Process) -> None:
    """Record runs that fill every column."""
    process.flow("nightly", 125.0, pending=1.5)
    process.flow(
        "nightly",
        75.0,
        result="failure",
        state="Failed",
        error="ValueError",
        violated=["max_duration"],
    )
    for seconds in (2.0, 3.41, 4.0):
        process.task(
            "nightly",
            "extract",
            seconds,
            retried=["ConnectionError"],
            rows={"output": 1_234_567, "input": 10},
            waits={"queue": 0.04, "concurrency": 3.0, "dependencies": 0.0001},
        )
    process.task("nightly", "load", 0.012, result="timeout", state="TimedOut", error="TimedOut")
    process.metric("rejected", 12, "{row}", flow="nightly", task="load", source="crm")


def row(drawn: list[str], name: str) -> list[str]:
    """Return the non-empty cells of a row."""
    line = next(line for line in drawn if name in line)
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def columns(drawn: list[str]) -> list[str]:
    """Return the column titles of the table of runs."""
    return [title.strip() for title in drawn[2].split("  ") if title.strip()]


def test_a_row_says_how_the_runs_of_a_task_went(tmp_path: Path) -> None:
    """The row shows count, success, durations, total rows, retries and mean waits."""
    drawn = draw(tmp_path, nightly, width=150)
    assert columns(drawn) == [
        "flow / task",
        "runs",
        "success",
        "p50",
        "p95",
        "max",
        "rows in",
        "rows out",
        "retries",
        "mean wait",
    ]
    assert row(drawn, "extract") == [
        "├─ extract",
        "3",
        "✓",
        "100 %",
        "3.25 s",
        "4.00 s",
        "4.00 s",
        "30",
        "3,703,701",
        "3",
        "concurrency 3.00 s, queue 40 ms",
    ]
    assert row(drawn, "load")[:7] == ["└─ load", "1", "✗", "0.0 %", "12 ms", "12 ms", "12 ms"]
    assert row(drawn, "nightly ")[:4] == ["nightly", "2", "✗ 50.0 %", "1 m 15 s"]


def test_waits_are_those_of_one_run_on_average(tmp_path: Path) -> None:
    """Runs without waits count; tiny waits are left out; the longest comes first."""

    def record(process: Process) -> None:
        process.task("etl", "load", 1.0, waits={"queue": 4.0, "retry": 12.0, "concurrency": 0.001})
        for _ in range(3):
            process.task("etl", "load", 1.0)
        process.waits.record(
            0.5, {"prefect.task.name": "unended", "prefect.wait.type": "dependencies"}
        )

    drawn = draw(tmp_path, record)
    assert row(drawn, "load")[-1] == "retry 3.00 s, queue 1.00 s"
    assert row(drawn, "unended")[-1] == "dependencies 500 ms"


def test_what_went_wrong_stands_below_its_row(tmp_path: Path) -> None:
    """Notes show final states, errors, retried errors and violated objectives."""
    drawn = draw(tmp_path, nightly)
    assert drawn[3].startswith("nightly")
    assert drawn[4:6] == [
        "│  Failed 1; errors in it and its tasks: ValueError 1",
        "│  objectives violated: max_duration 1",
    ]
    assert drawn[6].startswith("├─ extract")
    assert drawn[7] == "│     retried after ConnectionError 3"
    assert drawn[8].startswith("└─ load")
    assert drawn[9] == "      TimedOut 1 (TimedOut 1)"


def test_what_took_most_time_in_all_comes_first(tmp_path: Path) -> None:
    """Flows are sorted among flows, and tasks within their flow."""

    def record(process: Process) -> None:
        for _ in range(10):
            process.flow("often", 2.0)
            process.task("often", "small", 0.5)
        process.task("often", "large", 6.0)
        process.flow("once", 15.0)

    drawn = draw(tmp_path, record)
    assert [line.split("  ")[0] for line in drawn[3:7]] == ["often", "├─ large", "└─ small", "once"]


def test_numbers_are_aligned_on_the_right(tmp_path: Path) -> None:
    """The titles of their columns are aligned too."""

    def record(process: Process) -> None:
        process.task("etl", "one", 0.5, rows={"output": 5})
        process.task("etl", "two", 100.0, rows={"output": 12_345})

    lines = [line for line in draw(tmp_path, record) if "two" in line or "one" in line]
    ends = {
        line.rindex(count) + len(count) for line, count in zip(lines, ("12,345", "5"), strict=True)
    }
    assert len(ends) == 1
    assert draw(tmp_path, record)[2].index("rows out") + len("rows out") in ends


@pytest.mark.parametrize("width", [48, 60, 72, 80, 100, 120, 200])
@pytest.mark.parametrize("unicode", [True, False])
def test_no_line_is_wider_than_it_may_be(tmp_path: Path, width: int, unicode: bool) -> None:  # noqa: FBT001
    """Less useful columns give way to more useful ones; names and notes are cut."""

    def long(process: Process) -> None:
        process.flow("a-flow-with-a-very-long-name-" * 5, 10.0)
        process.task(
            "日本語の流れ" * 10, "変換" * 20, 1.0, state="Failed", error="some.module.Error" * 9
        )
        process.metric("a.metric.with.a.long.name" * 5, 1e20 / 7, flow="f" * 50, a="b" * 80)

    drawn = draw(tmp_path, nightly, long, width=width, unicode=unicode)
    assert max(map(cell_len, drawn)) <= width
    assert {"flow / task", "runs", "success"} <= set(columns(drawn))


def test_columns_that_tell_least_are_left_out_first(tmp_path: Path) -> None:
    """Every column that fits is shown, even if another column did not fit."""
    everything = set(columns(draw(tmp_path, nightly, width=200)))
    for width, missing in (
        (120, set()),
        (100, {"rows in"}),
        (90, {"rows in", "max"}),
        (80, {"rows in", "max", "retries"}),
        (60, {"rows in", "max", "retries", "mean wait"}),
        (48, {"rows in", "max", "retries", "mean wait", "rows out"}),
    ):
        assert everything - set(columns(draw(tmp_path, nightly, width=width))) == missing


def test_a_column_without_any_value_is_left_out(tmp_path: Path) -> None:
    """Most pipelines do not record every kind of value."""
    drawn = draw(tmp_path, lambda process: process.flow("etl", 2.0))
    assert columns(drawn) == ["flow / task", "runs", "success", "p50", "p95", "max"]
    assert len(drawn) == 6


def test_ascii_says_the_same(tmp_path: Path) -> None:
    """Outputs that cannot show more get only ASCII."""
    drawn = draw(tmp_path, nightly, width=80, unicode=False)
    assert "".join(drawn).isascii()
    assert row(drawn, "extract")[:4] == ["|- extract", "3", "+", "100 %"]
    assert row(drawn, "load")[:3] == ["`- load", "1", "x"]
    assert any(line.endswith("concurrency 3.00 s...") for line in drawn)


@pytest.mark.parametrize(
    ("succeeded", "failed", "shown"),
    [
        (1, 0, "✓  100 %"),
        (1_999, 1, "✗ 99.9 %"),
        (2, 1, "✗ 66.6 %"),
        (57, 43, "✗ 57.0 %"),
        (0, 1, "✗  0.0 %"),
    ],
)
def test_only_all_is_a_hundred_percent(
    tmp_path: Path, succeeded: int, failed: int, shown: str
) -> None:
    """Rates are rounded down."""

    def record(process: Process) -> None:
        for _ in range(succeeded):
            process.flow("etl", 1.0)
        for _ in range(failed):
            process.flow("etl", 1.0, result="error", state="Crashed")

    assert shown in draw(tmp_path, record)[3]


def test_cancelled_and_skipped_runs_do_not_count_as_failed(tmp_path: Path) -> None:
    """They are noted below the row, without an alarming colour."""

    def record(process: Process) -> None:
        process.flow("etl", 1.0)
        process.flow("etl", 1.0, result="cancellation", state="Cancelled")
        process.flow("off", 1.0, result="cancellation", state="Cancelled")
        process.task("etl", "load", 1.0)
        process.task("etl", "load", 0.0, result="skip", state="NotReady")

    drawn = texts(tmp_path, record)
    plain = [text.plain for text in drawn]
    assert row(plain, "etl ")[1:4] == ["2", "✓", "100 %"]
    assert row(plain, "load")[1:4] == ["2", "✓", "100 %"]
    assert row(plain, "off ")[1:] == ["1", "1.00 s", "1.00 s", "1.00 s"]
    notes = [text for text in drawn if "Cancelled" in text.plain or "NotReady" in text.plain]
    assert [{str(span.style) for span in note.spans} for note in notes] == [{"dim"}] * 3


def test_colours_tell_success_from_failure(tmp_path: Path) -> None:
    """They are green and red, and objectives are yellow."""
    drawn = texts(tmp_path, nightly)

    def style(part: str) -> str:
        line = next(text for text in drawn if part in text.plain)
        place = line.plain.index(part)
        return next(str(span.style) for span in line.spans if span.start <= place < span.end)

    parts = ("✓", "✗", "Failed", "objectives")
    assert [style(part) for part in parts] == ["green", "red", "red", "yellow"]


def test_tasks_without_a_flow_and_flows_without_tasks(tmp_path: Path) -> None:
    """Each is shown with the available values."""

    def record(process: Process) -> None:
        process.flow("alone", 2.0)
        process.task(None, "adhoc", 1.0)

    drawn = draw(tmp_path, record)
    assert [line.split("  ")[0] for line in drawn[3:6]] == ["alone", "(no flow)", "└─ adhoc"]


def test_custom_metrics_have_a_table_of_their_own(tmp_path: Path) -> None:
    """The table shows their latest value, by flow."""

    def record(process: Process) -> None:
        process.flow("etl", 1.0)
        process.metric("delay", 12.634578, "s", flow="etl")
        process.metric("rejected", 9_431, "{row}", flow="etl", task="load", source="crm", day="1")
        process.metric("rate", 1.5e-7)
        process.metric("huge", 1e300)
        process.metric("zero", 0.0)
        process.metric("whole", 5.0)
        process.metric("size", 1_234_567.891)

    drawn = draw(tmp_path, record)
    table = drawn[drawn.index("", 3) + 3 :]
    assert [line.split("  2")[0].split() for line in table] == [
        ["metric", "flow", "task", "attributes", "last", "value", "at"],
        ["huge", "1e+300"],
        ["rate", "1.5e-07"],
        ["size", "1,234,567.89"],
        ["whole", "5"],
        ["zero", "0"],
        ["delay", "etl", "12.6346", "s"],
        ["rejected", "etl", "load", "day=1,", "source=crm", "9,431", "row"],
    ]


def test_custom_metrics_alone_are_shown(tmp_path: Path) -> None:
    """There is no empty table of runs."""
    drawn = draw(tmp_path, lambda process: process.metric("n", 5, flow="etl"))
    assert drawn[2].split() == ["metric", "flow", "last", "value", "at"]
    assert len(drawn) == 4


def test_names_cannot_play_tricks_on_the_terminal(tmp_path: Path) -> None:
    """Escapes and line breaks in names never reach the screen."""

    def record(process: Process) -> None:
        process.flow("a\x1b[2Jb\nc", 1.0, state="Bro\rken", error="E\x07")
        process.task("a", "b", 1.0, waits={"q\x1b[2J": 1.0})
        process.metric("n", 5, "\x1b", flow="f\x1b", a="\x1b]0;x\x07")

    assert all(line.isprintable() for line in draw(tmp_path, record))


def test_metrics_without_times_are_drawn(tmp_path: Path) -> None:
    """Other writers may omit them."""
    point = {"dataPoints": [{"asInt": "3"}], "aggregationTemporality": 2}
    (tmp_path / "m.jsonl").write_text(raw_line({"name": "prefect.flow.runs", "sum": point}))
    report = run_metrics.summarize(metric_files.load(tmp_path / "m.jsonl"))
    drawn = [text.plain for text in metrics.draw(report, width=80)]
    assert row(drawn, "(no flow)") == ["(no flow)", "3"]


DAMAGE: tuple[Any, ...] = (
    *(None, True, 0, -1, 5_000, 2**63, 2**90, 1.5, -1e308, 1e308, float("nan")),
    *("", "x", "NaN", "Infinity", "9" * 30, "\udcff", [], {}, [1], {"a": 1}, ["1", "2"]),
)


def damaged(value: Any, luck: random.Random, share: float) -> Any:
    """Replace some parts of a JSON document, on all levels, with wrong values."""
    if luck.random() < share:
        return luck.choice(DAMAGE)
    if isinstance(value, dict):
        kept = {key: each for key, each in value.items() if luck.random() > share}
        return {key: damaged(each, luck, share) for key, each in kept.items()}
    return [damaged(each, luck, share) for each in value] if isinstance(value, list) else value


def test_no_damage_stops_it(tmp_path: Path) -> None:
    """For any files, there is a report of the readable rest."""
    file = tmp_path / "metrics.jsonl"
    for number, (delta, exponential) in enumerate(itertools.product((False, True), repeat=2)):
        process = Process(file, instance=str(number), delta=delta, exponential=exponential)
        with closing(process):
            nightly(process)
    lines = [json.loads(line) for line in file.open()]
    for seed in range(300):
        luck = random.Random(seed)  # noqa: S311 - not for secrets
        share = luck.choice((0.001, 0.01, 0.05))
        file.write_text("\n".join(json.dumps(damaged(line, luck, share)) for line in lines))
        report = run_metrics.summarize(metric_files.load(file))
        assert json.loads(to_json(report))["flows"] is not None
        drawn = [text.plain for text in metrics.draw(report, width=60)]
        assert max(map(cell_len, drawn)) <= 60
