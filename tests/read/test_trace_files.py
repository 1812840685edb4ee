"""Reading spans from files."""

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.exporter.otlp.json.file import FileSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import StatusCode
from rendered import rendered
from span_files import EPOCH, Plan, raw_line, raw_span, run, write

from flowspan import semconv
from flowspan.read import span, trace_files
from flowspan.read.events import Event, Link
from flowspan.read.texts import open_files
from flowspan.views.json import timeline

if TYPE_CHECKING:
    from flowspan.read.lines import Problem
from flowspan.read.open_runs import OpenRuns

TRACE = "ab" * 16


def names(trace: span.Trace) -> list[str]:
    """Return the names of a trace's spans."""
    return [span.name for span in trace.spans]


def reasons(trace: span.Trace) -> list[tuple[int, str]]:
    """Return lines and reasons of a trace's problems."""
    return [(problem.line, problem.reason) for problem in trace.problems]


def test_a_span_of_the_sdk_is_read_as_it_was_recorded(tmp_path: Path) -> None:
    """Every attribute type, events, links, status, kind and resource are preserved."""
    file = tmp_path / "traces.jsonl"
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(FileSpanExporter(file)))
    attributes: dict[str, Any] = {
        "i": -7,
        "big": 2**62,
        "f": 0.5,
        "t": True,
        "no": False,
        "s": "é\n",
        "l": [1, 2],
    }
    span = provider.get_tracer("t").start_span("a", attributes=attributes, start_time=EPOCH)
    span.add_event("Running", {"n": 1}, timestamp=EPOCH + 5)
    span.add_link(span.get_span_context(), {"z": "1"})
    span.set_status(StatusCode.ERROR, "it broke")
    span.end(EPOCH + 10)

    (found,) = trace_files.load(file).spans

    assert found.attributes == attributes
    assert (found.start, found.end, found.duration) == (EPOCH, EPOCH + 10, 10)
    assert found.events == (Event("Running", EPOCH + 5, {"n": 1}),)
    assert found.links == (Link(found.trace_id, found.span_id, {"z": "1"}),)
    assert (found.status, found.status_message) == ("ERROR", "it broke")
    assert (found.kind, found.parent_span_id) == ("INTERNAL", None)
    assert found.resource["telemetry.sdk.language"] == "python"


def test_latest_is_the_trace_whose_run_ended_last(tmp_path: Path) -> None:
    """Neither the order of files nor a later span of another instrumentation changes it."""
    write(tmp_path / "traces-1.jsonl", run("RUN late", 0, 90))
    write(tmp_path / "traces.jsonl", run("RUN early", 0, 50))
    write(tmp_path / "traces.jsonl", Plan("GET", 0, 100))
    assert names(trace_files.load(tmp_path)) == ["RUN late"]


@pytest.mark.parametrize("last", ["late", "early"])
def test_latest_is_whole_whichever_trace_was_written_last(last: str, tmp_path: Path) -> None:
    """Including its spans on lines of other traces; each problem is reported once."""
    early, late = "cd" * 16, "ef" * 16
    spans = {
        "early": raw_span(1, name="early", traceId=early),
        "late": raw_span(2, name="late", traceId=late, endTimeUnixNano=str(EPOCH + 90_000)),
    }
    first = raw_span(3, name="first", traceId=late)
    shared = raw_line(first, raw_span(4, name="other", traceId=early))
    file = tmp_path / "traces.jsonl"
    order = sorted(spans, key=lambda name: name == last)
    file.write_text("".join([shared, "broken\n", *(raw_line(spans[name]) for name in order)]))
    trace = trace_files.load(file)
    assert trace.trace_id == late
    assert sorted(names(trace)) == ["first", "late"]
    assert reasons(trace) == [(2, "not JSON")]


def test_latest_without_any_run_is_the_trace_that_ended_last(tmp_path: Path) -> None:
    """Files of other instrumentations alone work, too."""
    write(tmp_path / "traces.jsonl", Plan("GET", 0, 100))
    write(tmp_path / "traces.jsonl", Plan("POST", 0, 50))
    assert names(trace_files.load(tmp_path)) == ["GET"]


def test_a_trace_is_found_by_its_id_and_by_the_id_of_any_run_in_it(tmp_path: Path) -> None:
    """Ids may be in upper case, run ids without dashes."""
    flow, task = str(uuid.uuid4()), str(uuid.uuid4())
    file = tmp_path / "traces.jsonl"
    tree = run("RUN etl", 0, 10, run("load", 1, 2, run_id=task), run_id=flow)
    trace_id = write(file, tree).trace_id
    write(file, run("RUN other", 0, 20))
    wanted = (trace_id, trace_id.upper(), flow, flow.replace("-", ""), task, task.upper())
    assert [trace_files.load(file, text).trace_id for text in wanted] == [trace_id] * len(wanted)


def test_a_flow_run_without_a_span_is_found_by_its_tasks(tmp_path: Path) -> None:
    """A killed process never exports the flow's span, but its tasks have the flow run's id."""
    flow = str(uuid.uuid4())
    task = run("load", 1, 2)
    task.attributes[semconv.FLOW_RUN_ID] = flow
    trace_id = write(tmp_path / "traces.jsonl", run("RUN etl", 0, 10, task, lost=True)).trace_id
    assert trace_files.load(tmp_path, flow).trace_id == trace_id


def test_one_trace_is_put_together_from_all_files_and_lines(tmp_path: Path) -> None:
    """Two processes write one trace; repeated spans appear once; logs are ignored."""
    write(tmp_path / "traces.jsonl", run("RUN etl", 0, 9, run("a", 1, 2), run("b", 3, 4)), batch=1)
    lines = (tmp_path / "traces.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "traces-2.jsonl").write_text(lines[0] + lines[2])
    (tmp_path / "traces.jsonl").write_text(lines[1] + lines[2])
    (tmp_path / "logs.jsonl").write_text("nonsense")
    trace = trace_files.load(tmp_path)
    assert (names(trace), trace.problems) == (["RUN etl", "a", "b"], ())


def test_of_two_spans_with_one_id_the_fuller_is_kept(tmp_path: Path) -> None:
    """A second observer may add what the first could not know."""
    file = tmp_path / "f.jsonl"
    attributes = [{"key": "k", "value": {"stringValue": "v"}}]
    file.write_text(raw_line(raw_span(1, attributes=attributes)) + raw_line(raw_span(1)))
    assert [span.attributes for span in trace_files.load(file).spans] == [{"k": "v"}]


def test_only_ids_and_times_are_needed(tmp_path: Path) -> None:
    """Numeric times, upper-case ids, an empty parent and enum names are read, too."""
    file = tmp_path / "f.jsonl"
    span = raw_span(
        1,
        traceId=TRACE.upper(),
        startTimeUnixNano=EPOCH,
        endTimeUnixNano=EPOCH + 5,
        parentSpanId="",
        kind="SPAN_KIND_CLIENT",
        status={"code": "STATUS_CODE_OK"},
    )
    bare = raw_span(2)
    del bare["name"], bare["endTimeUnixNano"]
    file.write_text(raw_line(span) + "\n \n" + raw_line(bare))
    trace = trace_files.load(file, TRACE)
    first, second = trace.spans
    assert (first.start, first.end, first.kind, first.status) == (EPOCH, EPOCH + 5, "CLIENT", "OK")
    assert (second.name, second.kind, second.status) == ("", "UNSPECIFIED", "UNSET")
    assert (second.duration, second.parent_span_id, trace.problems) == (0, None, ())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (raw_line(raw_span(9))[:-30].encode(), "cut off: the line ends in the middle"),
        (b"\x00\x01\xff\xfe{", "not UTF-8 text"),
        (b'{"resourceSpans": "\xff"}', "not UTF-8 text"),
        (b"hello", "not JSON"),
        (b"[1, 2]", "not OTLP: JSON, but no object"),
        (b"42", "not OTLP: JSON, but no object"),
        (b"{}", "not OTLP: no resourceSpans"),
        (b'{"resourceLogs": []}', "holds logs, not spans"),
        (b'{"resourceMetrics": []}', "holds metrics, not spans"),
        (b'{"resourceSpans": {}}', "not OTLP: resourceSpans is no list of objects"),
        (b'{"resourceSpans": [1]}', "not OTLP: resourceSpans is no list of objects"),
        (b"[" * 100_000, "not JSON"),
        (raw_line(raw_span(9, traceId="")).encode(), "span skipped: no trace id"),
        (raw_line(raw_span(9, spanId="00" * 8)).encode(), "span skipped: its span id is malformed"),
        (
            raw_line(raw_span(9, startTimeUnixNano="soon")).encode(),
            "span skipped: its start time is no number",
        ),
        (
            raw_line(raw_span(9, endTimeUnixNano=2**70)).encode(),
            "span skipped: its end time is out of range",
        ),
        (
            raw_line(raw_span(9, attributes=7)).encode(),
            "span skipped: not OTLP: attributes is no list of objects",
        ),
    ],
)
@pytest.mark.parametrize("wanted", ["latest", TRACE])
def test_a_bad_line_is_named_and_everything_else_is_read(
    tmp_path: Path, line: bytes, reason: str, wanted: str
) -> None:
    """The problem has the line and the reason; spans before and after it are read."""
    file = tmp_path / "f.jsonl"
    file.write_bytes(
        b"\n".join([raw_line(raw_span(1)).encode(), line, raw_line(raw_span(2)).encode()])
    )
    trace = trace_files.load(file, wanted)
    assert names(trace) == ["span 1", "span 2"]
    assert reasons(trace) == [(3, reason)]


def test_a_bad_span_does_not_cost_its_neighbours(tmp_path: Path) -> None:
    """Only the span without an id is missing from its line."""
    file = tmp_path / "f.jsonl"
    file.write_text(raw_line(raw_span(1), raw_span(2, spanId=None), raw_span(3)))
    trace = trace_files.load(file)
    assert (names(trace), reasons(trace)) == (
        ["span 1", "span 3"],
        [(1, "span skipped: no span id")],
    )


def test_braces_and_ids_inside_text_are_no_problem(tmp_path: Path) -> None:
    """If the quick check of a line of another trace is unsure, the line is parsed."""
    write(tmp_path / "traces.jsonl", Plan('{ "traceId":"', 0, 1))
    write(tmp_path / "traces.jsonl", run("RUN etl", 0, 10))
    assert trace_files.load(tmp_path).problems == ()


def test_text_that_is_no_unicode_does_not_cost_the_line(tmp_path: Path) -> None:
    """An undecodable file name is a lone surrogate in the file."""
    write(
        tmp_path / "traces.jsonl", run("RUN etl", 0, 10, run("load", 1, 2, error="no \udcff.csv"))
    )
    trace = trace_files.load(tmp_path)
    assert [span.status_message for span in trace.spans] == ["", "no ?.csv"]
    assert rendered(timeline.render, trace)


def test_an_unreadable_file_does_not_cost_the_others(tmp_path: Path) -> None:
    """A file that cannot be opened is a separate problem."""
    good, gone = tmp_path / "traces.jsonl", tmp_path / "traces-1.jsonl"
    trace_id = write(good, run("RUN etl", 0, 10)).trace_id
    problems: list[Problem] = []
    texts = open_files([gone, good], problems)
    assert len(trace_files._read_spans(texts, trace_id, OpenRuns()).spans) == 1
    assert [str(problem) for problem in problems] == [f"{gone}: No such file or directory"]


def test_the_json_document_has_the_documented_shape(tmp_path: Path) -> None:
    """Times are integers, a root's parent is null, numbers that JSON lacks are text."""
    tree = run("RUN etl", 0, 2, run("load", 1, 2, error="no"))
    tree.attributes |= {"nan": float("nan"), "inf": float("-inf"), "list": [1.5, 2.5]}
    ids = write(tmp_path / "traces.jsonl", tree)
    document = json.loads(rendered(timeline.render, trace_files.load(tmp_path)))
    root, child = document["spans"]
    first, second, *_, last = document
    assert (first, second, last) == ("version", "trace_id", "spans")
    assert document["trace_id"] == ids.trace_id
    assert (root["parent_span_id"], child["parent_span_id"]) == (None, ids.span_ids["RUN etl"])
    assert (root["start"], root["end"]) == (EPOCH, EPOCH + 2_000_000_000)
    assert (
        root["attributes"] | {"nan": "NaN", "inf": "-Infinity", "list": [1.5, 2.5]}
        == root["attributes"]
    )
    assert child["status"] == {"code": "ERROR", "message": "no"}
    assert root["status"] == {"code": "UNSET", "message": ""}
    assert set(root) == {
        "span_id",
        "parent_span_id",
        "name",
        "kind",
        "start",
        "end",
        "worker",
        "attributes",
        "links",
        "events",
        "status",
        "resource",
    }
