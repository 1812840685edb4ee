"""Traces that flowspan did not write: Prefect's own spans, and any others."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from span_files import EPOCH, Plan, raw_line, raw_span, write

from flowspan import semconv
from flowspan.analysis import tree
from flowspan.analysis.one_trace import analyse
from flowspan.read import span, trace_files
from flowspan.read.events import Event
from flowspan.read.facts import Facts, facts_of
from flowspan.read.prefect_spans import complete
from flowspan.views.terminal import timeline

FLOW = Path(__file__).parent.parent / "flows" / "native.py"


@pytest.fixture(scope="module")
def native(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> span.Trace:
    """The trace of a flow by Prefect's own telemetry."""
    file = tmp_path_factory.mktemp("native") / "traces.jsonl"
    telemetry = {"PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "true"}
    done = subprocess.run(
        [sys.executable, FLOW, file],
        env={**os.environ, "PREFECT_API_URL": prefect_server, **telemetry},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return trace_files.load(file)


def facts(trace: span.Trace, task_name: str) -> Facts:
    (found,) = (s.facts for s in trace.spans if s.facts.task_name == task_name)
    return found


def test_a_native_task_run_tells_its_name_and_times(native: span.Trace) -> None:
    """Its name is the run's without the suffix; execution is the time in Running states."""
    extract = facts(native, "extract")
    assert extract.is_native
    assert (extract.run_type, extract.run_count, extract.tags) == ("task", 1, ("io",))
    assert (extract.state_type, extract.state_name) == ("COMPLETED", "Completed")
    assert (extract.result, extract.error_type, extract.is_cached) == ("success", None, False)
    assert extract.execution is not None
    assert extract.execution > 0
    assert extract.flow_name is None
    (span,) = (s for s in native.spans if s.facts is extract)
    assert extract.running_since is not None
    assert span.start <= extract.running_since <= span.end
    assert span.name.startswith("extract-")


def test_a_native_run_that_was_retried_tells_its_attempts_and_the_wait(native: span.Trace) -> None:
    """From its state events; if the run succeeded, the exception is not its error."""
    load = facts(native, "load")
    assert (load.run_count, load.result, load.error_type) == (2, "success", None)
    assert 150_000_000 < load.retry < 2_000_000_000
    (span,) = (s for s in native.spans if s.facts is load)
    extract = next(s for s in native.spans if s.facts.task_name == "extract")
    assert span.upstream == (extract.span_id,)


def test_a_native_run_that_failed_tells_its_error(native: span.Trace) -> None:
    """Like flowspan's own."""
    broken = facts(native, "broken")
    assert (broken.result, broken.error_type) == ("failure", "KeyError")


def test_a_native_flow_run_is_what_the_trace_is_about(native: span.Trace) -> None:
    """The flow's name is unknown, but the run's is known."""
    built = tree.build(native.spans)
    assert built.about.span.facts.run_type == "flow"
    assert built.about.span.facts.flow_run_id == built.about.span.facts.run_id
    assert built.runs == 4
    title = next(iter(timeline.draw(built, width=120))).plain
    assert title.startswith(f"{built.about.span.name}  ✓ success  ")
    assert title.count(built.about.span.name) == 1


def test_the_analysis_says_that_the_spans_are_native(native: span.Trace) -> None:
    """The summary is by names of tasks, not of runs."""
    found = analyse(native.spans)
    assert found.source == "prefect"
    assert {task.name for task in found.tasks} >= {"extract", "load", "broken"}


@pytest.mark.parametrize(
    ("run_name", "task_name"),
    [
        ("extract-bf4", "extract"),
        ("extract-0", "extract"),
        ("load-table-12", "load-table"),
        ("load table for us-east", "load table for us-east"),
        ("extract-bf4d", "extract-bf4d"),
    ],
)
def test_the_name_of_a_native_task(run_name: str, task_name: str) -> None:
    """Only the suffix that Prefect adds is removed."""
    known = facts_of({semconv.RUN_TYPE: "task", semconv.RUN_NAME: run_name})
    assert complete(known, ()).task_name == task_name


def test_a_native_run_without_any_event_is_all_defaults() -> None:
    """The span may have ended before any state."""
    known = complete(facts_of({semconv.RUN_TYPE: "flow"}), ())
    assert known == Facts(run_type="flow", is_native=True)


def test_pauses_and_final_states_of_a_native_run() -> None:
    """A run that paused for two seconds, then timed out, without an exception on its span."""
    told = [("RUNNING", "Running"), ("PAUSED", "Paused"), ("RUNNING", "Running")]
    states = [*told, ("FAILED", "TimedOut")]
    events = [
        Event(name, EPOCH + n * 2_000, {semconv.STATE_TYPE: kind})
        for n, (kind, name) in enumerate(states)
    ]
    known = complete(facts_of({semconv.RUN_TYPE: "flow"}), reversed(events))
    assert (known.execution, known.pause, known.run_count) == (4_000, 2_000, 1)
    assert (known.result, known.error_type) == ("timeout", "TimedOut")
    assert known.running_since == EPOCH


def test_flowspans_own_spans_are_not_taken_for_native(tmp_path: Path) -> None:
    """Nor is a task that runs outside any flow."""
    for name in (semconv.FLOW_NAME, semconv.TASK_NAME):
        span = Plan("x", 0, 1, attributes={semconv.RUN_TYPE: "task", name: "x"})
        write(tmp_path / "traces.jsonl", span)
        (found,) = trace_files.load(tmp_path).spans
        assert not found.facts.is_native


def test_a_trace_without_any_run_can_be_drawn_and_analysed(tmp_path: Path) -> None:
    """Of another instrumentation, with links without types and its own kinds."""
    link: dict[str, Any] = {"traceId": "ab" * 16, "spanId": f"{2:016x}"}
    spans = [
        raw_span(1, name="POST /orders", kind=2, endTimeUnixNano=str(EPOCH + 9_000)),
        raw_span(2, name="SELECT", kind="SPAN_KIND_VENDOR", parentSpanId=f"{1:016x}"),
        raw_span(3, name="publish", kind=99, parentSpanId=f"{1:016x}", links=[link]),
        raw_span(4, name="lost", parentSpanId="f" * 16),
    ]
    file = tmp_path / "spans.json"
    file.write_text(raw_line(*spans))
    trace = trace_files.load(file)
    assert [span.kind for span in trace.spans] == ["SERVER", *["UNSPECIFIED"] * 3]
    assert {span.facts for span in trace.spans} == {Facts()}
    assert trace.spans[2].upstream == (f"{2:016x}",)
    lines = [line.plain for line in timeline.draw(tree.build(trace.spans), width=120)]
    assert any("its parent ffffffffffffffff is not in these files" in line for line in lines)
    found = analyse(trace.spans)
    assert (found.source, found.root_id) == ("plain", f"{1:016x}")
