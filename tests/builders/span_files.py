"""Write files of spans for tests, with the real SDK and the real file exporter."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.json.file import FileSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context

from flowspan import semconv

EPOCH = 1_700_000_000_000_000_000
"""Second 0 of every trace here, in nanoseconds since the epoch."""


@dataclass
class Plan:
    """A span to write; times in seconds since `EPOCH`."""

    name: str
    start: float
    end: float
    children: tuple["Plan", ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    kind: SpanKind = SpanKind.INTERNAL
    running: float | None = None  # when its state became Running
    lost: bool = False  # its process was killed before it was exported
    violation: str | None = None  # an objective that its flow violated


@dataclass
class Written:
    """The trace's id, and the ids of spans by name (the last one of each name)."""

    trace_id: str
    span_ids: dict[str, str]


class _Keep(SpanExporter):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Any) -> SpanExportResult:
        self.spans += spans
        return SpanExportResult.SUCCESS


def run(
    name: str,
    start: float,
    end: float,
    *children: Plan,
    run_id: str = "",
    run_name: str = "",
    result: str | None = "success",
    state: str = "Completed",
    error: str | None = None,
    lost: bool = False,
    **totals: Any,
) -> Plan:
    """Plan a run's span; `totals` name the last part of ``prefect.wait.*`` and similar."""
    is_flow = name.startswith("RUN ")
    names = {
        key.rpartition(".")[2]: key
        for key in (
            *semconv.WAITS_BEFORE,
            *semconv.WAITS_INSIDE,
            semconv.EXECUTION,
            semconv.ORCHESTRATION,
            semconv.ENGINE_EXIT,
        )
    }
    names |= {"rows": semconv.ROWS_OUTPUT, "count": semconv.RUN_COUNT}
    attributes: dict[str, Any] = {
        semconv.RUN_TYPE: "flow" if is_flow else "task",
        semconv.RUN_ID: run_id or f"run of {name} at {start}",
        semconv.RUN_STATE_NAME: state,
        semconv.FLOW_NAME: name.removeprefix("RUN ") if is_flow else "etl",
        **{names[key]: value for key, value in totals.items()},
    }
    if run_name:
        attributes[semconv.RUN_NAME] = run_name
    if result:
        attributes[semconv.PIPELINE_RESULT if is_flow else semconv.PIPELINE_TASK_RESULT] = result
    kind = SpanKind.SERVER if is_flow else SpanKind.INTERNAL
    return Plan(name, start, end, children, attributes, error, kind, lost=lost)


def attempt(
    number: int, start: float, end: float, *children: Plan, error: str | None = None
) -> Plan:
    """Plan an attempt's span."""
    attributes = {semconv.ATTEMPT: number}
    return Plan(semconv.attempt_span_name(number), start, end, children, attributes, error)


def write(path: Path, root: Plan, *, batch: int = 512, service: str = "nightly") -> Written:
    """Append a trace to a file, one line per batch, children before their parents."""
    keep = _Keep()
    provider = TracerProvider(resource=Resource({"service.name": service}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(keep))
    tracer = provider.get_tracer("flowspan")
    ids: dict[str, str] = {}

    def record(plan: Plan, parent: Span | None) -> Span:
        span = tracer.start_span(
            plan.name,
            context=set_span_in_context(parent) if parent else None,
            kind=plan.kind,
            attributes=plan.attributes,
            start_time=EPOCH + round(plan.start * 1e9),
        )
        if plan.running is not None:
            event = {semconv.STATE_TYPE: "RUNNING", semconv.STATE_NAME: "Running"}
            span.add_event("Running", event, timestamp=EPOCH + round(plan.running * 1e9))
        if plan.violation is not None:
            told = {semconv.SLO_OBJECTIVE: "max_task_share", semconv.SLO_DETAIL: plan.violation}
            span.add_event(semconv.SLO_VIOLATED, told)
        ids[plan.name] = f"{span.get_span_context().span_id:016x}"
        for child in plan.children:
            record(child, span)
        if plan.error is not None:
            span.set_status(Status(StatusCode.ERROR, plan.error))
        if not plan.lost:
            span.end(end_time=EPOCH + round(plan.end * 1e9))
        return span

    trace_id = f"{record(root, None).get_span_context().trace_id:032x}"
    exporter = FileSpanExporter(path)
    for first in range(0, len(keep.spans), batch):
        exporter.export(keep.spans[first : first + batch])
    exporter.shutdown()
    return Written(trace_id, ids)


def raw_span(number: int, **fields: Any) -> dict[str, Any]:
    """Return a minimal span in OTLP JSON; keyword arguments replace or add fields."""
    return {
        "traceId": "ab" * 16,
        "spanId": f"{number:016x}",
        "name": f"span {number}",
        "startTimeUnixNano": str(EPOCH + number),
        "endTimeUnixNano": str(EPOCH + number + 1_000),
    } | fields


def raw_line(*spans: Any) -> str:
    """Return a line of spans."""
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}]}]}) + "\n"
