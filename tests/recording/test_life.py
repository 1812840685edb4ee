"""The life of a recorder, as drawn in flowspan.recording.recorder: states and what they write."""

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from flowspan import semconv
from flowspan.recording.instruments import RunMetrics
from flowspan.recording.recorder import RunRecorder, RunTracer
from flowspan.recording.run import Attributes, Run, State

START = 1_000


class Life:
    """A tracer whose spans and metrics are kept here, and the details of its runs."""

    def __init__(self) -> None:
        self._spans, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self.tracer = RunTracer(provider, RunMetrics(MeterProvider([self._reader])))

    def identify(self) -> Attributes:
        return {}

    def attributes(self) -> Attributes:
        return {}

    def begin(self, run_id: str = "task", caller: RunRecorder | None = None) -> RunRecorder:
        run = Run(
            id=run_id,
            flow_name="main",
            task_name=None if run_id == "flow" else run_id,
            kind=SpanKind.INTERNAL,
            start=START,
            trace_id=1,
            parent=None,
            run_count=0,
            allows_retries=True,
            upstream=(),
        )
        return self.tracer.start(run, self, caller)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._spans.get_finished_spans())

    def total(self, metric: str) -> int:
        data = self._reader.get_metrics_data()
        points: list[Any] = [
            point
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for found in scope.metrics
            if found.name == metric
            for point in found.data.data_points
        ]
        return sum(point.value for point in points)


def state(name: str, time: int, kind: str | None = None) -> State:
    return State(kind or name.upper(), name, f"{name}-{time}", None, time)


def completed(recorder: RunRecorder) -> None:
    recorder.begin_attempt(START + 10)
    recorder.enter_state(state("Running", START + 20))
    recorder.begin_execution(START + 30)
    recorder.end_execution(START + 40)
    recorder.enter_state(state("Completed", START + 50))


def never_tried(_: RunRecorder) -> None:
    """Leave the run before its first attempt."""


def left_while_trying(recorder: RunRecorder) -> None:
    recorder.begin_attempt(START + 10)
    recorder.enter_state(state("Running", START + 20))
    recorder.begin_execution(START + 30)


def left_between_attempts(recorder: RunRecorder) -> None:
    left_while_trying(recorder)
    recorder.fail(ValueError("no"), START + 40)
    recorder.enter_state(state("AwaitingRetry", START + 50, "SCHEDULED"))


@pytest.mark.parametrize("awaits_rollback", [False, True])
@pytest.mark.parametrize("live", [never_tried, left_while_trying, left_between_attempts, completed])
def test_every_way_to_the_end(
    live: Callable[[RunRecorder], None], *, awaits_rollback: bool
) -> None:
    """However a run is left, all spans end once, nested, and the run is no longer active."""
    life = Life()
    recorder = life.begin()
    live(recorder)
    assert life.total(semconv.METRIC_TASK_RUN_ACTIVE) == 1
    if awaits_rollback:
        recorder.await_rollback()
        assert life.total(semconv.METRIC_TASK_RUN_ACTIVE) == 0
        assert life.tracer.active == {"task": recorder}
    for _ in range(2):
        recorder.finish()
        assert life.total(semconv.METRIC_TASK_RUN_ACTIVE) == 0
        assert life.tracer.active == {}
    *attempts, span = life.spans
    assert [one.name for one in attempts] == (["attempt 1"] if live is not never_tried else [])
    assert span.name == "task"
    assert span.start_time == START
    for attempt in attempts:
        assert attempt.start_time is not None
        assert attempt.end_time is not None
        assert span.end_time is not None
        assert START <= attempt.start_time <= attempt.end_time <= span.end_time
    is_complete = live is completed
    assert life.total(semconv.METRIC_TASK_RUNS) == (1 if is_complete else 0)
    if is_complete:
        assert span.end_time == START + 50


def test_attempts_do_not_overlap() -> None:
    """The state after a failed attempt ends its span; the next attempt starts its own."""
    life = Life()
    recorder = life.begin()
    left_between_attempts(recorder)
    recorder.begin_attempt(START + 60)
    recorder.enter_state(state("Retrying", START + 70, "RUNNING"))
    recorder.end_execution(START + 80)
    recorder.enter_state(state("Completed", START + 90))
    recorder.finish()
    first, second, span = life.spans
    assert (first.end_time, second.start_time, second.end_time) == (
        START + 50,
        START + 60,
        START + 90,
    )
    assert [one.status.status_code for one in (first, second, span)] == [
        StatusCode.ERROR,
        StatusCode.UNSET,
        StatusCode.UNSET,
    ]
    assert life.total(semconv.METRIC_TASK_RUN_RETRIES) == 1
    assert (span.attributes or {})[semconv.WAIT_RETRY] == 20 / 1e9


def test_failure_below_is_counted_once() -> None:
    """A task's error that its flow raises too is not counted again for the flow."""
    life = Life()
    flow = life.begin("flow")
    flow.begin_attempt(START)
    task = life.begin("task", flow)
    task.begin_attempt(START)
    error = ValueError("no")
    for recorder in (task, flow):
        recorder.fail(error, START + 10)
        recorder.enter_state(state("Failed", START + 20))
        recorder.finish()
    assert life.total(semconv.METRIC_PIPELINE_RUN_ERRORS) == 1


def test_rollback_after_the_engine_has_left() -> None:
    """A run ends in the state that a transaction sets after the engine has left."""
    life = Life()
    recorder = life.begin()
    completed(recorder)
    recorder.await_rollback()
    recorder.enter_state(state("RolledBack", START + 60, "COMPLETED"))
    recorder.finish()
    span = life.spans[-1]
    assert span.end_time == START + 60
    assert [event.name for event in span.events] == ["Running", "Completed", "RolledBack"]
    recorder.enter_state(state("Late", START + 70, "COMPLETED"))
    assert len(span.events) == 3
    assert recorder.state is not None
    assert recorder.state.name == "Late"


def test_span_ends_whatever_fails() -> None:
    """If a run cannot be described or counted, its span still ends with what is known."""
    life = Life()

    class Broken(Life):
        def attributes(self) -> Attributes:
            raise LookupError("no")

    run = life.begin("other").run
    recorder = life.tracer.start(run, Broken())
    completed(recorder)
    with pytest.raises(LookupError):
        recorder.finish()
    span = life.spans[-1]
    assert span.end_time == START + 50
    assert (span.attributes or {})[semconv.RUN_STATE_NAME] == "Completed"


def test_the_engines_part_of_an_execution_counts_once() -> None:
    """It is no execution, and what overlaps with a wait has been taken off already."""
    life = Life()
    recorder = life.begin()
    recorder.begin_execution(START)
    recorder.wait(semconv.WAIT_CONCURRENCY, START + 100, START + 300)
    recorder.exclude(START + 200, START + 500)
    recorder.exclude(START + 600, START + 700)
    recorder.end_execution(START + 1_000)
    recorder.exclude(START + 1_000, START + 2_000)
    recorder.finish()
    attributes = life.spans[0].attributes or {}
    assert attributes[semconv.EXECUTION] == 500 / 1e9
