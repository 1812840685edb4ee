"""The document for Perfetto and speedscope."""

import json
from typing import Any

from hypothesis import given
from made_spans import run, span, span_id, trace, traces
from rendered import rendered
from run_spans import EPOCH
from trace_events import Event, check

from flowspan.analysis.one_trace import analyse
from flowspan.read.span import Trace
from flowspan.views.perfetto import render

US, MS = 1_000, 1_000_000


def export(made: Trace) -> dict[str, Any]:
    """Write a trace, and read the document."""
    written = rendered(render, made)
    document: dict[str, Any] = json.loads(written)
    check(document)
    return document


def slices(document: dict[str, Any]) -> dict[str, Event]:
    """Return the slices of spans by name, without the critical path."""
    return {
        event["name"]: event
        for event in document["traceEvents"]
        if event["ph"] == "X" and event["cat"] != "critical path"
    }


def named(document: dict[str, Any], event: Event) -> tuple[str, str]:
    """Return the names of an event's process and thread."""
    names = {
        (found["pid"], found["tid"], found["name"]): found["args"].get("name", "")
        for found in document["traceEvents"]
        if found["ph"] == "M"
    }
    pid, tid = event["pid"], event["tid"]
    return names[pid, tid, "process_name"], names[pid, tid, "thread_name"]


def test_spans_are_slices_with_their_attributes() -> None:
    """Times are microseconds from the start, and exact among the arguments."""
    document = export(
        trace(
            run(1, 0, 9 * MS + 1, type_="flow", name="RUN etl"),
            run(2, MS + 999, 5 * MS, name="load", parent=1, failed=True, attributes={"a": [1, 2]}),
        )
    )
    made = slices(document)
    assert (made["RUN etl"]["ts"], made["RUN etl"]["dur"]) == (0, 9_000)
    assert (made["load"]["ts"], made["load"]["dur"]) == (1_000, 4_000)
    assert (made["RUN etl"]["cat"], made["load"]["cat"]) == ("flow", "task,failed")
    arguments = made["load"]["args"]
    assert (arguments["start_ns"], arguments["end_ns"]) == (EPOCH + MS + 999, EPOCH + 5 * MS)
    assert arguments["attributes"]["a"] == [1, 2]
    assert (arguments["span_id"], arguments["parent_span_id"]) == (span_id(2), span_id(1))
    assert document["otherData"] == {"trace_id": "ab" * 16, "start_ns": EPOCH}


def test_what_a_run_calls_lies_inside_its_slice() -> None:
    """It is on the same track, because nesting shows the caller in this format."""
    made = slices(
        export(
            trace(
                run(1, 0, 10 * MS, type_="flow", name="flow"),
                run(2, MS, 8 * MS, name="task", parent=1),
                span(3, 2 * MS, 3 * MS, name="query", parent=2),
            )
        )
    )
    assert len({event["tid"] for event in made.values()}) == 1


def test_what_overlaps_goes_onto_a_track_of_its_own() -> None:
    """A run that ended leaves its track to the next."""
    document = export(
        trace(
            run(1, 0, 10 * MS, type_="flow", name="flow"),
            run(2, MS, 5 * MS, name="a", parent=1),
            run(3, 2 * MS, 6 * MS, name="b", parent=1),
            run(4, 7 * MS, 12 * MS, name="outlives", parent=1),
        )
    )
    made = slices(document)
    assert made["a"]["tid"] == made["flow"]["tid"]
    assert made["b"]["tid"] == made["outlives"]["tid"] != made["flow"]["tid"]
    assert named(document, made["b"]) == ("nightly", "runs (2)")


def test_no_slice_lies_inside_one_that_did_not_call_it() -> None:
    """This holds even if it would fit there."""
    made = slices(
        export(
            trace(
                run(1, 0, 10 * MS, type_="flow", name="flow"),
                run(2, MS, 9 * MS, name="long", parent=1),
                run(3, 2 * MS, 3 * MS, name="short", parent=1),
            )
        )
    )
    assert made["long"]["tid"] != made["short"]["tid"]


def test_threads_and_processes_are_tracks() -> None:
    """They have OpenTelemetry's names; a span without a thread is in its caller's."""
    worker = {"service.name": "worker", "process.pid": 42, "service.instance.id": "w"}
    pool = {"thread.id": 7, "thread.name": "pool-0"}
    document = export(
        trace(
            run(1, 0, 10 * MS, type_="flow", name="flow", attributes={"thread.id": 1}),
            run(2, MS, 5 * MS, name="pooled", parent=1, attributes=pool),
            span(3, 2 * MS, 3 * MS, name="query", parent=2),
            run(4, 6 * MS, 7 * MS, name="pooled later", parent=1, attributes=pool),
            run(5, MS, 8 * MS, type_="flow", name="afar", parent=1, resource=worker),
        )
    )
    made = slices(document)
    assert named(document, made["flow"]) == ("nightly", "thread 1")
    assert named(document, made["pooled"]) == ("nightly", "pool-0")
    assert made["pooled"]["tid"] == made["query"]["tid"] == made["pooled later"]["tid"]
    assert named(document, made["afar"]) == ("worker (pid 42)", "runs")


def test_the_critical_path_has_a_track() -> None:
    """It fills the time of the root, and each piece names its cause."""
    made = trace(
        run(1, 0, 10 * MS, type_="flow", name="flow"),
        run(2, 2 * MS, 9 * MS, name="task", parent=1),
    )
    document = export(made)
    path = [event for event in document["traceEvents"] if event.get("cat") == "critical path"]
    assert {named(document, event)[1] for event in path} == {"critical path"}
    assert [(event["args"]["span_id"], event["args"]["cause"]) for event in path] == [
        (step.span_id, step.cause) for step in analyse(made.spans).critical_path
    ]
    ends = [event["ts"] + event["dur"] for event in path]
    assert [event["ts"] for event in path] == [0, *ends[:-1]]
    assert ends[-1] == 10_000


def test_arrows_lead_from_a_run_to_those_that_used_its_result() -> None:
    """Arrows do not point back in time or to missing spans."""
    document = export(
        trace(
            run(1, 0, 10 * MS, type_="flow", name="flow"),
            run(2, MS, 2 * MS, name="first", parent=1, upstream=[9]),
            run(3, 3 * MS, 4 * MS, name="second", parent=1, upstream=[2]),
            run(4, 3 * MS, 5 * MS, name="third", parent=1, upstream=[2, 5]),
            run(5, 6 * MS, 7 * MS, name="late", parent=1),
        )
    )
    tids = {event["tid"]: name for name, event in slices(document).items() if name != "flow"}
    assert len(tids) >= 2
    ends = [e for e in document["traceEvents"] if e["ph"] in ("s", "f")]
    assert sorted((e["ph"], e["ts"]) for e in ends) == [
        ("f", 3_000),
        ("f", 3_000),
        ("s", 1_000),
        ("s", 1_000),
    ]


@given(traces())
def test_whatever_the_trace_the_format_holds(made: Trace) -> None:
    """Every span occurs once, exact to the microsecond."""
    document = export(made)
    found = {
        event["args"]["span_id"]: event
        for event in document["traceEvents"]
        if event["ph"] == "X" and event["cat"] != "critical path"
    }
    assert sorted(found) == sorted(one.span_id for one in made.spans)
    origin = document["otherData"]["start_ns"]
    for one in made.spans:
        event = found[one.span_id]
        assert event["ts"] == (one.start - origin) // US
        assert event["ts"] + event["dur"] == (one.end - origin) // US


def test_thousands_of_runs_at_once_are_no_trouble() -> None:
    """Each has its own track."""
    spans = [run(1, 0, 10**9, type_="flow")]
    spans += [run(n, n, 10**9 - n, parent=1, name="mapped") for n in range(2, 5_002)]
    document = export(trace(*spans))
    tids = {event["tid"] for event in document["traceEvents"] if event["ph"] == "X"}
    assert len(tids) == 5_001
