"""Read the spans of one trace, or of all, from lines of OTLP JSON or another kind of `texts`.

Each line is one ``ExportTraceServiceRequest`` in the OTLP JSON encoding
(https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding). Unreadable parts become a
`Problem`; everything else is still returned.

Decoding JSON costs about ten times as much as searching for bytes, so only lines that contain the
wanted id or look broken are decoded.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from flowspan.places import Folders
from flowspan.read import lines
from flowspan.read import otlp_json as otlp
from flowspan.read.decode import SpanDecoder
from flowspan.read.lines import Problem
from flowspan.read.memory import without_collector
from flowspan.read.selection import (
    LATEST,
    Summary,
    UnknownRunError,
    missing_runs,
    most_recent,
    parse_wanted,
    steps_back,
)
from flowspan.read.span import Span, Trace
from flowspan.read.texts import STDIN, MemoryText, Text, find_files, open_files, open_stdin

_END_TIME: Final = re.compile(rb'"endTimeUnixNano"\s*:\s*"?(\d{1,20})')
_TRACE_ID: Final = re.compile(rb'"traceId"\s*:\s*"([0-9A-Fa-f]{32})"')

_Line: TypeAlias = tuple[bytes, Text, int]
"""A line, its text, and its offset in the text."""

_End: TypeAlias = tuple[int, Text, int, int]
"""The last end time in a line, its text, its offset in the text, and its length."""


@dataclass(slots=True)
class _Found:
    spans: dict[str, Span] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, spans: Iterable[Span]) -> None:
        """Add spans; of two versions of a span, keep the later and fuller one."""
        for span in spans:
            known = self.spans.setdefault(span.span_id, span)
            if known is not span and _is_fuller(span, known):
                self.spans[span.span_id] = span

    def trace(self, trace_id: str) -> Trace:
        """Return the trace with its spans in order."""
        ordered = sorted(self.spans.values(), key=lambda s: (s.start, -s.end, s.span_id))
        return Trace(trace_id, tuple(ordered), tuple(self.problems))


def _is_fuller(span: Span, known: Span) -> bool:
    return span.end > known.end or (span.end == known.end and _size(span) > _size(known))


def _size(span: Span) -> int:
    return len(span.attributes) + len(span.events) + len(span.links)


def load(
    source: Path | Folders, wanted: str = LATEST, *, flow: str | None = None, since: int = 0
) -> Trace:
    """Read one trace.

    Args:
        source: A file, folders with ``traces*.jsonl`` or other files of spans, or `STDIN`.
        wanted: A trace id (32 hex digits), the id of a flow or task run in the trace (a UUID),
            or ``latest`` for the trace whose run ended last, ``latest~1`` for the one before.
        flow: Consider only traces with a run of this flow as the latest.
        since: Consider only traces that ended then or later, in nanoseconds since the epoch.

    Raises:
        ValueError: `wanted` is none of these.
        SourceError: There is nothing to read at `source`.
        UnknownRunError: The files have no such trace.
    """
    back = steps_back(wanted)
    trace_id, run_id = parse_wanted(wanted) if back is None else (None, None)
    problems: list[Problem] = []
    texts = _open(source, problems)
    with without_collector():
        if back is None:
            found = _read_spans(texts, trace_id)
        else:
            trace_id, found = _read_latest(texts, back, flow, since)
        if not found.spans and run_id is not None:
            trace_id = _trace_of_run(texts, run_id)
            found = _read_spans(texts, trace_id) if trace_id else found
        found.problems[:0] = problems
        if trace_id is None or not found.spans:
            known = _recent(texts, 5)
            what = _missing(wanted, flow, since) if known else "spans yet"
            place = "Standard input" if source == STDIN else source
            raise UnknownRunError(f"{place} holds no {what}.", known, found.problems)
        return found.trace(trace_id)


def _open(source: Path | Folders, problems: list[Problem]) -> list[Text]:
    if source == STDIN:
        return open_stdin()
    return open_files(find_files(source), problems)


def _missing(wanted: str, flow: str | None, since: int) -> str:
    if flow is None and not since:
        return f"trace or run {wanted}"
    return missing_runs(wanted, flow, since)


def traces(source: Path | Folders, problems: list[Problem], since: int = 0) -> Iterator[Trace]:
    """Yield every trace as soon as its last line is read; the oldest files are read first.

    So only traces that overlap in the files are in memory at once. Before any line is decoded, a
    search for ids finds the last line of each trace. Each line is decoded once.

    Args:
        source: See `load`.
        problems: Problems are appended here.
        since: Traces that ended before this time are skipped, in nanoseconds since the epoch.

    Raises:
        SourceError: There is nothing to read at `source`.
    """
    texts = _open(source, problems)
    last, ends = _extents(reversed(texts))
    ending: dict[int, list[str]] = {}
    for trace_id, line in last.items():
        ending.setdefault(line, []).append(trace_id)
    found: dict[str, _Found] = {}
    decoder = SpanDecoder()
    for line, (text, number, offset, raw) in enumerate(_lines(_oldest_first(texts), problems)):
        ids = _ids(raw)
        if not ids or any(ends.get(trace_id, since) >= since for trace_id in ids):
            reasons: list[str] = []
            for span in decoder.decode(raw, text, offset, reasons):
                text.keep()
                found.setdefault(span.trace_id, _Found()).add([span])
            problems += [Problem(text.name, number, reason) for reason in reasons]
        for trace_id in ending.get(line, ()):
            of_trace = found.pop(trace_id, None)
            if of_trace is not None and ends[trace_id] >= since:
                yield of_trace.trace(trace_id)
    for trace_id, of_trace in found.items():  # from lines that were written while reading
        yield of_trace.trace(trace_id)


def _oldest_first(texts: list[Text]) -> Iterator[Text]:
    """Yield the texts from the last to the first, and drop each one."""
    while texts:
        yield texts.pop()


def _extents(texts: Iterable[Text]) -> tuple[dict[str, int], dict[str, int]]:
    """Return, by trace id, the last line that mentions each trace, and the latest end."""
    last: dict[str, int] = {}
    ends: dict[str, int] = {}
    for line, (_, _, _, raw) in enumerate(_lines(texts, [])):
        end = _last_end(raw)
        for trace_id in _ids(raw):
            last[trace_id] = line
            ends[trace_id] = max(ends.get(trace_id, 0), end)
    return last, ends


def _ids(raw: bytes) -> set[str]:
    return {found.decode().lower() for found in set(_TRACE_ID.findall(raw))}


def parse(raw: bytes, trace_id: str, source: str) -> Trace:
    """Read one trace from OTLP JSON lines in memory; it may have no spans.

    Args:
        raw: The lines.
        trace_id: Spans of other traces are skipped.
        source: The name of the source in problems.
    """
    found = _Found()
    text, decoder = MemoryText(source, raw), SpanDecoder()
    with without_collector():
        for _, offset, line in text.lines():
            reasons: list[str] = []
            found.add(decoder.decode(line, text, offset, reasons, trace_id))
            found.problems += [Problem(source, 0, reason) for reason in reasons]
    return found.trace(trace_id)


def recent_traces(files: Iterable[Path], count: int) -> list[Summary]:
    """Return the traces whose runs ended last, the latest first.

    Traces without any run come after those with one. Unreadable files are skipped.
    """
    return _recent(open_files(files, []), count)


def _read_latest(
    texts: list[Text], back: int, flow: str | None, since: int
) -> tuple[str | None, _Found]:
    """Find the latest trace, or the one `back` before it, and read its spans.

    The trace that was written last has usually ended last, so this reads it while collecting the
    ends of all traces.
    """
    guess = _written_last(texts) if back == 0 and flow is None else None
    ends: list[_End] | None = None
    found = _Found()
    if guess is not None:
        ends = []
        found = _read_spans(texts, guess, ends)
    latest = _recent(texts, back + 1, flow, since, ends)[back:]
    trace_id = latest[0].trace_id if latest else None
    return trace_id, found if guess and guess == trace_id else _read_spans(texts, trace_id)


def _written_last(texts: Iterable[Text]) -> str | None:
    """Return the id of the trace that the newest text mentions last, if any near its end."""
    for text in texts:
        with contextlib.suppress(OSError):
            mentioned = _TRACE_ID.findall(text.tail())
            return mentioned[-1].decode().lower() if mentioned else None
    return None


def _recent(
    texts: Iterable[Text],
    count: int,
    flow: str | None = None,
    since: int = 0,
    ends: list[_End] | None = None,
) -> list[Summary]:
    """Return the latest traces, optionally only those of a flow or since a time.

    `ends` are the ends of all lines, if they have been collected already.
    """
    decoder = SpanDecoder()

    def summarize(line: _Line) -> Iterator[Summary]:
        for span in decoder.decode(*line, problems=[]):
            run_id = str(span.facts.run_id) if span.is_run else None
            name = span.facts.flow_name or span.name
            if span.end >= since and flow in (None, name):
                yield Summary(span.trace_id, run_id, name, span.end)

    lines = _latest_first(_ends(texts) if ends is None else ends)
    return most_recent(lines, summarize, lambda found: found.trace_id, count)


def _ends(texts: Iterable[Text]) -> list[_End]:
    """Collect the lines that mention an end: it takes a few tenths of a second for 128 MB."""
    found: list[_End] = []
    for text, _, offset, raw in _lines(texts, []):
        if end := _last_end(raw):
            text.keep()
            found.append((end, text, offset, len(raw)))
    return found


def _last_end(raw: bytes) -> int:
    return max(map(int, _END_TIME.findall(raw)), default=0)


def _latest_first(ends: Iterable[_End]) -> Iterator[tuple[int, _Line]]:
    """Yield lines with the last end in them, the latest first."""
    for time, text, offset, length in sorted(ends, key=lambda line: line[0], reverse=True):
        with contextlib.suppress(OSError):
            yield time, (text.part(offset, length), text, offset)


def _trace_of_run(texts: Iterable[Text], run_id: str) -> str | None:
    """Return the trace id of a run, found by its own span, or by the spans of its tasks."""
    needles = lines.spellings(run_id)
    decoder = SpanDecoder()
    best: tuple[bool, int, str] | None = None
    for text, _, offset, raw in _lines(texts, []):
        if not any(needle in raw for needle in needles):
            continue
        for span in decoder.decode(raw, text, offset, []):
            own = (span.facts.run_id or "").lower() == run_id
            flow = (span.facts.flow_run_id or "").lower() == run_id
            if own or flow:
                candidate = (own, span.end, span.trace_id)
                best = candidate if best is None else max(best, candidate)
    return best[2] if best else None


def _read_spans(
    texts: Iterable[Text], trace_id: str | None, ends: list[_End] | None = None
) -> _Found:
    """Read the spans of a trace and all problems; without an id, read only problems.

    If `ends` is given, the ends of all lines are appended to it.
    """
    found = _Found()
    decoder = SpanDecoder()
    needles = lines.spellings(trace_id) if trace_id else ()
    for text, number, offset, raw in _lines(texts, found.problems):
        if any(needle in raw for needle in needles) or not _looks_whole(raw):
            reasons: list[str] = []
            spans = list(decoder.decode(raw, text, offset, reasons))
            found.problems += [Problem(text.name, number, reason) for reason in reasons]
            end = max((span.end for span in spans), default=0)
            if wanted := [span for span in spans if span.trace_id == trace_id]:
                text.keep()
                found.add(wanted)
        else:
            end = 0 if ends is None else _last_end(raw)
        if ends is not None and end:
            text.keep()
            ends.append((end, text, offset, len(raw)))
    return found


def _lines(
    texts: Iterable[Text], problems: list[Problem]
) -> Iterator[tuple[Text, int, int, bytes]]:
    """Yield the lines of all texts; an unreadable text is a problem."""
    for text in texts:
        try:
            for number, offset, raw in text.lines():
                yield text, number, offset, raw
        except OSError as error:  # noqa: PERF203 - one bad file must not affect the others
            problems.append(Problem(text.name, 0, error.strerror or str(error)))


def _looks_whole(raw: bytes) -> bool:
    """Return whether a line is intact and each span has an id and a time, without parsing it."""
    return lines.looks_whole(raw, otlp.SPANS) and (
        not raw.strip()
        or (
            raw.count(b'"traceId":"') == raw.count(b'"spanId":"')
            and raw.count(b'"traceId":"') >= raw.count(b'"startTimeUnixNano"') > 0
        )
    )
