"""Write a trace in the Trace Event Format, which Perfetto, speedscope and Chrome's tracing open.

The format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU and
Perfetto's notes: https://perfetto.dev/docs/getting-started/other-formats. Its rules, and how this
module follows them:

- Complete events ("X") of one thread must nest. So a run that overlaps another run of its thread
  without being called by it goes onto a further track of that thread.
- `ts` and `dur` are microseconds. Here they are whole numbers, counted from the start of the trace:
  readers cut off fractions after different digits, and a child might then extend beyond its parent
  by a nanosecond. The exact times are among the arguments.
- An arrow is a pair of events, "s" and "f" with one id, and each belongs to the slice that began
  last on its thread. So each event directly follows its slice, at the slice's own start; Perfetto
  draws the arrow from the end of one to the start of the other. It cannot point back in time.
- Thread ids are unique across processes, because some readers look up threads by id alone.
"""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import orjson

from flowspan.analysis.tree import callers_first
from flowspan.read import otlp_json as otlp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from flowspan.analysis.findings import Findings
    from flowspan.analysis.one_trace import Analysis
    from flowspan.read.span import Span, Trace
    from flowspan.views.wishes import Wishes

_Event: TypeAlias = dict[str, Any]
_Numbers: TypeAlias = dict[str, list[int]]
_Track: TypeAlias = dict[str, int]
"""The pid and tid of an event."""

_CRITICAL_PATH: Final = "critical path"
_PATH_TRACK: Final = {"pid": 1, "tid": 2}
_UNIT: Final = 1_000  # nanoseconds in a microsecond
_EVENTS_PER_CHUNK: Final = 1_000


def render(findings: Findings, _: Wishes) -> Iterator[bytes]:
    """Yield the pieces of a JSON document that holds a trace and its critical path."""
    trace, analysis = findings.trace, findings.analysis
    origin = min([analysis.start, *(span.start for span in trace.spans)])
    about = orjson.dumps({"trace_id": trace.trace_id, "start_ns": origin})
    yield b'{"otherData":%b,"traceEvents":[\n' % about
    events = _events(trace, analysis, origin)
    separator = b""
    while chunk := list(itertools.islice(events, _EVENTS_PER_CHUNK)):
        yield separator + b",\n".join(map(orjson.dumps, chunk))
        separator = b",\n"
    yield b"\n]}\n"


@dataclass(slots=True)
class _Lane:
    """The tracks of one thread, and the room on them.

    Attributes:
        process: The identity of its process.
        first: The first span on it.
        tracks: The slices open on each track, as end (us) and span id, outermost first.
        where: The track of each span.
        busy: The end of the outermost slice and the number of each track in use, a heap.
        free: The numbers of the other tracks, a heap.
    """

    process: str
    first: Span
    tracks: list[list[tuple[int, str]]] = field(default_factory=list)
    where: dict[str, int] = field(default_factory=dict)
    busy: list[tuple[int, int]] = field(default_factory=list)
    free: list[int] = field(default_factory=list)

    def place(self, span: Span, start: int, end: int) -> None:
        """Choose the track of a span: inside its caller if it fits there, else an empty one.

        Spans must come by start time, callers first.
        """
        # speedscope confuses a slice without length with slices that begin or end at its time.
        since, until = min(start, end - 1), max(end, start + 1)
        while self.busy and self.busy[0][0] <= since:
            heapq.heappush(self.free, heapq.heappop(self.busy)[1])
        number = self.where.get(span.parent_span_id or "")
        if number is None or not self._has_room(span.parent_span_id, number, since, until):
            if not self.free:
                self.free.append(len(self.tracks))
                self.tracks.append([])
            number = heapq.heappop(self.free)
            self.tracks[number].clear()
            heapq.heappush(self.busy, (until, number))
        self.tracks[number].append((until, span.span_id))
        self.where[span.span_id] = number

    def _has_room(self, caller: str | None, number: int, since: int, until: int) -> bool:
        """Check whether a track has room for a slice directly inside its caller's slice."""
        slices = self.tracks[number]
        while slices and slices[-1][0] <= since:
            slices.pop()
        return bool(slices) and slices[-1][1] == caller and until <= slices[-1][0]

    def names(self, thread: str) -> Iterator[str]:
        """Yield the names of the tracks."""
        name = self.first.attributes.get("thread.name") or (thread and f"thread {thread}")
        for number in range(1, len(self.tracks) + 1):
            parts = (str(name or "runs"), f"({number})" if number > 1 else "")
            yield " ".join(filter(None, parts))


def _events(trace: Trace, analysis: Analysis, origin: int) -> Iterator[_Event]:
    spans = callers_first(trace.spans)
    threads = _threads(spans)
    # A stable sort keeps the caller first if two spans start and end together.
    spans.sort(key=lambda span: (span.start, -span.duration))
    lanes: dict[tuple[str, str], _Lane] = {}
    for span in spans:
        key = threads[span.span_id]
        if key not in lanes:
            lanes[key] = _Lane(key[0], span)
        times = _times(span.start, span.start + span.duration, origin)
        lanes[key].place(span, times["ts"], times["ts"] + times["dur"])

    yield from _named(_PATH_TRACK, _CRITICAL_PATH, _CRITICAL_PATH)
    pids: dict[str, int] = defaultdict(itertools.count(3).__next__)
    processes = {lane.process: pids[lane.process] for lane in lanes.values()}
    tids = itertools.count(3 + len(processes))
    tracks: dict[tuple[str, str], list[_Track]] = {}
    for key, lane in lanes.items():
        tracks[key] = []
        for name in lane.names(key[1]):
            track = {"pid": processes[lane.process], "tid": next(tids)}
            yield from _named(track, _process_name(lane.first), name)
            tracks[key].append(track)

    yield from _path(spans, analysis, origin)
    places = {
        span_id: tracks[key][number]
        for key, lane in lanes.items()
        for span_id, number in lane.where.items()
    }
    yield from _runs(spans, places, origin)


def _threads(spans: Iterable[Span]) -> dict[str, tuple[str, str]]:
    """Return the process and thread of each span; a span without a thread is in its caller's.

    Callers must come first.
    """
    threads: dict[str, tuple[str, str]] = {}
    for span in spans:
        process, thread = span.process, span.facts.lane
        caller = threads.get(span.parent_span_id or "")
        if thread is None:
            thread = caller[1] if caller and caller[0] == process else ""
        threads[span.span_id] = process, thread
    return threads


def _process_name(span: Span) -> str:
    number = span.resource.get("process.pid")
    return (span.service or "unknown service") + (f" (pid {number})" if number else "")


def _named(track: _Track, process: str, thread: str) -> Iterator[_Event]:
    # speedscope wants a time on every event.
    yield {"ph": "M", "ts": 0, **track, "name": "process_name", "args": {"name": process}}
    yield {"ph": "M", "ts": 0, **track, "name": "thread_name", "args": {"name": thread}}
    for kind, index in (("process_sort_index", track["pid"]), ("thread_sort_index", track["tid"])):
        yield {"ph": "M", "ts": 0, **track, "name": kind, "args": {"sort_index": index}}


def _path(spans: Iterable[Span], analysis: Analysis, origin: int) -> Iterator[_Event]:
    names = {span.span_id: span.name for span in spans}
    for step in analysis.critical_path:
        times = _times(step.start, step.end, origin)
        name = f"{names.get(step.span_id, '')} {step.cause}".lstrip()
        args = {"span_id": step.span_id, "cause": step.cause}
        yield {"ph": "X", **times, **_PATH_TRACK, "cat": _CRITICAL_PATH, "name": name, "args": args}


def _runs(spans: Sequence[Span], tracks: Mapping[str, _Track], origin: int) -> Iterator[_Event]:
    leaving, arriving = _arrows(spans)
    for span in spans:
        track, facts = tracks[span.span_id], span.facts
        times = _times(span.start, span.start + span.duration, origin)
        category = facts.run_type or ("span" if facts.attempt is None else "attempt")
        yield {
            "ph": "X",
            **times,
            **track,
            "cat": f"{category},{state}" if (state := _state(span)) else category,
            "name": span.name or "(no name)",
            "args": _arguments(span),
        }
        arrow = {"ts": times["ts"], **track, "cat": "dependency", "name": "dependency"}
        for number in leaving.get(span.span_id, ()):
            yield {"ph": "s", "id": number, **arrow}
        for number in arriving.get(span.span_id, ()):
            yield {"ph": "f", "bp": "e", "id": number, **arrow}


def _arrows(spans: Iterable[Span]) -> tuple[_Numbers, _Numbers]:
    """Number the arrows; return the arrows that leave each span, and those that arrive there.

    Spans must come in the order of writing, because arrows may only point forwards in it.
    """
    numbers = itertools.count(1)
    leaving: _Numbers = defaultdict(list)
    arriving: _Numbers = defaultdict(list)
    seen: set[str] = set()
    for span in spans:
        for upstream in span.upstream:
            if upstream in seen:
                number = next(numbers)
                leaving[upstream].append(number)
                arriving[span.span_id].append(number)
        seen.add(span.span_id)
    return leaving, arriving


def _times(start: int, end: int, origin: int) -> dict[str, int]:
    """Round both ends, not the length, down to microseconds, so that slices still nest."""
    first, last = (start - origin) // _UNIT, (end - origin) // _UNIT
    return {"ts": first, "dur": last - first}


def _state(span: Span) -> str | None:
    if span.open is not None:
        return span.open.state
    return "failed" if span.failed else None


def _arguments(span: Span) -> dict[str, Any]:
    arguments = {
        "span_id": span.span_id,
        "parent_span_id": span.parent_span_id,
        "start_ns": span.start,
        "end_ns": None if span.open is not None else span.end,
        "state": None if span.open is None else span.open.state,
        "last_seen_ns": None if span.open is None else span.open.last_seen,
        "status": span.status,
        "message": span.status_message,
        "attributes": otlp.plain(span.attributes),
    }
    return {name: value for name, value in arguments.items() if value not in (None, "", {})}
