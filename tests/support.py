"""Spans as tests look at them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode

from flowspan import semconv
from flowspan.timeline import read


class RecordedSpans(SpanExporter):
    """A real exporter that keeps what it is given, with questions that tests ask."""

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
        """Every span that has ended, in the order of start."""
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
    """The names of the state transitions on a run span, in the order of time."""
    events = [e for e in span.events if semconv.STATE_TYPE in (e.attributes or {})]
    return [event.name for event in sorted(events, key=lambda e: e.timestamp)]


def exceptions(span: ReadableSpan) -> list[Any]:
    return [(e.attributes or {})["exception.type"] for e in span.events if e.name == "exception"]


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


def accounted(span: ReadableSpan) -> float:
    """What the waits inside the span, the execution and the orchestration add up to, in seconds."""
    a = attributes(span)
    parts = (*semconv.WAITS_INSIDE, semconv.EXECUTION, semconv.ORCHESTRATION)
    return sum(float(a.get(part, 0.0)) for part in parts)


def embedded_spans(folder: Path) -> RecordedSpans:
    """Read all spans from embedded files, as if they had just ended in this process."""
    recorded = RecordedSpans(TracerProvider())
    try:
        files = read.find_files(folder)
    except read.SourceError:
        return recorded
    for summary in read.recent_traces(files, 1000):
        recorded.export([_as_sdk(span) for span in read.load(folder, summary.trace_id).spans])
    return recorded


def _as_sdk(span: read.Span) -> ReadableSpan:
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
