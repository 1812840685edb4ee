"""Read the spans of one trace from OTLP JSON lines.

Each line is one ``ExportTraceServiceRequest`` in the OTLP JSON encoding
(https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding). What cannot be read becomes a
`Problem`; everything else is still returned.

Parsing JSON costs some forty times as much as looking for bytes in it, so only lines that hold the
wanted id, or that look broken, are parsed.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import orjson

from flowspan import otlp_json as otlp
from flowspan import semconv
from flowspan.otlp_json import Problem, SourceError, UnreadableError
from flowspan.timeline.document import VERSION
from flowspan.timeline.facts import Facts, facts_of
from flowspan.timeline.logs import Log, as_object
from flowspan.timeline.wanted import (
    LATEST,
    Summary,
    UnknownRunError,
    missing_runs,
    most_recent,
    parse_wanted,
)

__all__ = [
    "FILE_PATTERN",
    "LATEST",
    "Event",
    "Link",
    "Problem",
    "SourceError",
    "Span",
    "Trace",
    "find_files",
    "load",
    "parse",
    "parse_wanted",
    "recent_traces",
    "to_json",
    "traces",
]

FILE_PATTERN: Final = "traces*.jsonl"

_END_TIME: Final = re.compile(rb'"endTimeUnixNano"\s*:\s*"?(\d{1,20})')
_TRACE_ID: Final = re.compile(rb'"traceId"\s*:\s*"([0-9A-Fa-f]{32})"')
_KINDS: Final = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
_STATUS_CODES: Final = ("UNSET", "OK", "ERROR")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at one time, in nanoseconds since the epoch."""

    name: str
    time: int
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Link:
    """A reference to a span that is not the parent."""

    trace_id: str
    span_id: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Span:
    """One finished span.

    Ids are lower-case hex, times nanoseconds since the epoch. Attribute values are ``str``,
    ``bool``, ``int``, ``float``, ``None``, or lists and dicts of these; bytes stay base64 text.
    """

    trace_id: str
    span_id: str
    parent_span_id: str | None
    name: str
    kind: str
    start: int
    end: int
    attributes: Mapping[str, Any]
    events: tuple[Event, ...]
    links: tuple[Link, ...]
    status: str
    status_message: str
    resource: Mapping[str, Any]

    @property
    def duration(self) -> int:
        """Nanoseconds from start to end; 0 where clocks made the end come first."""
        return max(0, self.end - self.start)

    @property
    def facts(self) -> Facts:
        """What its attributes tell of the run that it is about."""
        return facts_of(self.attributes)

    @property
    def upstream(self) -> tuple[str, ...]:
        """Ids of the spans in the same trace that it depends on."""
        return tuple(
            link.span_id
            for link in self.links
            if link.attributes.get(semconv.LINK_TYPE, semconv.LINK_DEPENDENCY)
            == semconv.LINK_DEPENDENCY
        )

    @property
    def process(self) -> str:
        """What tells the process that made the span from others; empty where nothing does."""
        return str(self.resource.get("service.instance.id", ""))

    @property
    def is_run(self) -> bool:
        """Whether this is the span of a flow or task run."""
        return semconv.RUN_TYPE in self.attributes

    @property
    def failed(self) -> bool:
        """Whether the span's status is ERROR."""
        return self.status == "ERROR"

    @property
    def service(self) -> str | None:
        """Name of the service that made the span."""
        name = self.resource.get(otlp.SERVICE_NAME)
        return None if name is None else str(name)


@dataclass(frozen=True, slots=True)
class Trace:
    """The spans of one trace, by start time and each once, and what could not be read."""

    trace_id: str
    spans: tuple[Span, ...]
    problems: tuple[Problem, ...]


@dataclass(slots=True)
class _Found:
    spans: dict[str, Span] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def trace(self, trace_id: str) -> Trace:
        """Put what was found in order."""
        ordered = sorted(self.spans.values(), key=lambda s: (s.start, -s.end, s.span_id))
        return Trace(trace_id, tuple(ordered), tuple(self.problems))


def load(source: Path, wanted: str = LATEST, *, flow: str | None = None, since: int = 0) -> Trace:
    """Read one trace.

    Args:
        source: A file of OTLP JSON lines, or a folder that holds ``traces*.jsonl``.
        wanted: A trace id (32 hex digits), the id of a flow or task run in the trace (a UUID),
            or ``latest`` for the trace whose run ended last.
        flow: The latest is the latest with a run of this flow.
        since: And one that ended then or later, in nanoseconds since the epoch.

    Raises:
        ValueError: `wanted` is none of these.
        SourceError: There is nothing to read at `source`.
        UnknownRunError: The files hold no such trace.
    """
    trace_id, run_id = parse_wanted(wanted)
    files = find_files(source)
    if trace_id is None and run_id is None:
        latest = recent_traces(files, 1, flow=flow, since=since)
        trace_id = latest[0].trace_id if latest else None
    found = _read_spans(files, trace_id)
    if not found.spans and run_id is not None:
        trace_id = _trace_of_run(files, run_id)
        found = _read_spans(files, trace_id) if trace_id else found
    if trace_id is None or not found.spans:
        known = recent_traces(files, 5)
        message = f"{source} holds no {_missing(wanted, flow, since) if known else 'spans yet'}."
        raise UnknownRunError(message, known, found.problems)
    return found.trace(trace_id)


def _missing(wanted: str, flow: str | None, since: int) -> str:
    if flow is None and not since:
        return f"trace or run {wanted}"
    return missing_runs(flow, since)


def traces(files: Sequence[Path], problems: list[Problem], since: int = 0) -> Iterator[Trace]:
    """Yield every trace of the files, each as soon as its last line is read.

    So only traces that overlap in the files are held at once. Which line is a trace's last is told
    by a search for ids, before any line is parsed; each is parsed once.

    Args:
        files: Read in the reverse order, which is oldest first for those of `find_files`.
        problems: What could not be read is added.
        since: Traces that ended before that are left out, in nanoseconds since the epoch.
    """
    last, ends = _extents(reversed(files))
    open_traces: dict[str, _Found] = {}
    ending: dict[int, list[str]] = {}
    for trace_id, line in last.items():
        if ends[trace_id] >= since:
            ending.setdefault(line, []).append(trace_id)
    for line, (path, number, raw) in enumerate(otlp.lines(reversed(files), problems)):
        ids = _ids(raw)
        if ids and all(ends.get(trace_id, since) < since for trace_id in ids):
            continue
        reasons: list[str] = []
        for span in _parse(raw, reasons):
            if ends.get(span.trace_id, since) >= since:
                _keep(span, open_traces.setdefault(span.trace_id, _Found()).spans)
        problems += [Problem(path, number, reason) for reason in reasons]
        for trace_id in ending.get(line, ()):
            if found := open_traces.pop(trace_id, None):
                yield found.trace(trace_id)
    for trace_id, found in open_traces.items():  # of lines that came while this was read
        yield found.trace(trace_id)


def _extents(files: Iterable[Path]) -> tuple[dict[str, int], dict[str, int]]:
    """Tell of each trace in which line it is mentioned last, and when it ended at the latest."""
    last: dict[str, int] = {}
    ends: dict[str, int] = {}
    for line, (_, _, raw) in enumerate(otlp.lines(files, [])):
        end = max(map(int, _END_TIME.findall(raw)), default=0)
        for trace_id in _ids(raw):
            last[trace_id] = line
            ends[trace_id] = max(ends.get(trace_id, 0), end)
    return last, ends


def _ids(raw: bytes) -> set[str]:
    return {found.decode().lower() for found in set(_TRACE_ID.findall(raw))}


def parse(raw: bytes, trace_id: str, source: str) -> Trace:
    """Read one trace from OTLP JSON lines in memory; it may turn out to have no spans.

    Args:
        raw: The lines.
        trace_id: Spans of other traces are left out.
        source: Tells in each problem where the lines are from.
    """
    found = _Found()
    for line in raw.splitlines():
        found.problems += [Problem(source, 0, r) for r in _read_line(line, trace_id, found.spans)]
    return found.trace(trace_id)


def find_files(source: Path) -> list[Path]:
    """List the files to read, newest first.

    Raises:
        SourceError: There are none.
    """
    return otlp.find_files(source, FILE_PATTERN)


def recent_traces(
    files: Iterable[Path], count: int, *, flow: str | None = None, since: int = 0
) -> list[Summary]:
    """Find the traces whose runs ended last, the latest first.

    Traces without any run come after those with one. Given the name of a flow, only its runs and
    those of its tasks count; given a time, only what ended then or later.
    """

    def summarize(raw: bytes) -> Iterator[Summary]:
        for found in _summaries(raw):
            if found.end >= since and flow in (None, found.name):
                yield found

    return most_recent(files, _END_TIME, summarize, lambda found: found.trace_id, count)


def _summaries(raw: bytes) -> Iterator[Summary]:
    for span in _parse_quietly(raw):
        run_id = str(span.attributes.get(semconv.RUN_ID)) if span.is_run else None
        name = span.attributes.get(semconv.FLOW_NAME) or span.name
        yield Summary(span.trace_id, run_id, str(name), span.end)


def _trace_of_run(files: Iterable[Path], run_id: str) -> str | None:
    """Find the trace of a run, by its own span, else by the spans of its tasks."""
    needles = otlp.spellings(run_id)
    best: tuple[bool, int, str] | None = None
    for _, _, raw in otlp.lines(files, []):
        if not any(needle in raw for needle in needles):
            continue
        for span in _parse_quietly(raw):
            own = str(span.attributes.get(semconv.RUN_ID)).lower() == run_id
            flow = str(span.attributes.get(semconv.FLOW_RUN_ID)).lower() == run_id
            if own or flow:
                candidate = (own, span.end, span.trace_id)
                best = candidate if best is None else max(best, candidate)
    return best[2] if best else None


def _read_spans(files: Iterable[Path], trace_id: str | None) -> _Found:
    """Read the spans of a trace, and every problem on the way; no id reads only problems."""
    found = _Found()
    needles = otlp.spellings(trace_id) if trace_id else ()
    for path, number, raw in otlp.lines(files, found.problems):
        if any(needle in raw for needle in needles) or not _looks_whole(raw):
            reasons = _read_line(raw, trace_id, found.spans)
            found.problems += [Problem(path, number, reason) for reason in reasons]
    return found


def _read_line(raw: bytes, trace_id: str | None, spans: dict[str, Span]) -> list[str]:
    """Add the spans of a trace to `spans`; return why others on the line could not be read."""
    problems: list[str] = []
    for span in _parse(raw, problems):
        if span.trace_id == trace_id:
            _keep(span, spans)
    return problems


def _keep(span: Span, spans: dict[str, Span]) -> None:
    known = spans.get(span.span_id)
    # Re-exports are equal; of two tellings of one run, the later and fuller one is right.
    if known is None or _fullness(span) > _fullness(known):
        spans[span.span_id] = span


def _fullness(span: Span) -> tuple[int, int]:
    return span.end, len(span.attributes) + len(span.events) + len(span.links)


def _looks_whole(raw: bytes) -> bool:
    """Tell cheaply that a line is intact, and each of its spans has an id and a time."""
    return otlp.looks_whole(raw, otlp.SPANS) and (
        not raw.strip()
        or (
            raw.count(b'"traceId":"') == raw.count(b'"spanId":"')
            and raw.count(b'"traceId":"') >= raw.count(b'"startTimeUnixNano"') > 0
        )
    )


def _parse_quietly(raw: bytes) -> Iterator[Span]:
    """Parse a line where its problems do not matter, or are told elsewhere."""
    return _parse(raw, [])


def _parse(raw: bytes, problems: list[str]) -> Iterator[Span]:
    """Yield the readable spans of one line and add the reasons why others are not."""
    try:
        for resource, _, spans in otlp.groups(raw, otlp.SPANS):
            for span in spans:
                try:
                    yield _span(span, resource)
                except UnreadableError as error:  # noqa: PERF203 - likewise one span
                    problems.append(f"span skipped: {error}")
    except UnreadableError as error:
        problems.append(str(error))


def _span(raw: dict[str, Any], resource: Mapping[str, Any]) -> Span:
    start = raw.get("startTimeUnixNano")
    end = raw.get("endTimeUnixNano")
    status = otlp.mapping(raw.get("status"), "status")
    return Span(
        trace_id=otlp.identifier(raw.get("traceId"), otlp.TRACE_ID, "trace id"),
        span_id=otlp.identifier(raw.get("spanId"), otlp.SPAN_ID, "span id"),
        parent_span_id=otlp.optional_identifier(
            raw.get("parentSpanId"), otlp.SPAN_ID, "parent span id"
        ),
        name=otlp.text(raw.get("name")),
        kind=otlp.enum(raw.get("kind"), _KINDS, "SPAN_KIND_"),
        start=otlp.unsigned(end if start is None else start, "start time"),
        end=otlp.unsigned(start if end is None else end, "end time"),
        attributes=otlp.attributes(raw.get("attributes")),
        events=tuple(_event(event) for event in otlp.mappings(raw.get("events"), "events")),
        links=tuple(_link(link) for link in otlp.mappings(raw.get("links"), "links")),
        status=otlp.enum(status.get("code"), _STATUS_CODES, "STATUS_CODE_"),
        status_message=otlp.text(status.get("message")),
        resource=resource,
    )


def _event(raw: dict[str, Any]) -> Event:
    time = otlp.unsigned(raw.get("timeUnixNano"), "event time")
    return Event(otlp.text(raw.get("name")), time, otlp.attributes(raw.get("attributes")))


def _link(raw: dict[str, Any]) -> Link:
    trace_id, span_id = otlp.text(raw.get("traceId")).lower(), otlp.text(raw.get("spanId")).lower()
    return Link(trace_id, span_id, otlp.attributes(raw.get("attributes")))


def to_json(
    trace: Trace,
    logs: Mapping[str, Iterable[Log]] | None = None,
    found: Mapping[str, Any] = MappingProxyType({}),
) -> bytes:
    """Write a trace as the documented JSON document.

    ``{"version", "trace_id", "spans": [{"span_id", "parent_span_id", "name", "kind", "start",
    "end", "attributes", "links", "events", "status", "resource"}]}``: spans by start time, times
    integer nanoseconds since the epoch, attributes plain objects, ``parent_span_id`` null for a root,
    ``status`` ``{"code": "UNSET" | "OK" | "ERROR", "message"}``. Numbers that JSON lacks are the
    texts "NaN", "Infinity" and "-Infinity", as in OTLP.

    Args:
        trace: What to write.
        logs: Log records by the id of the span that they belong to. With it each span has
            ``"logs"``, a list of the objects that `flowspan.timeline.logs` documents.
        found: Further keys, see `flowspan.timeline.document`.
    """
    spans = [_plain_span(span) for span in trace.spans]
    if logs is not None:
        for span in spans:
            span["logs"] = [as_object(log) for log in logs.get(span["span_id"], ())]
    document = {"version": VERSION, "trace_id": trace.trace_id, **found, "spans": spans}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _plain_span(span: Span) -> dict[str, Any]:
    return {
        "span_id": span.span_id,
        "parent_span_id": span.parent_span_id,
        "name": span.name,
        "kind": span.kind,
        "start": span.start,
        "end": span.end,
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
