"""Read the runs that have not ended, from the log records in which their processes report them.

The records have the scope `semconv.RUNS_SCOPE`. Those of runs that have ended are there, too: a run
is open if there are records of it, but no span.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, takewhile
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from flowspan import semconv
from flowspan.read import otlp_json as otlp
from flowspan.read.facts import nanoseconds
from flowspan.read.facts import text as as_text
from flowspan.read.lines import Problem
from flowspan.read.otlp_json import UnreadableError
from flowspan.read.run_search import Found
from flowspan.read.selection import Summary
from flowspan.read.span import Open, OpenSpan
from flowspan.text import SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping

    from flowspan.read.span import Span
    from flowspan.read.texts import Text

_SCOPE: Final = semconv.RUNS_SCOPE.encode()
_STARTED: Final = semconv.RUN_STARTED.encode()
_SPAN_ID: Final = re.compile(rb'"spanId"\s*:\s*"([0-9A-Fa-f]{16})"')
_TIME: Final = re.compile(rb'"timeUnixNano"\s*:\s*"?(\d{1,20})')
_TRACE_ID: Final = re.compile(rb'"traceId"\s*:\s*"([0-9A-Fa-f]{32})"')

_MISSED: Final = 3
"""Reports that a process may miss before it counts as lost."""
_DELAY: Final = 2 * SECOND
"""How long a report may take until it can be read."""
_LONGEST: Final = 600 * SECOND
"""The longest interval for which a running run comes before those that have ended."""
_CLOCKS_DIFFER: Final = 60 * SECOND
"""Prefect's server sets the ends of flow runs, maybe by another clock."""


class Report(NamedTuple):
    """One log record about a run that has not ended."""

    time: int
    trace_id: str
    span_id: str
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]

    @property
    def run_id(self) -> str:
        """The id of the run, in lower case."""
        return str(self.attributes.get(semconv.RUN_ID)).lower()


class _Line(NamedTuple):
    """A line with reports, the last time in it, and where it is."""

    time: int
    text: Text
    number: int
    offset: int
    length: int


@dataclass
class _Run:
    """The latest report of a run; attributes that it lacks are those of earlier ones."""

    last: Report
    attributes: dict[str, Any] = field(default_factory=dict)


_Process: TypeAlias = tuple[object, ...]
"""What tells a process from others."""


class OpenRuns:
    """Finds the open runs of a trace. The lines with reports are decoded when they are needed."""

    def __init__(self, texts: Iterable[Text] = (), *, finds_traces: bool = True) -> None:
        """Find the lines with reports.

        Args:
            texts: Lines of OTLP JSON with log records.
            finds_traces: Whether `latest_first` yields anything. Not if spans were asked for from
                one file, which may be an old one.
        """
        self.now = time_ns()
        self._finds_traces = finds_traces
        self.problems: list[Problem] = []
        self._lines: dict[str, list[_Line]] = {}
        for text in texts:
            self._index(text)

    def _index(self, text: Text) -> None:
        try:
            for number, offset, raw in text.lines():
                if _SCOPE in raw:
                    text.keep()
                    time = max(map(int, _TIME.findall(raw)), default=0)
                    line = _Line(time, text, number, offset, len(raw))
                    for trace_id in {one.decode().lower() for one in _TRACE_ID.findall(raw)}:
                        self._lines.setdefault(trace_id, []).append(line)
        except OSError as error:
            self.problems.append(Problem(text.name, 0, error.strerror or str(error)))

    def __bool__(self) -> bool:
        """Return whether there are reports at all."""
        return bool(self._lines)

    def of_trace(self, trace_id: str, spans: Mapping[str, Span]) -> list[OpenSpan]:
        """Return a span for each run of a trace that is not among its `spans`, by their ids."""
        reports = chain.from_iterable(map(self._read, self._telling(trace_id, spans)))
        own = [report for report in reports if report.trace_id == trace_id]
        open_runs = _latest(own, spans)
        if not open_runs:
            return []
        heard = _last_heard(own, spans.values())
        found: list[OpenSpan] = []
        for run in open_runs.values():
            found += _spans_of(run, heard[_reporter(run.last)], self.now, spans)
        return found

    def latest_ends(self) -> Iterator[tuple[str, int]]:
        """Yield the id of each trace with reports, and a time until which all its open runs end."""
        for trace_id, lines in self._lines.items() if self._finds_traces else ():
            last = max(line.time for line in lines)
            yield trace_id, self.now if self.now - last <= _MISSED * _LONGEST else last

    def mentioning(self, is_mentioned: Callable[[bytes], bool]) -> Iterator[Found]:
        """Yield the runs that are reported on some lines, those that have ended, too.

        Args:
            is_mentioned: Returns whether a line is one of them; it is not decoded otherwise.
        """
        for line in self._every_line():
            with contextlib.suppress(OSError):
                if is_mentioned(line.text.part(line.offset, line.length)):
                    yield from (_found(report, report.time) for report in self._read(line))

    def _telling(self, trace_id: str, ended: Container[str]) -> Iterator[_Line]:
        """Yield the lines of a trace with the first or the last report of a run that is open.

        A run of hours has thousands of reports.
        """
        known: set[str] = set()
        for line in sorted(self._lines.get(trace_id, ()), key=lambda one: one.time, reverse=True):
            with contextlib.suppress(OSError):
                raw = line.text.part(line.offset, line.length)
                ids = {one.decode().lower() for one in _SPAN_ID.findall(raw)}
                new = {one for one in ids - known if one not in ended}
                known |= new
                if new or (_STARTED in raw and not known.isdisjoint(ids)):
                    yield line

    def latest_first(
        self, ended_since: Callable[[int], Container[str]]
    ) -> Iterator[tuple[int, Callable[[], Iterable[Found]]]]:
        """Yield a time and a function that returns the runs reported then, the latest first.

        A run that is running has the current time. Runs that have ended are among the others: they
        have their last report's time, which is before their end.

        Args:
            ended_since: Returns the ids of the spans that ended at a time or later, and maybe more.
        """
        every = self._every_line() if self._finds_traces else ()
        lines = sorted(every, key=lambda line: line.time, reverse=True)
        fresh = takewhile(lambda line: self.now - line.time <= _MISSED * _LONGEST, lines)
        oldest_first = chain.from_iterable(map(self._read, reversed([*fresh])))
        reports = {report.span_id: report for report in oldest_first}
        running = [one for one in reports.values() if _state(one, one.time, self.now) == "running"]
        if running:
            ended = ended_since(min(report.time for report in running) - _CLOCKS_DIFFER)
            still = [report for report in running if report.span_id not in ended]
            yield self.now, lambda: (_found(report, self.now, "running") for report in still)
        for line in lines:
            yield line.time, partial(self._found_on, line)

    def _found_on(self, line: _Line) -> Iterator[Found]:
        return (_found(report, report.time) for report in self._read(line))

    def _every_line(self) -> Iterator[_Line]:
        places: set[tuple[int, int]] = set()
        for line in chain.from_iterable(self._lines.values()):
            if (place := (id(line.text), line.offset)) not in places:
                places.add(place)
                yield line

    def _read(self, line: _Line) -> Iterator[Report]:
        try:
            yield from _reports(line.text.part(line.offset, line.length))
        except (OSError, UnreadableError) as error:
            self.problems.append(Problem(line.text.name, line.number, str(error)))


def _reports(raw: bytes) -> Iterator[Report]:
    for resource, scope, records in otlp.groups(raw, otlp.LOGS):
        if scope.get("name") != semconv.RUNS_SCOPE:
            continue
        for record in records:
            yield Report(
                otlp.unsigned(record.get("timeUnixNano"), "time"),
                otlp.identifier(record.get("traceId"), otlp.TRACE_ID, "trace id"),
                otlp.identifier(record.get("spanId"), otlp.SPAN_ID, "span id"),
                _as_on_spans(otlp.attributes(record.get("attributes"))),
                resource,
            )


def _as_on_spans(attributes: dict[str, Any]) -> dict[str, Any]:
    if (host := attributes.pop(semconv.RUN_HOST, None)) is not None:
        attributes[semconv.HOST_NAME] = host
    return attributes


def _found(report: Report, end: int, result: str | None = None) -> Found:
    known = report.attributes
    name = next(filter(None, map(known.get, (semconv.FLOW_NAME, semconv.TASK_NAME))), "")
    run_name, flow_run_id = as_text(known.get(semconv.RUN_NAME)), known.get(semconv.FLOW_RUN_ID)
    one = Summary(report.trace_id, report.run_id, name, end, run_name, result)
    return Found(one, known.get(semconv.RUN_TYPE) == "flow", as_text(flow_run_id))


def _latest(reports: Iterable[Report], spans: Container[str]) -> dict[str, _Run]:
    found: dict[str, _Run] = {}
    for report in sorted(reports, key=lambda report: report.time):
        if report.span_id not in spans:
            run = found.setdefault(report.span_id, _Run(report))
            run.last = report
            run.attributes |= report.attributes
    return found


def _process(resource: Mapping[str, Any], host: str | None, process_id: str | None) -> _Process:
    # A forked process has the resource of its parent.
    return resource.get("service.instance.id"), host, process_id


def _reporter(report: Report) -> _Process:
    host, process_id = (report.attributes.get(name) for name in _PLACE)
    return _process(report.resource, as_text(host), as_text(process_id))


def _last_heard(reports: Iterable[Report], spans: Iterable[Span]) -> dict[_Process, int]:
    """Return when each process that reports runs of a trace was last heard of."""
    heard: dict[_Process, int] = {}
    for report in reports:
        process = _reporter(report)
        heard[process] = max(heard.get(process, 0), report.time)
    for span in spans:
        process = _process(span.resource, span.facts.host, span.facts.process_id)
        if process in heard:
            heard[process] = max(heard[process], span.end)
    return heard


def _spans_of(run: _Run, seen: int, now: int, known: Container[str]) -> Iterator[OpenSpan]:
    """Yield the span of a run whose process was last seen at a time, and that of its attempt."""
    attributes, last = run.attributes, run.last.attributes
    open_ = Open(_state(run.last, seen, now), seen, otlp.text(attributes.get(semconv.RUN_ACTIVITY)))
    end = max(now, seen) if open_.state == "running" else seen
    run_type, parent = attributes.get(semconv.RUN_TYPE), attributes.get(semconv.RUN_PARENT_SPAN_ID)
    name = otlp.text(attributes.get(semconv.TASK_NAME if run_type == "task" else semconv.FLOW_NAME))
    yield _span(
        run.last,
        open_,
        end,
        span_id=run.last.span_id,
        parent_span_id=as_text(parent),
        name=name if run_type == "task" else semconv.flow_span_name(name),
        kind=otlp.text(attributes.get(semconv.RUN_SPAN_KIND)),
        start=otlp.unsigned(attributes.get(semconv.RUN_START), "start"),
        attributes=_grown(attributes, open_.activity, end - run.last.time),
    )
    attempt, number = last.get(semconv.ATTEMPT_SPAN_ID), last.get(semconv.ATTEMPT)
    if isinstance(number, int) and isinstance(attempt, str) and attempt not in known:
        yield _span(
            run.last,
            open_,
            end,
            span_id=attempt,
            parent_span_id=run.last.span_id,
            name=semconv.attempt_span_name(number),
            kind="INTERNAL",
            start=otlp.unsigned(last.get(semconv.ATTEMPT_START), "start"),
            attributes={semconv.ATTEMPT: number},
        )


def _span(report: Report, open_: Open, end: int, *, start: int, **fields: Any) -> OpenSpan:
    return OpenSpan(
        open_,
        trace_id=report.trace_id,
        start=start,
        end=max(start, end),
        events=(),
        links=(),
        status="UNSET",
        status_message="",
        resource=report.resource,
        **fields,
    )


def _state(report: Report, seen: int, now: int) -> Literal["running", "lost"]:
    interval = nanoseconds(report.attributes.get(semconv.RUN_HEARTBEAT)) or 0
    return "running" if now - seen <= _MISSED * interval + _DELAY else "lost"


def _grown(attributes: Mapping[str, Any], activity: str, time: int) -> dict[str, Any]:
    """Return the attributes of a span; what it was doing, it has been doing for some time since."""
    grown = {key: value for key, value in attributes.items() if key not in _ONLY_IN_REPORTS}
    if (attribute := _ACTIVITIES.get(activity)) is not None:
        grown[attribute] = ((nanoseconds(grown.get(attribute)) or 0) + max(0, time)) / SECOND
    return grown


_ACTIVITIES: Final = {
    attribute.rpartition(".")[2]: attribute
    for attribute in (*semconv.WAITS_INSIDE, semconv.EXECUTION, semconv.ORCHESTRATION)
}
_PLACE: Final = (semconv.HOST_NAME, semconv.PROCESS_ID)
_ONLY_IN_REPORTS: Final = frozenset(
    {
        semconv.RUN_START,
        semconv.RUN_SPAN_KIND,
        semconv.RUN_PARENT_SPAN_ID,
        semconv.RUN_ACTIVITY,
        semconv.RUN_HEARTBEAT,
        semconv.ATTEMPT,
        semconv.ATTEMPT_START,
        semconv.ATTEMPT_SPAN_ID,
    }
)
