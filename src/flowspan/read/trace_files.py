"""Read the spans of one trace, or of all, from lines of OTLP JSON or another kind of `texts`.

Each line is one ``ExportTraceServiceRequest`` in the OTLP JSON encoding
(https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding). Unreadable parts become a
`Problem`; everything else is still returned.

Decoding JSON costs about ten times as much as searching for bytes, so only lines that contain the
wanted id or look broken are decoded.
"""

import contextlib
import heapq
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import takewhile
from operator import itemgetter
from pathlib import Path
from typing import Final, TypeAlias

from flowspan import semconv
from flowspan.errors import SourceError
from flowspan.places import Folders
from flowspan.read import lines
from flowspan.read import otlp_json as otlp
from flowspan.read.decode import SpanDecoder
from flowspan.read.lines import Problem
from flowspan.read.memory import without_collector
from flowspan.read.open_runs import OpenRuns
from flowspan.read.run_search import Found, RunSearch, guess, of_span
from flowspan.read.selection import (
    LATEST,
    Summary,
    UnknownRunError,
    Wanted,
    missing_runs,
    most_recent,
    parse_wanted,
)
from flowspan.read.span import Span, Trace
from flowspan.read.subtree import below
from flowspan.read.texts import (
    STDIN,
    MemoryText,
    Text,
    find_files,
    find_log_files,
    open_files,
    open_stdin,
)

_END_TIME: Final = re.compile(rb'"endTimeUnixNano"\s*:\s*"?(\d{1,20})')
_TRACE_ID: Final = re.compile(rb'"traceId"\s*:\s*"([0-9A-Fa-f]{32})"')

_KNOWN: Final = 300  # the latest runs, among whose names is perhaps the one that was misspelt
_LISTED: Final = 5

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
    """Read one trace, or the part of it that is a flow run.

    Args:
        source: A file, folders with ``traces*.jsonl`` or other files of spans, or `STDIN`.
        wanted: A run or a trace, as `parse_wanted` takes it.
        flow: Consider only runs of this flow as the latest, including those that others called.
        since: Consider only runs that ended then or later, in nanoseconds since the epoch.

    Raises:
        ValueError: `wanted` is empty.
        SourceError: There is nothing to read at `source`.
        UnknownRunError: The files have no such run.
        AmbiguousRunError: They have several.
    """
    meant = parse_wanted(wanted)
    problems: list[Problem] = []
    texts, open_runs = _open(source, problems)
    place = "Standard input" if source == STDIN else source
    with without_collector():
        found, one = _Found(), None
        if meant.back is not None:
            one, found = _read_latest(texts, open_runs, meant.back, flow, since)
        elif meant.trace_id is not None:
            one = Summary(meant.trace_id, None, "", 0)
            found = _read_spans(texts, meant.trace_id, open_runs)
        if not found.spans and meant.back is None:
            one = _search(texts, open_runs, meant).the_one(place, problems)
            found = _read_spans(texts, one.trace_id if one else None, open_runs)
        found.problems[:0] = [*problems, *open_runs.problems]
        if one is None or not found.spans:
            known = _recent(texts, open_runs, _KNOWN)
            what = _missing(wanted, flow, since) if known else "spans yet"
            message = f"{place} holds no {what}.{guess(meant, known)}"
            raise UnknownRunError(message, known[:_LISTED], found.problems)
        return below(found.trace(one.trace_id), one.run_id)


def _open(source: Path | Folders, problems: list[Problem]) -> tuple[list[Text], OpenRuns]:
    """Open the spans of a source, and the reports of open runs that lie beside them."""
    if source == STDIN:
        return open_stdin(), OpenRuns()
    folder = source.parent if isinstance(source, Path) and not source.is_dir() else source
    logs = find_log_files(folder, semconv.RUNS_SCOPE.encode())
    open_runs = OpenRuns(open_files(logs, problems, otlp.LOGS), finds_traces=source.is_dir())
    try:
        files = find_files(source)
    except SourceError:
        if not open_runs:
            raise
        files = []  # the first flow has not ended yet
    return open_files(files, problems), open_runs


def _missing(wanted: str, flow: str | None, since: int) -> str:
    if flow is None and not since:
        return f"trace or run {wanted}"
    return missing_runs(wanted, flow, since)


def traces(source: Path | Folders, problems: list[Problem], since: int = 0) -> Iterator[Trace]:
    """Yield every trace that ended at a time or later, the one that ended last first.

    A search for ids finds the lines of each trace. A line is decoded once, when a trace in it is
    due, so what the caller does not ask for costs little. Only traces that overlap in the files are
    in memory at once.

    Args:
        source: See `load`.
        problems: Problems are appended here.
        since: In nanoseconds since the epoch.

    Raises:
        SourceError: There is nothing to read at `source`.
    """
    texts, open_runs = _open(source, problems)
    parts = _Parts(problems, open_runs)
    extents = parts.search(texts)
    ended: list[tuple[int, str, Trace]] = []
    for trace_id, extent in sorted(extents.items(), key=lambda one: one[1].end, reverse=True):
        # An extent may have the end of another trace on the same line, but no earlier one.
        while ended and -ended[0][0] >= extent.end:
            yield heapq.heappop(ended)[2]
        if extent.end < since:
            break
        trace = parts.trace(trace_id, extent)
        end = max((span.end for span in trace.spans), default=0)
        if trace.spans and end >= since:
            heapq.heappush(ended, (-end, trace_id, trace))
    while ended:
        yield heapq.heappop(ended)[2]


@dataclass(slots=True)
class _Extent:
    """The latest end on the lines that mention a trace, and the numbers of these lines."""

    end: int = 0
    lines: list[int] = field(default_factory=list)


class _Parts:
    """The lines of many traces, and the spans of those that have been decoded."""

    def __init__(self, problems: list[Problem], open_runs: OpenRuns) -> None:
        self._problems = problems
        self._open_runs = open_runs
        self._decoder = SpanDecoder()
        self._lines: list[tuple[Text, int, int, int] | None] = []  # None once decoded
        self._found: dict[str, _Found] = {}

    def search(self, texts: Iterable[Text]) -> dict[str, _Extent]:
        """Return the extent of each trace by its id; decode only lines without any id."""
        extents: dict[str, _Extent] = {}
        for text, number, offset, raw in _lines(texts, self._problems):
            ids, end = _ids(raw), _last_end(raw)
            if not ids:
                self._decode(raw, text, number, offset)
                continue
            text.keep()
            for trace_id in ids:
                extent = extents.setdefault(trace_id, _Extent())
                extent.end = max(extent.end, end)
                extent.lines.append(len(self._lines))
            self._lines.append((text, number, offset, len(raw)))
        for trace_id, end in self._open_runs.latest_ends():
            extent = extents.setdefault(trace_id, _Extent())
            extent.end = max(extent.end, end)
        return extents

    def trace(self, trace_id: str, extent: _Extent) -> Trace:
        """Return a trace, which may have no spans: links mention other traces, too."""
        for place in extent.lines:
            line, self._lines[place] = self._lines[place], None
            if line is not None:
                text, number, offset, length = line
                try:
                    self._decode(text.part(offset, length), text, number, offset)
                except OSError as error:
                    reason = error.strerror or str(error)
                    self._problems.append(Problem(text.name, number, reason))
        found = self._found.pop(trace_id, _Found())
        found.add(self._open_runs.of_trace(trace_id, found.spans))
        return found.trace(trace_id)

    def _decode(self, raw: bytes, text: Text, number: int, offset: int) -> None:
        reasons: list[str] = []
        for span in self._decoder.decode(raw, text, offset, reasons):
            self._found.setdefault(span.trace_id, _Found()).add([span])
        self._problems += [Problem(text.name, number, reason) for reason in reasons]


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
    return _recent(open_files(files, []), OpenRuns(), count)


def _read_latest(
    texts: list[Text], open_runs: OpenRuns, back: int, flow: str | None, since: int
) -> tuple[Summary | None, _Found]:
    """Find the latest run, or the one `back` before it, and read the spans of its trace.

    Runs are counted by their traces, unless they are those of a flow.

    The trace that was written last has usually ended last, so this reads it while collecting the
    ends of all traces.
    """
    last = _written_last(texts) if back == 0 and flow is None else None
    ends: list[_End] | None = None
    found = _Found()
    if last is not None:
        ends = []
        found = _read_spans(texts, last, open_runs, ends)
    one = next(iter(_recent(texts, open_runs, back + 1, flow, since, ends=ends)[back:]), None)
    if one is not None and flow is None:
        one = replace(one, run_id=None)
    if one is not None and one.trace_id == last:
        return one, found
    return one, _read_spans(texts, one.trace_id if one else None, open_runs)


def _written_last(texts: Iterable[Text]) -> str | None:
    """Return the id of the trace that the newest text mentions last, if any near its end."""
    for text in texts:
        with contextlib.suppress(OSError):
            mentioned = _TRACE_ID.findall(text.tail())
            return mentioned[-1].decode().lower() if mentioned else None
    return None


def _recent(
    texts: Iterable[Text],
    open_runs: OpenRuns,
    count: int,
    flow: str | None = None,
    since: int = 0,
    *,
    ends: list[_End] | None = None,
) -> list[Summary]:
    """Return the latest runs, one of each trace, optionally only since a time.

    With a flow, return its runs, however many of them are in a trace. `ends` are the ends of all
    lines, if they have been collected already.
    """
    decoder = SpanDecoder()
    ends = _ends(texts) if ends is None else ends

    def read(line: _Line) -> Iterator[Found]:
        return map(of_span, decoder.decode(*line, problems=[]))

    def wanted(find: Callable[[], Iterable[Found]]) -> Iterator[Summary]:
        for found in find():
            if found.summary.end >= since and flow in (None, found.summary.name):
                yield found.summary if flow is None else found.of_flow

    def key(one: Summary) -> str:
        return one.trace_id if flow is None else one.run_id or one.trace_id

    def ended_since(time: int) -> set[str]:
        recent = takewhile(lambda line: line[0] >= time, _latest_first(ends))
        return {span.span_id for _, line in recent for span in decoder.decode(*line, problems=[])}

    ended: Iterator[tuple[int, Callable[[], Iterable[Found]]]] = (
        (time, partial(read, line)) for time, line in _latest_first(ends)
    )
    reported = open_runs.latest_first(ended_since)
    every = heapq.merge(ended, reported, key=itemgetter(0), reverse=True)
    return most_recent(every, wanted, key, count)


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


def _search(texts: Iterable[Text], open_runs: OpenRuns, wanted: Wanted) -> RunSearch:
    """Search for the runs that a name, an id or its first digits may mean."""
    search = RunSearch(wanted)
    decoder = SpanDecoder()
    for text, _, offset, raw in _lines(texts, []):
        if search.is_mentioned(raw):
            for span in decoder.decode(raw, text, offset, []):
                search.add(of_span(span))
    for found in open_runs.mentioning(search.is_mentioned):
        search.add(found)
    return search


def _read_spans(
    texts: Iterable[Text],
    trace_id: str | None,
    open_runs: OpenRuns,
    ends: list[_End] | None = None,
) -> _Found:
    """Read the spans of a trace, also open ones, and all problems; without an id, only problems.

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
    if trace_id is not None:
        found.add(open_runs.of_trace(trace_id, found.spans))
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
