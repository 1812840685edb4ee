"""Read the spans of one trace from OTLP JSON lines.

Each line is one ``ExportTraceServiceRequest`` in the OTLP JSON encoding
(https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding). What cannot be read becomes a
`Problem`; everything else is still returned.

Parsing JSON costs some forty times as much as looking for bytes in it, so only lines that hold the
wanted id, or that look broken, are parsed.
"""

import contextlib
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from flowspan import otlp_json as otlp
from flowspan import semconv
from flowspan.otlp_json import Problem, SourceError, UnreadableError

__all__ = [
    "FILE_PATTERN",
    "LATEST",
    "Event",
    "Link",
    "Problem",
    "SourceError",
    "Span",
    "Trace",
    "TraceSummary",
    "UnknownTraceError",
    "find_files",
    "load",
    "parse_wanted",
    "recent_traces",
    "to_json",
]

LATEST: Final = "latest"
FILE_PATTERN: Final = "traces*.jsonl"

# OpenTelemetry's own resource attribute; flowspan's semconv lists only what flowspan writes.
_SERVICE_NAME: Final = "service.name"

_TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")
_SPAN_ID: Final = re.compile(r"[0-9a-f]{16}")
_END_TIME: Final = re.compile(rb'"endTimeUnixNano"\s*:\s*"?(\d{1,20})')
_KINDS: Final = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
_STATUS_CODES: Final = ("UNSET", "OK", "ERROR")


class UnknownTraceError(Exception):
    """No trace in the files is the wanted one."""

    def __init__(
        self, message: str, known: Sequence["TraceSummary"], problems: Sequence["Problem"]
    ) -> None:
        super().__init__(message)
        self.known = tuple(known)
        self.problems = tuple(problems)


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
        name = self.resource.get(_SERVICE_NAME)
        return None if name is None else str(name)


@dataclass(frozen=True, slots=True)
class Trace:
    """The spans of one trace, by start time and each once, and what could not be read."""

    trace_id: str
    spans: tuple[Span, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """What a list of traces shows of one: its flow, and when its last run ended (ns)."""

    trace_id: str
    name: str
    end: int
    has_run: bool


@dataclass(frozen=True, slots=True)
class _Line:
    """A line in a file, remembered by where it is instead of by what it says."""

    file: Path
    number: int
    offset: int
    last_end: int


@dataclass(slots=True)
class _Found:
    spans: dict[str, Span] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def load(source: Path, wanted: str = LATEST) -> Trace:
    """Read one trace.

    Args:
        source: A file of OTLP JSON lines, or a folder that holds ``traces*.jsonl``.
        wanted: A trace id (32 hex digits), the id of a flow or task run in the trace (a UUID),
            or ``latest`` for the trace whose run ended last.

    Raises:
        ValueError: `wanted` is none of these.
        SourceError: There is nothing to read at `source`.
        UnknownTraceError: The files hold no such trace.
    """
    trace_id, run_id = parse_wanted(wanted)
    files = find_files(source)
    if trace_id is None and run_id is None:
        latest = recent_traces(files, 1)
        trace_id = latest[0].trace_id if latest else None
    found = _read_spans(files, trace_id)
    if not found.spans and run_id is not None:
        trace_id = _trace_of_run(files, run_id)
        found = _read_spans(files, trace_id) if trace_id else found
    if trace_id is None or not found.spans:
        known = recent_traces(files, 5)
        where = f"{source} holds no"
        message = f"{where} trace or run {wanted}." if known else f"{where} spans yet."
        raise UnknownTraceError(message, known, found.problems)
    spans = sorted(found.spans.values(), key=lambda span: (span.start, -span.end, span.span_id))
    return Trace(trace_id, tuple(spans), tuple(found.problems))


def parse_wanted(wanted: str) -> tuple[str | None, str | None]:
    """Tell which trace id and which run id the text may be; both None for ``latest``.

    Raises:
        ValueError: It can be none of them.
    """
    text = wanted.strip().lower()
    if text == LATEST:
        return None, None
    try:
        run_id = str(uuid.UUID(text))
    except ValueError:
        raise ValueError(
            f"{wanted!r} is no trace id (32 hex digits), no run id (a UUID) and not {LATEST!r}."
        ) from None
    # A UUID without dashes looks like a trace id, so it may be either.
    return (text if _TRACE_ID.fullmatch(text) else None), run_id


def find_files(source: Path) -> list[Path]:
    """List the files to read, newest first.

    Raises:
        SourceError: There are none.
    """
    return otlp.find_files(source, FILE_PATTERN)


def recent_traces(files: Iterable[Path], count: int) -> list[TraceSummary]:
    """Find the traces whose runs ended last, the latest first.

    Traces without any run come after those with one. Lines are parsed in the order of the last
    end time they mention, until no further line can change the answer.
    """
    best: dict[str, TraceSummary] = {}
    for line in sorted(_index(files), key=lambda line: line.last_end, reverse=True):
        ranked = _ranked(best.values())[:count]
        if len(ranked) == count and ranked[-1].has_run and ranked[-1].end >= line.last_end:
            break
        for span in _parse_quietly(_read_at(line)):
            known = best.get(span.trace_id)
            if known is None or (span.is_run, span.end) > (known.has_run, known.end):
                best[span.trace_id] = _summary(span)
    return _ranked(best.values())[:count]


def _ranked(summaries: Iterable[TraceSummary]) -> list[TraceSummary]:
    return sorted(summaries, key=lambda trace: (trace.has_run, trace.end), reverse=True)


def _summary(span: Span) -> TraceSummary:
    name = span.attributes.get(semconv.FLOW_NAME) or span.name
    return TraceSummary(span.trace_id, str(name), span.end, span.is_run)


def _index(files: Iterable[Path]) -> Iterator[_Line]:
    """Note the last end time each line mentions; costs a tenth of a second for 128 MB."""
    for path in files:
        offset = 0
        with contextlib.suppress(OSError), path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                ends = _END_TIME.findall(raw)
                if ends:
                    yield _Line(path, number, offset, max(map(int, ends)))
                offset += len(raw)


def _read_at(line: _Line) -> bytes:
    with contextlib.suppress(OSError), line.file.open("rb") as file:
        file.seek(line.offset)
        return file.readline()
    return b""


def _trace_of_run(files: Iterable[Path], run_id: str) -> str | None:
    """Find the trace of a run, by its own span, else by the spans of its tasks."""
    needles = _spellings(run_id)
    best: tuple[bool, int, str] | None = None
    for path in files:
        with contextlib.suppress(OSError), path.open("rb") as file:
            for raw in file:
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
    needles = _spellings(trace_id) if trace_id else ()
    for path in files:
        try:
            for number, raw in otlp.numbered_lines(path):
                if any(needle in raw for needle in needles) or not _looks_whole(raw):
                    reasons = _read_line(raw, trace_id, found.spans)
                    found.problems += [Problem(path, number, reason) for reason in reasons]
        except OSError as error:  # noqa: PERF203 - one bad file must not cost the others
            found.problems.append(Problem(path, 0, error.strerror or str(error)))
    return found


def _read_line(raw: bytes, trace_id: str | None, spans: dict[str, Span]) -> list[str]:
    """Add the spans of a trace to `spans`; return why others on the line could not be read."""
    problems: list[str] = []
    for span in _parse(raw, problems):
        if span.trace_id == trace_id:
            known = spans.get(span.span_id)
            # Re-exports are equal; of two tellings of one run, the later and fuller one is right.
            if known is None or _fullness(span) > _fullness(known):
                spans[span.span_id] = span
    return problems


def _fullness(span: Span) -> tuple[int, int]:
    return span.end, len(span.attributes) + len(span.events) + len(span.links)


def _spellings(identifier: str) -> tuple[bytes, bytes]:
    """Spell an id as files may hold it: hex is case-insensitive in OTLP JSON."""
    return identifier.encode(), identifier.upper().encode()


def _looks_whole(raw: bytes) -> bool:
    """Tell cheaply that a line needs no parsing to be called an intact line of spans.

    Braces inside strings, text beyond ASCII or another layout make it say no: then it is parsed.
    """
    text = raw.strip()
    return not text or (
        text.startswith(b'{"resourceSpans":[{')
        and text.endswith(b"]}")
        and text.isascii()
        and text.count(b"{") == text.count(b"}")
        and text.count(b'"traceId":"') == text.count(b'"spanId":"')
        and text.count(b'"traceId":"') >= text.count(b'"startTimeUnixNano"') > 0
    )


def _parse_quietly(raw: bytes) -> Iterator[Span]:
    """Parse a line where its problems do not matter, or are told elsewhere."""
    return _parse(raw, [])


def _parse(raw: bytes, problems: list[str]) -> Iterator[Span]:
    """Yield the readable spans of one line and add the reasons why others are not."""
    try:
        request = otlp.request(raw, "resourceSpans")
        for resource_spans in otlp.mappings(request.get("resourceSpans"), "resourceSpans"):
            resource = otlp.mapping(resource_spans.get("resource"), "resource")
            attributes = otlp.attributes(resource.get("attributes"))
            for scope_spans in otlp.mappings(resource_spans.get("scopeSpans"), "scopeSpans"):
                for span in otlp.mappings(scope_spans.get("spans"), "spans"):
                    try:
                        yield _span(span, attributes)
                    except UnreadableError as error:  # noqa: PERF203 - likewise one span
                        problems.append(f"span skipped: {error}")
    except UnreadableError as error:
        problems.append(str(error))


def _span(raw: dict[str, Any], resource: Mapping[str, Any]) -> Span:
    start = raw.get("startTimeUnixNano")
    end = raw.get("endTimeUnixNano")
    status = otlp.mapping(raw.get("status"), "status")
    return Span(
        trace_id=_id(raw.get("traceId"), _TRACE_ID, "trace id"),
        span_id=_id(raw.get("spanId"), _SPAN_ID, "span id"),
        parent_span_id=_parent_id(raw.get("parentSpanId")),
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


def _id(value: Any, pattern: re.Pattern[str], what: str) -> str:
    text = value.lower() if isinstance(value, str) else ""
    if not pattern.fullmatch(text) or not text.strip("0"):
        raise UnreadableError(f"no {what}" if not value else f"its {what} is malformed")
    return text


def _parent_id(value: Any) -> str | None:
    if value is None or value == "" or (isinstance(value, str) and not value.strip("0")):
        return None
    return _id(value, _SPAN_ID, "parent span id")


def to_json(trace: Trace) -> bytes:
    """Write a trace as the documented JSON document.

    ``{"trace_id", "spans": [{"span_id", "parent_span_id", "name", "kind", "start", "end",
    "attributes", "links", "events", "status", "resource"}]}``: spans by start time, times integer
    nanoseconds since the epoch, attributes plain objects, ``parent_span_id`` null for a root,
    ``status`` ``{"code": "UNSET" | "OK" | "ERROR", "message"}``. Numbers that JSON lacks are the
    texts "NaN", "Infinity" and "-Infinity", as in OTLP.
    """
    document = {"trace_id": trace.trace_id, "spans": [_plain_span(span) for span in trace.spans]}
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
