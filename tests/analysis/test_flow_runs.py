"""Runs read from files: whole traces in order, and their runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from run_files import FIRST_DAY, at, nightly, write_days
from span_files import EPOCH, Plan, attempt, raw_line, raw_span, run, write

from flowspan import semconv
from flowspan.analysis.flow_runs import FlowRun, flow_names, local_time, runs_of
from flowspan.read import span, trace_files

if TYPE_CHECKING:
    from flowspan.read.lines import Problem


def traces(source: Path, since: int = 0) -> list[span.Trace]:
    """Return all traces; there must be no problems."""
    problems: list[Problem] = []
    found = [*trace_files.traces(source, problems, since)]
    assert problems == []
    return found


def runs(source: Path, flow: str | None = None) -> list[FlowRun]:
    """Return all runs, in the order of their ends."""
    found = [one for trace in traces(source) for one in runs_of(trace, flow)]
    return sorted(found, key=lambda run: run.end)


def ns(seconds: float) -> int:
    """Return a time in nanoseconds, as in traces."""
    return EPOCH + round(seconds * 1e9)


def test_sixty_days_are_sixty_runs(tmp_path: Path) -> None:
    """Each run has its day, duration, rows and the shares of its tasks."""
    file = tmp_path / "traces.jsonl"
    write_days(file, 60, lambda day: nightly(at(day), 2 + day * 0.1, rows=day))
    found = runs(file)
    assert len(found) == 60
    first, last = found[0], found[-1]
    assert (first.flow, first.start, first.rows) == ("nightly", ns(at(0)), 0)
    assert (last.start, last.end - last.start) == (ns(at(59)), last.duration)
    assert last.duration == pytest.approx(8.9e9, abs=1)
    assert last.tasks["load"].share == pytest.approx(7.9 / 8.9)
    assert last.tasks["extract"].path == pytest.approx(1e9, abs=1)
    assert local_time(first.start).date() == FIRST_DAY


def test_traces_are_whole_wherever_their_lines_are(tmp_path: Path) -> None:
    """A line may hold spans of many traces, and a trace may be in many files."""
    whole = tmp_path / "whole.jsonl"
    ids = [write(whole, nightly(n * 10.0), batch=1).trace_id for n in range(6)]
    lines = whole.read_text().splitlines()
    spans = [json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"][0] for line in lines]
    mixed = [spans[start::4] for start in range(4)]
    folder = tmp_path / "folder"
    folder.mkdir()
    old, new = folder / "traces-1.jsonl", folder / "traces.jsonl"
    old.write_text("".join(raw_line(*group) for group in mixed[:2]))
    new.write_text("".join(raw_line(*group) for group in mixed[2:]))
    found = traces(folder)
    assert sorted(trace.trace_id for trace in found) == sorted(ids)
    for trace in found:
        names = [span.name for span in trace_files.load(whole, trace.trace_id).spans]
        assert [span.name for span in trace.spans] == names


def test_what_ended_last_comes_first_and_nothing_else_is_decoded(tmp_path: Path) -> None:
    """An error further up in the file is met only when the trace beside it is due."""
    file = tmp_path / "traces.jsonl"
    first = write(file, nightly(at(0))).trace_id
    broken = f'{{"traceId": "{first}", "endTimeUnixNano": "1"\n'
    with file.open("a") as stream:
        stream.write(broken)
    write(file, nightly(at(2)))
    write(file, nightly(at(1)))
    problems: list[Problem] = []
    found = trace_files.traces(file, problems)
    assert [next(found).spans[0].start for _ in range(2)] == [ns(at(2)), ns(at(1))]
    assert problems == []
    assert [trace.spans[0].start for trace in found] == [ns(at(0))]
    assert [str(problem) for problem in problems] == [
        f"{file}:2: cut off: the line ends in the middle"
    ]


def test_traces_on_one_line_come_in_the_order_of_their_ends(tmp_path: Path) -> None:
    """The last end on a line may be that of another trace, even on lines of several files."""
    spans = [
        raw_span(n, traceId=f"{n:032x}", endTimeUnixNano=str(EPOCH + end))
        for n, end in enumerate((50, 90, 10, 70, 30, 95), 1)
    ]
    (tmp_path / "traces-1.jsonl").write_text(raw_line(*spans[:3]))
    (tmp_path / "traces.jsonl").write_text(raw_line(*spans[3:5]) + raw_line(spans[5]))
    found = traces(tmp_path)
    assert [trace.spans[0].end - EPOCH for trace in found] == [95, 90, 70, 50, 30, 10]
    assert len(traces(tmp_path, since=EPOCH + 50)) == 4


def test_what_ended_before_is_left_out_but_whole_traces_stay(tmp_path: Path) -> None:
    """A run that began before `since` and ended after it keeps its earlier spans."""
    file = tmp_path / "traces.jsonl"
    write(file, nightly(0), batch=1)
    late = write(file, nightly(10, load=100), batch=1)
    found = traces(file, since=ns(50))
    assert [trace.trace_id for trace in found] == [late.trace_id]
    assert len(found[0].spans) == 3


def test_a_called_flow_is_part_of_its_caller_unless_it_is_asked_for(tmp_path: Path) -> None:
    """By name it is found anywhere, and a flow that calls itself counts once."""
    file = tmp_path / "traces.jsonl"
    inner = run("RUN clean", 2, 4, run("RUN clean", 2.5, 3), run("scrub", 3, 4))
    outer = run("RUN nightly", 0, 5, run("load", 0, 2), inner)
    write(file, outer)
    write(file, run("RUN clean", 10, 13))
    assert [(one.flow, one.duration) for one in runs(file)] == [
        ("nightly", 5 * 10**9),
        ("clean", 3 * 10**9),
    ]
    called, alone = runs(file, flow="clean")
    assert (called.duration, called.start) == (2 * 10**9, ns(2))
    assert set(called.started) == {"RUN clean", "scrub"}
    assert (alone.duration, alone.start) == (3 * 10**9, ns(10))
    assert runs(file, flow="unknown") == []
    assert set().union(*map(flow_names, traces(file))) == {"nightly", "clean"}


def test_a_called_flow_whose_caller_was_killed_is_no_run(tmp_path: Path) -> None:
    """The caller's span is missing; a run with a caller in another system still counts."""
    file = tmp_path / "traces.jsonl"
    called = run("RUN clean", 2, 4)
    called.kind = span_kind("INTERNAL")
    write(file, run("RUN nightly", 0, 5, called, lost=True))
    assert runs(file) == []
    assert len(runs(file, flow="clean")) == 1
    write(file, Plan("POST", 0, 5, (run("RUN deployed", 1, 4),), lost=True))
    assert [one.flow for one in runs(file)] == ["deployed"]


def span_kind(name: str) -> Any:
    """Return a kind by its name."""
    from opentelemetry.trace import SpanKind

    return SpanKind[name]


def test_a_run_that_was_resumed_counts_once(tmp_path: Path) -> None:
    """Its duration covers both processes, without the days of suspension."""
    file = tmp_path / "traces.jsonl"
    first = run("RUN nightly", 0, 5, run_id="one", result=None, state="Suspended")
    second = run("RUN nightly", 100_000, 100_003, run_id="one", count=2)
    trace_id = write(file, first).trace_id
    other = write(tmp_path / "second.jsonl", second).trace_id
    with file.open("a") as stream:
        stream.write((tmp_path / "second.jsonl").read_text().replace(other, trace_id))
    (found,) = runs(file)
    assert (found.duration, found.result) == (8 * 10**9, "success")
    assert (found.start, found.end) == (ns(0), ns(100_003))
    assert found.retries == ()


def test_retries_are_failed_attempts_that_another_followed(tmp_path: Path) -> None:
    """The last attempt is not a retry; without attempt spans, the run count gives their number."""
    file = tmp_path / "traces.jsonl"
    write(file, nightly(0, load=4, retried="TimeoutError"))
    attempts = [attempt(n, n, n + 1, error="no") for n in (1, 2, 3)]
    for one in attempts:
        one.attributes[semconv.ERROR_TYPE] = "ValueError"
    gave_up = run("load", 1, 4, *attempts, result="failure", error="no")
    counted = run("fetch", 5, 9, retry=2.0, count=3)
    write(file, run("RUN other", 0, 10, gave_up, counted))
    first, second = runs(file)
    assert [(r.task, r.error, r.time) for r in first.retries] == [("load", "TimeoutError", ns(3))]
    assert [(r.task, r.error) for r in second.retries] == [
        ("load", "ValueError"),
        ("load", "ValueError"),
        ("fetch", None),
        ("fetch", None),
    ]


def test_a_trace_without_runs_is_one_run_of_its_root(tmp_path: Path) -> None:
    """Any service has trends, with fewer answers."""
    file = tmp_path / "traces.jsonl"
    write(file, Plan("POST /load", 0, 3, (Plan("SELECT", 1, 2),)))
    write(file, Plan("POST /load", 10, 14, error="no"))
    first, second = runs(file)
    assert (first.flow, first.result, first.is_plain) == ("POST /load", "success", True)
    assert set(first.tasks) == {"POST /load", "SELECT"}
    assert second.result == "failure"
    assert runs(file, flow="GET") == []


def test_spans_that_call_each_other_in_a_circle_are_no_run(tmp_path: Path) -> None:
    """They have no root, but reading them ends."""
    file = tmp_path / "traces.jsonl"
    kind = {"key": semconv.RUN_TYPE, "value": {"stringValue": "flow"}}
    spans = [
        raw_span(1, parentSpanId=f"{2:016x}", attributes=[kind]),
        raw_span(2, parentSpanId=f"{1:016x}", attributes=[kind]),
    ]
    file.write_text(raw_line(*spans))
    assert runs(file) == []
