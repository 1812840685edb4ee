"""Write a trace and its analysis as JSON."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

import orjson

from flowspan.read import otlp_json as otlp
from flowspan.read.log_files import Log
from flowspan.read.log_files import as_object as log_object
from flowspan.text import SECOND
from flowspan.views.headline import headline, reservations
from flowspan.views.json.runs import called_by

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from flowspan.analysis.findings import Findings
    from flowspan.analysis.one_trace import Analysis, Task
    from flowspan.read.span import Open, Span
    from flowspan.views.wishes import Wishes

VERSION: Final = 1
"""Version of the document. It goes up if a key changes or disappears, not if one is added."""

_CHUNK: Final = 512  # spans written at once


def as_object(analysis: Analysis) -> dict[str, Any]:
    """Return the keys that an analysis adds to the JSON document of a trace.

    Durations are seconds, shares go from 0 to 1, and the times of ``critical_path`` and ``root``
    are integer nanoseconds since the epoch. ``null`` means unknown. See docs/json.md for the whole
    shape.
    """
    bottleneck = analysis.bottleneck
    duration = analysis.end - analysis.start
    return {
        "source": analysis.source,
        "root": {"span_id": analysis.root_id, "start": analysis.start}
        | _ending(analysis.end, analysis.open),
        "headline": headline(analysis),
        "bottleneck": None
        if bottleneck is None
        else {
            "name": bottleneck.name,
            "type": bottleneck.type,
            "share": bottleneck.share,
            "cause": bottleneck.cause,
            "saved": _seconds(bottleneck.saved),
        },
        "critical_path": [
            {"span_id": one.span_id, "start": one.start, "end": one.end, "cause": one.cause}
            for one in analysis.critical_path
        ],
        "causes": _by_cause(analysis.on_path),
        "tasks": [_task(task) for task in analysis.tasks],
        "waiting": _by_cause(analysis.waits),
        "concurrency": {
            "work": _seconds(analysis.work),
            "peak": analysis.peak_concurrency,
            "mean": analysis.mean_concurrency,
            "efficiency": analysis.efficiency,
        },
        "retry_cost": {
            "total": _seconds(analysis.retry_cost),
            "on_critical_path": _seconds(analysis.retry_cost_on_path),
        },
        "orchestration": {
            "total": _seconds(analysis.orchestration),
            "share": analysis.orchestration / duration if duration else 0.0,
        },
        "remarks": reservations(analysis),
        "workers": [
            {"name": worker.name, "runs": worker.runs, "busy": _seconds(worker.time)}
            for worker in analysis.workers
        ],
    }


def _ending(end: int, known: Open | None) -> dict[str, Any]:
    """Return the end; null, and what else is known, of what has not ended."""
    if known is None:
        return {"end": end}
    activity = known.activity or None
    return {
        "end": None,
        "state": known.state,
        "last_seen": known.last_seen,
        "activity": activity,
    }


def _task(task: Task) -> dict[str, Any]:
    return {
        "name": task.name,
        "type": task.type,
        "runs": task.runs,
        "failed": task.failed,
        "retries": task.retries,
        "share": task.share,
        "cause": task.cause,
        "path": _seconds(task.path),
        "slack": _seconds(task.slack),
        "drag": _seconds(task.drag),
        "saved": _seconds(task.saved),
        "duration": _seconds(task.duration),
        "execution": _seconds(task.execution),
        "waits": _by_cause(task.waits),
        "rows": {"input": task.rows_input, "output": task.rows_output},
    }


def _by_cause(amounts: Mapping[Any, int]) -> dict[str, float | None]:
    return {cause: _seconds(amount) for cause, amount in amounts.items()}


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / SECOND


def render(findings: Findings, wishes: Wishes) -> Iterator[bytes]:
    """Yield the documented JSON document of a trace in pieces, to keep memory use low.

    ``{"version", "trace_id", ..., "spans": [{"span_id", "parent_span_id", "name", "kind", "start",
    "end", "worker", "attributes", "links", "events", "status", "resource"}]}``, with the keys of
    `as_object` in between. Spans are sorted by start time, times are integer nanoseconds since the
    epoch, attributes plain objects, ``parent_span_id`` is null for a root, ``worker`` is the name
    of one of ``workers`` or null, ``status`` is ``{"code": "UNSET" | "OK" | "ERROR", "message"}``.
    Numbers that JSON lacks are the texts "NaN", "Infinity" and "-Infinity", as in OTLP. On request
    each span has ``"logs"``, a list of the objects that `flowspan.read.log_files` documents.
    """
    trace = findings.trace
    logs = findings.logs_by_span if wishes.with_logs else None
    workers = {worker.process: worker.name for worker in findings.analysis.workers}
    head = {
        "version": VERSION,
        "trace_id": trace.trace_id,
        "called_by": called_by(trace.called_by),
        **as_object(findings.analysis),
    }
    yield orjson.dumps(head, option=orjson.OPT_INDENT_2).removesuffix(b"\n}") + b',\n  "spans": ['
    spans = iter(trace.spans)
    separator = b"\n    "
    while chunk := list(itertools.islice(spans, _CHUNK)):
        yield separator + b",\n    ".join(_span_json(span, workers, logs) for span in chunk)
        separator = b",\n    "
    yield b"\n  ]\n}\n"


def _span_json(
    span: Span, workers: Mapping[str, str], logs: Mapping[str, Iterable[Log]] | None
) -> bytes:
    plain = _plain_span(span, workers.get(span.process))
    if logs is not None:
        plain["logs"] = [log_object(log) for log in logs.get(span.span_id, ())]
    return orjson.dumps(plain, option=orjson.OPT_INDENT_2).replace(b"\n", b"\n    ")


def _plain_span(span: Span, worker: str | None) -> dict[str, Any]:
    return {
        "span_id": span.span_id,
        "parent_span_id": span.parent_span_id,
        "name": span.name,
        "kind": span.kind,
        "start": span.start,
        **_ending(span.end, span.open),
        "worker": worker,
        "attributes": otlp.plain(span.attributes),
        "links": [
            {
                "trace_id": link.trace_id,
                "span_id": link.span_id,
                "attributes": otlp.plain(link.attributes),
            }
            for link in span.links
        ],
        "events": [
            {"name": event.name, "time": event.time, "attributes": otlp.plain(event.attributes)}
            for event in span.events
        ],
        "status": {"code": span.status, "message": span.status_message},
        "resource": otlp.plain(span.resource),
    }
