"""Runs that have been reported, but have no span, are open spans of their trace."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import Parse  # type: ignore[import-untyped]
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
from reports import HEARTBEAT, Reporter, run_id_of
from span_files import EPOCH, run, write

from flowspan import semconv
from flowspan.read import open_runs, trace_files
from flowspan.read.selection import UnknownRunError
from flowspan.read.span import Open, Span
from flowspan.text import SECOND

ROOT = "1".zfill(16)
TASK = "2".zfill(16)
ENDED = "3".zfill(16)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of embedded files, read 60 seconds after `EPOCH`."""
    monkeypatch.setattr(open_runs, "time_ns", lambda: EPOCH + 60 * SECOND)
    return tmp_path


def spans(folder: Path, wanted: str = "latest") -> dict[str, Span]:
    trace = trace_files.load(folder, wanted)
    assert trace.problems == ()
    return {span.name: span for span in trace.spans}


def after(seconds: float) -> int:
    return EPOCH + round(seconds * SECOND)


def test_a_run_that_is_heard_of_is_running_until_now(folder: Path) -> None:
    """It has the ids, names and attributes of its reports; what it does, it still does."""
    process = Reporter(folder / "logs.jsonl")
    process.report(
        "RUN etl", 5, start=5, activity="orchestration", also={semconv.TAGS: ["nightly"]}
    )
    process.report(
        "RUN etl", 55, start=5, event=semconv.RUN_RUNNING, also={semconv.EXECUTION: 40.0}
    )
    process.report("load", 50, start=10, span_id=TASK, parent=ROOT, activity="retry")
    found = spans(folder)
    flow, task = found["RUN etl"], found["load"]
    assert (flow.span_id, flow.parent_span_id, flow.kind) == (ROOT, None, "SERVER")
    assert (task.span_id, task.parent_span_id, task.kind) == (TASK, ROOT, "INTERNAL")
    assert (flow.start, flow.end, task.start) == (after(5), after(60), after(10))
    assert flow.open == Open("running", after(55), "execution")
    assert task.open == Open("running", after(55), "retry")
    assert flow.facts.execution == 45 * SECOND
    assert task.facts.retry == 10 * SECOND
    assert (flow.facts.tags, flow.facts.run_id) == (("nightly",), run_id_of("RUN etl"))
    assert semconv.RUN_ACTIVITY not in flow.attributes


def test_a_run_that_is_not_heard_of_for_three_heartbeats_is_lost(folder: Path) -> None:
    """It is known up to when its process was last heard of."""
    process = Reporter(folder / "logs.jsonl")
    process.report("RUN etl", 5)
    process.report("load", 60 - 3 * HEARTBEAT - 3, start=6, span_id=TASK, parent=ROOT)
    found = spans(folder)
    assert {one.open for one in found.values()} == {Open("lost", after(27), "execution")}
    assert {one.end for one in found.values()} == {after(27)}
    process.report("load", 31, start=6, span_id=TASK, parent=ROOT, event=semconv.RUN_RUNNING)
    assert {one.open and one.open.state for one in spans(folder).values()} == {"running"}


def test_a_run_with_a_span_has_ended(folder: Path) -> None:
    """Its reports say nothing more, whatever they say."""
    written = write(folder / "traces.jsonl", run("RUN etl", 0, 10, run("load", 1, 5)))
    process = Reporter(folder / "logs.jsonl", written.trace_id)
    process.report("RUN etl", 59, span_id=written.span_ids["RUN etl"])
    found = spans(folder)
    assert {one.open for one in found.values()} == {None}
    assert found["RUN etl"].end == after(10)


def test_a_process_that_ended_a_run_was_heard_of_then(folder: Path) -> None:
    """Spans count, too, if they are of the same process."""
    plan = run("load", 1, 25)
    plan.attributes |= {semconv.PROCESS_ID: 1, semconv.HOST_NAME: "here"}
    written = write(folder / "traces.jsonl", run("RUN etl", 0, 40, plan, lost=True))
    other = Reporter(folder / "logs.jsonl", written.trace_id, process_id=2)
    other.report("other", 3, start=3, span_id=TASK, parent=written.span_ids["RUN etl"])
    process = Reporter(folder / "logs.jsonl", written.trace_id)
    process.report("RUN etl", 2, span_id=written.span_ids["RUN etl"])
    found = spans(folder)
    assert found["RUN etl"].open == Open("lost", after(25), "execution")
    assert found["other"].open == Open("lost", after(3), "execution")
    assert found["load"].parent_span_id == found["RUN etl"].span_id


def test_a_killed_parent_keeps_the_child_that_ended_elsewhere(folder: Path) -> None:
    """The trace is whole: the child is below its parent, which is lost."""
    child = run("RUN child", 10, 50)
    written = write(folder / "traces.jsonl", run("RUN etl", 0, 90, child, lost=True))
    Reporter(folder / "logs.jsonl", written.trace_id).report(
        "RUN etl", 15, span_id=written.span_ids["RUN etl"]
    )
    found = spans(folder)
    assert found["RUN etl"].open == Open("lost", after(15), "execution")
    assert found["RUN child"].open is None
    assert found["RUN child"].parent_span_id == found["RUN etl"].span_id


def test_an_attempt_under_way_is_a_span(folder: Path) -> None:
    """Other instrumentations have it as the parent of their spans."""
    process = Reporter(folder / "logs.jsonl")
    process.report("RUN etl", 50)
    told: dict[str, Any] = {
        semconv.ATTEMPT: 2,
        semconv.ATTEMPT_SPAN_ID: "a" * 16,
        semconv.ATTEMPT_START: after(30),
    }
    process.report("load", 50, start=1, span_id=TASK, parent=ROOT, also=told)
    attempt = spans(folder)["attempt 2"]
    assert (attempt.span_id, attempt.parent_span_id) == ("a" * 16, TASK)
    assert (attempt.start, attempt.end, attempt.facts.attempt) == (after(30), after(60), 2)
    assert spans(folder)["load"].facts.attempt is None
    del told[semconv.ATTEMPT_SPAN_ID]
    process.report("load", 55, start=1, span_id=TASK, parent=ROOT, activity="retry", also=told)
    assert "attempt 2" not in spans(folder)


def _quick_then_killed(folder: Path, killed_at: float = 8) -> str:
    written = write(folder / "traces.jsonl", run("RUN quick", 0, 5))
    slow = Reporter(folder / "logs.jsonl", "cd" * 16)
    slow.report("RUN slow", 6, start=6)
    slow.report("RUN slow", killed_at, start=6, event=semconv.RUN_RUNNING)
    quick = Reporter(folder / "logs.jsonl", written.trace_id, process_id=2)
    quick.report("RUN quick", 0, span_id=written.span_ids["RUN quick"])
    return written.trace_id


def test_the_latest_run_may_be_one_that_was_killed(folder: Path) -> None:
    """It comes after runs that ended before it was last heard of."""
    _quick_then_killed(folder)
    assert [*spans(folder)] == ["RUN slow"]
    assert [*spans(folder, "latest~1")] == ["RUN quick"]
    write(folder / "traces.jsonl", run("RUN later", 7, 9))
    assert [*spans(folder)] == ["RUN later"]
    assert [*spans(folder, "latest~1")] == ["RUN slow"]


def test_a_running_run_is_later_than_all_that_have_ended(folder: Path) -> None:
    """Even if another one has ended after its last report."""
    _quick_then_killed(folder, killed_at=51)
    written = write(folder / "traces.jsonl", run("RUN later", 52, 58))
    later = Reporter(folder / "logs.jsonl", written.trace_id, process_id=3)
    later.report("RUN later", 52, start=52, span_id=written.span_ids["RUN later"])
    assert [*spans(folder)] == ["RUN slow"]
    assert [*spans(folder, "latest~1")] == ["RUN later"]


def test_the_latest_of_a_flow_or_since_a_time_may_be_open(folder: Path) -> None:
    """The options apply to open runs, too."""
    _quick_then_killed(folder)
    found = trace_files.load(folder, flow="quick")
    assert [span.name for span in found.spans] == ["RUN quick"]
    found = trace_files.load(folder, since=after(7))
    assert [span.name for span in found.spans] == ["RUN slow"]
    with pytest.raises(UnknownRunError):
        trace_files.load(folder, since=after(9))


@pytest.mark.parametrize("wanted", ["latest", "ab" * 16, "run", "task"])
def test_a_trace_without_any_span_is_found(folder: Path, wanted: str) -> None:
    """The first flow of a script may be killed before anything has ended."""
    process = Reporter(folder / "logs.jsonl")
    flow_id, task_id = run_id_of("RUN etl"), run_id_of("load")
    process.report("RUN etl", 5, also={semconv.FLOW_RUN_ID: flow_id})
    process.report("load", 5, span_id=TASK, parent=ROOT, also={semconv.FLOW_RUN_ID: flow_id})
    wanted = {"run": flow_id, "task": task_id}.get(wanted, wanted)
    assert {*spans(folder, wanted)} == {"RUN etl", "load"}


def test_one_file_of_spans_has_only_its_own_traces(folder: Path) -> None:
    """It may be an old one; its traces still get their open runs."""
    trace_id = _quick_then_killed(folder)
    file = folder / "traces.jsonl"
    assert [*spans(file)] == ["RUN quick"]
    Reporter(folder / "logs.jsonl", trace_id).report("load", 4, span_id=TASK, parent=ROOT)
    assert {*spans(file)} == {"RUN quick", "load"}


def test_a_report_that_cannot_be_read_does_not_cost_the_others(folder: Path) -> None:
    """It is a problem of the trace that it mentions."""
    file = folder / "logs.jsonl"
    Reporter(file).report("RUN etl", 50)
    Reporter(file, "cd" * 16).report("RUN other", 40)
    with file.open("a") as lines:
        lines.write(file.read_text().splitlines()[0].replace(ROOT, TASK)[:-30] + "\n")
    trace = trace_files.load(folder, "ab" * 16)
    assert [span.name for span in trace.spans] == ["RUN etl"]
    assert [problem.line for problem in trace.problems] == [3]
    assert spans(folder, "cd" * 16)


def test_only_reports_make_open_runs(folder: Path) -> None:
    """Other log records of a trace say nothing about runs."""
    file = folder / "logs.jsonl"
    Reporter(file).report("RUN etl", 50)
    line = file.read_text().replace(f'"{semconv.RUNS_SCOPE}"', '"flowspan.runs.like"')
    file.write_text(line)
    with pytest.raises(UnknownRunError):
        trace_files.load(folder, "ab" * 16)


def test_reports_may_be_protobuf(folder: Path) -> None:
    """The Collector's file exporter can write that; the spans are the same."""
    process = Reporter(folder / "logs.jsonl")
    process.report("RUN etl", 50, also={semconv.TAGS: ["nightly"], semconv.EXECUTION: 1.5})
    expected = spans(folder)["RUN etl"]
    data = LogsData()
    for line in (folder / "logs.jsonl").read_text().splitlines():
        request = json.loads(line)
        for record in request["resourceLogs"][0]["scopeLogs"][0]["logRecords"]:
            for name in ("traceId", "spanId"):  # protobuf's own JSON has base64
                record[name] = _base64(record[name])
        data.MergeFrom(Parse(json.dumps(request), LogsData(), ignore_unknown_fields=True))
    (folder / "logs.jsonl").unlink()
    message = data.SerializeToString()
    (folder / "telemetry.binpb").write_bytes(len(message).to_bytes(4, "big") + message)
    found = spans(folder)["RUN etl"]
    assert found == expected
    assert found.open == expected.open


def _base64(hexadecimal: str) -> str:
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode()


def test_a_run_of_hours_is_read_quickly(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its reports, only the first and the last are decoded."""
    process = Reporter(folder / "logs.jsonl")
    process.report("RUN etl", 0)
    for second in range(1, 50):
        process.report("RUN etl", second, event=semconv.RUN_RUNNING)
    decoded: list[int] = []
    read = open_runs._reports

    def count(raw: bytes) -> object:
        decoded.append(len(raw))
        return read(raw)

    monkeypatch.setattr(open_runs, "_reports", count)
    found = spans(folder, "ab" * 16)
    assert found["RUN etl"].open == Open("running", after(49), "execution")
    assert len(decoded) == 2
