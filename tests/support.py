"""Recorded spans, log records and metrics, with queries for tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter
from opentelemetry.sdk.metrics import Exemplar, MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    Metric,
    MetricReader,
    MetricsData,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode

from flowspan import semconv
from flowspan.errors import SourceError
from flowspan.export.bounded import BoundedLoggerProvider, BoundedLogProcessor
from flowspan.export.outages import Reporter, ReportingLogExporter
from flowspan.log_capture.hooks import LogHooks
from flowspan.read import trace_files
from flowspan.read.span import Span
from flowspan.read.texts import find_files


class RecordedSpans(SpanExporter):
    """A real exporter that keeps its spans, with queries for tests."""

    def __init__(self, provider: TracerProvider) -> None:
        self.provider = provider
        self._spans: list[ReadableSpan] = []
        self._lock = Lock()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._lock:
            self._spans.extend(spans)
        return SpanExportResult.SUCCESS

    def clear(self) -> None:
        with self._lock:
            self._spans.clear()

    @property
    def all(self) -> list[ReadableSpan]:
        """All spans that have ended, in the order of start."""
        with self._lock:
            return sorted(self._spans, key=lambda span: (span.start_time or 0, span.end_time or 0))

    @property
    def runs(self) -> list[ReadableSpan]:
        """The run spans."""
        return [span for span in self.all if semconv.RUN_TYPE in attributes(span)]

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        found = self.named(name)
        assert len(found) == 1, f"{len(found)} spans are named {name!r}:\n{self.tree()}"
        return found[0]

    def children(self, span: ReadableSpan) -> list[ReadableSpan]:
        return [s for s in self.all if s.parent and s.parent.span_id == context(span).span_id]

    def tree(self) -> str:
        """The names of all spans, indented below their parents, siblings in the order of start."""
        ids = {context(span).span_id for span in self.all}
        roots = [s for s in self.all if s.parent is None or s.parent.span_id not in ids]
        lines: list[str] = []

        def show(span: ReadableSpan, depth: int) -> None:
            lines.append("  " * depth + span.name)
            for child in self.children(span):
                show(child, depth + 1)

        for root in roots:
            show(root, 0)
        return "\n".join(lines)


class RecordedLogs:
    """flowspan's own pipeline of log records into memory, with queries for tests."""

    def __init__(self) -> None:
        self.exporter: Any = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call] # the SDK's
        reporter = Reporter("logs", "memory", lambda: self.exporter)
        processor = BoundedLogProcessor(ReportingLogExporter(reporter), 5)
        self.provider = BoundedLoggerProvider([processor], Resource({}), 5)
        self.hooks = LogHooks()

    @property
    def all(self) -> list[LogRecord]:
        """All records so far, in the order of time, without `reports`."""
        return self._exported(reports=False)

    @property
    def reports(self) -> list[LogRecord]:
        """The reports of runs that have not ended, in the order of time."""
        return self._exported(reports=True)

    def _exported(self, *, reports: bool) -> list[LogRecord]:
        self.provider.force_flush()
        found = [
            readable.log_record
            for readable in self.exporter.get_finished_logs()
            if (readable.instrumentation_scope.name == semconv.RUNS_SCOPE) == reports
        ]
        return sorted(found, key=lambda record: record.timestamp or 0)

    def saying(self, body: Any) -> list[LogRecord]:
        return [record for record in self.all if record.body == body]

    def one(self, body: Any) -> LogRecord:
        found = self.saying(body)
        assert len(found) == 1, [record.body for record in self.all]
        return found[0]


@dataclass(frozen=True)
class Point:
    """One series of a metric; for a histogram, `value` is the sum."""

    attributes: Mapping[str, Any]
    value: float
    count: int


class _Reader(MetricReader):
    """A reader that keeps the latest totals, and all exemplars, which the SDK exports only once."""

    def __init__(self) -> None:
        super().__init__()
        self.latest: MetricsData | None = None
        self.exemplars: dict[str, list[Exemplar]] = {}

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any
    ) -> None:
        self.latest = metrics_data
        for name, metric in _by_name(metrics_data).items():
            for point in metric.data.data_points:
                self.exemplars.setdefault(name, []).extend(point.exemplars or ())

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        pass


def _by_name(data: MetricsData | None) -> dict[str, Metric]:
    found = data.resource_metrics if data is not None else []
    scopes = [scope for resource in found for scope in resource.scope_metrics]
    return {metric.name: metric for scope in scopes for metric in scope.metrics}


class RecordedMetrics:
    """A real cumulative reader, with queries for tests."""

    def __init__(self) -> None:
        self._reader = _Reader()
        self.provider = MeterProvider([self._reader], shutdown_on_exit=False)

    @property
    def all(self) -> dict[str, Metric]:
        """All metrics, by name."""
        self._reader.collect()
        return _by_name(self._reader.latest)

    def exemplars(self, metric: str) -> list[Exemplar]:
        """All exemplars of a metric so far, of any series."""
        self._reader.collect()
        return self._reader.exemplars.get(metric, [])

    def points(self, metric: str, **wanted: Any) -> list[Point]:
        """The series of a metric with these attributes, by the short names in `SHORT`."""
        found = self.all.get(metric)
        points = [_point(point) for point in found.data.data_points] if found else []
        return [
            point
            for point in points
            if all(
                value in [point.attributes.get(key) for key in SHORT[name]]
                for name, value in wanted.items()
            )
        ]

    def count(self, metric: str, **wanted: Any) -> int:
        """How often something with these attributes was measured or counted."""
        return sum(point.count for point in self.points(metric, **wanted))

    def total(self, metric: str, **wanted: Any) -> float:
        """The sum of all values measured or counted with these attributes."""
        return sum(point.value for point in self.points(metric, **wanted))


SHORT = {
    "flow": [semconv.FLOW_NAME],
    "task": [semconv.TASK_NAME],
    "state": [semconv.RUN_STATE_NAME],
    "phase": [semconv.PIPELINE_RUN_STATE],
    "result": [semconv.PIPELINE_RESULT, semconv.PIPELINE_TASK_RESULT],
    "error": [semconv.ERROR_TYPE],
    "wait": [semconv.WAIT_TYPE],
    "direction": [semconv.ROWS_DIRECTION],
    "objective": [semconv.SLO_OBJECTIVE],
    "deployment": [semconv.DEPLOYMENT_NAME],
}


def _point(point: Any) -> Point:
    if isinstance(point, HistogramDataPoint):
        return Point(point.attributes or {}, point.sum, point.count)
    return Point(point.attributes or {}, point.value, int(point.value))


def context(span: ReadableSpan) -> SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


def result(span: ReadableSpan) -> Any:
    a = attributes(span)
    return a.get(semconv.PIPELINE_RESULT, a.get(semconv.PIPELINE_TASK_RESULT))


def states(span: ReadableSpan) -> list[str]:
    """The names of the state events on a run span, in the order of time."""
    events = [e for e in span.events if semconv.STATE_TYPE in (e.attributes or {})]
    return [event.name for event in sorted(events, key=lambda e: e.timestamp)]


def time_of(span: ReadableSpan, state: str) -> int:
    """The last time that a run entered the state of this name."""
    return max(event.timestamp for event in span.events if event.name == state)


def exceptions(span: ReadableSpan) -> list[Any]:
    return [(e.attributes or {})["exception.type"] for e in span.events if e.name == "exception"]


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


def account(span: ReadableSpan) -> dict[str, float]:
    """The waits inside the span, the execution and the orchestration, in seconds."""
    a = attributes(span)
    parts = (*semconv.WAITS_INSIDE, semconv.EXECUTION, semconv.ORCHESTRATION)
    found = {part: float(a.get(part, 0.0)) for part in parts}
    found[semconv.WAIT_DEPENDENCIES] -= a.get(semconv.TASK_RUNNER_DEPENDENCIES, 0.0)
    return found


def accounted(span: ReadableSpan) -> float:
    """The sum of these."""
    return sum(account(span).values())


def embedded_spans(folder: Path) -> RecordedSpans:
    """Read all spans that have ended from embedded files, as if they had ended in this process."""
    recorded = RecordedSpans(TracerProvider())
    try:
        files = find_files(folder)
    except SourceError:
        return recorded
    for summary in trace_files.recent_traces(files, 1000):
        trace = trace_files.load(folder, summary.trace_id)
        recorded.export([_as_sdk(span) for span in trace.spans if span.open is None])
    return recorded


def _as_sdk(span: Span) -> ReadableSpan:
    def ids(trace_id: str, span_id: str) -> SpanContext:
        return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False)

    parent = ids(span.trace_id, span.parent_span_id) if span.parent_span_id else None
    return ReadableSpan(
        name=span.name,
        context=ids(span.trace_id, span.span_id),
        parent=parent,
        resource=Resource(dict(span.resource)),
        attributes=span.attributes,
        events=[Event(e.name, e.attributes, e.time) for e in span.events],
        links=[Link(ids(link.trace_id, link.span_id), link.attributes) for link in span.links],
        kind=SpanKind[span.kind],
        status=Status(StatusCode[span.status], span.status_message or None),
        start_time=span.start,
        end_time=span.end,
    )
