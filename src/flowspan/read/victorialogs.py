"""Read the log lines of one run, or of one trace, from VictoriaLogs.

VictoriaLogs stores an OTLP log record as fields of text, side by side: its body is ``_msg``, and
the attributes of the record, its resource and its scope are not told apart
(https://docs.victoriametrics.com/victorialogs/data-ingestion/opentelemetry/). So every value is
text here, values within a value have names such as ``a.b``, and the resource is what the stream
consists of or what has a name that OpenTelemetry defines for resources.
"""

import contextlib
import datetime as dt
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import httpx
import orjson

from flowspan import semconv
from flowspan.errors import SourceError
from flowspan.read import otlp_json as otlp
from flowspan.read.lines import Problem
from flowspan.read.log_files import Log, Logs, find, runs_of, severity_and_level
from flowspan.read.otlp_json import UnreadableError
from flowspan.read.run_search import RunSearch, dashed
from flowspan.read.selection import Summary, Wanted
from flowspan.read.server import Server
from flowspan.units import NANOSECONDS

# What VictoriaLogs makes of the parts of a record
_TIME: Final = "_time"
_BODY: Final = "_msg"
_LAST: Final = "last_time"  # a name in our own queries
_STREAM: Final = "_stream"
_NO_BODY: Final = "missing _msg field"  # how its substitute begins
_LOGGER: Final = "scope.name"
_PARTS: Final = {
    _TIME,
    _BODY,
    _LAST,
    _STREAM,
    "_stream_id",
    "event_name",
    _LOGGER,
    "scope.version",
    "severity_number",
    "severity_text",
    "span_id",
    "trace_id",
}
_SCOPE_ATTRIBUTE: Final = "scope.attributes."
_OF_STREAM: Final = re.compile(r'([^{},="]+)="(?:[^"\\]|\\.)*"')

_OF_RESOURCES: Final = (
    "cloud.",
    "container.",
    "deployment.environment.",
    "faas.",
    "host.",
    "k8s.",
    "os.",
    "process.",
    "service.",
    "telemetry.",
)
"""https://opentelemetry.io/docs/specs/semconv/resource/"""

_OF_RUN: Final = "prefect."
_IDS: Final = (semconv.FLOW_RUN_ID, semconv.TASK_RUN_ID)
_NAMES: Final = (semconv.FLOW_RUN_NAME, semconv.TASK_RUN_NAME)
_RUN: Final = (*_IDS, semconv.FLOW_NAME, *_NAMES, semconv.TASK_NAME)
_FLOW: Final = (semconv.FLOW_RUN_ID, semconv.FLOW_NAME, semconv.FLOW_RUN_NAME)
"""The fields that identify a run, and those that identify its flow run."""

_MOST_RUNS: Final = 1_000  # that a name or the first digits of an id may mean
_LOOKBACKS: Final = (dt.timedelta(hours=1), dt.timedelta(days=1), dt.timedelta(days=30), None)


def load(
    url: httpx.URL,
    wanted: str,
    *,
    headers: Mapping[str, str] | None = None,
    events: bool = False,
) -> Logs:
    """Read the log lines of one run or trace; see `flowspan.read.log_files.find`.

    Args:
        url: See `flowspan.read.server.base_url`.
        wanted: What to find.
        headers: Headers of every request.
        events: Whether to include the reports of runs that have not ended.

    Raises:
        ValueError: `wanted` is empty.
        SourceError: VictoriaLogs cannot be reached, refuses the request, or is something else.
        UnknownRunError: It has no line of it.
        AmbiguousRunError: It has lines of several such runs.
    """
    with contextlib.closing(_Store(url, headers or {}, events=events)) as store:
        return find(store, wanted)


class _Store(Server):
    """The queries that are needed; each raises `SourceError` if it fails."""

    def __init__(self, url: httpx.URL, headers: Mapping[str, str], *, events: bool) -> None:
        super().__init__(url, headers)
        self._without = "" if events else f" -{_is(_LOGGER, semconv.RUNS_SCOPE)}"

    def of_trace(self, trace_id: str | None) -> Logs:
        """Return the log lines of a trace."""
        return self._logs(_is("trace_id", trace_id)) if trace_id else Logs((), ())

    def of_run(self, run_id: str, own_trace: str) -> Logs:
        """Return the log lines of a flow or task run, and of the trace that would be its own."""
        ids = (_is(name, run_id) for name in _IDS)
        return self._logs(_any(_is("trace_id", own_trace), *ids))

    def latest(self, back: int) -> Summary | None:
        """Return the trace that logged last in a run, or the one `back` before it."""
        found = self._recent(_any(*map(_has, _IDS)), (), back + 1)
        if back >= len(found):
            return None
        return Summary(found[back].trace_id or "", None, "", found[back].time)

    def search(self, wanted: Wanted) -> RunSearch:
        """Search for the runs that a name or the first digits of an id may mean."""
        search = RunSearch(wanted)
        filters = [_is(name, wanted.name) for name in _NAMES if wanted.name]
        if wanted.digits:
            filters.append(_begins("trace_id", wanted.digits))
            filters += [_begins(name, dashed(wanted.digits)) for name in _IDS]
        for line in self._recent(_any(*filters), _RUN, _MOST_RUNS):
            for found in runs_of(line):
                search.add(found, by_task=True)
        return search

    def recent(self, count: int) -> list[Summary]:
        """Return the runs that logged last; the oldest are only looked for if there are too few."""
        flows = self._recent(_has(semconv.FLOW_RUN_ID), _FLOW, count)
        others = f"{_has(semconv.TASK_RUN_ID)} {_is(semconv.FLOW_RUN_ID, '')}"
        lines = [*flows, *self._recent(others, _RUN, count)]
        runs = [next(runs_of(line)).summary for line in lines]
        return sorted(runs, key=lambda run: run.end, reverse=True)[:count]

    def _recent(self, query: str, names: Iterable[str], count: int) -> list[Log]:
        """Return a line for each combination of these fields in a trace, the latest first.

        It has only these fields, and the latest time.
        """
        by = ", ".join(map(_quoted, ("trace_id", *names)))
        stats = f"stats by ({by}) max({_TIME}) as {_LAST} | sort by ({_LAST} desc) limit {count}"
        found: list[Log] = []
        for lookback in _LOOKBACKS:
            rows = self._rows(query, lookback, f" | {stats}")
            rows = ({**row, _TIME: row.get(_LAST, "")} for row in rows)
            found = [*_readable(rows, [], self.place)]
            if len(found) >= count:
                break
        return sorted(found, key=lambda line: line.time, reverse=True)

    def _logs(self, query: str) -> Logs:
        problems: list[Problem] = []
        found = _readable(self._rows(query), problems, self.place)
        return Logs(tuple(sorted(found, key=lambda log: log.time)), tuple(problems))

    def _rows(
        self, query: str, lookback: dt.timedelta | None = None, pipes: str = ""
    ) -> Iterator[dict[str, str]]:
        """Yield the rows that a LogsQL query returns, in no order."""
        asked = {"query": f"{query}{self._without}{pipes}"}
        if lookback is not None:
            start = dt.datetime.now(dt.timezone.utc) - lookback
            asked["start"] = str(int(start.timestamp()))
        response = self.get("select/logsql/query", asked)
        if not response.is_success:
            raise self.refusal(response, response.text)
        for line in response.content.splitlines():
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError:
                row = None
            if not isinstance(row, dict):
                raise SourceError(f"{self.place} does not answer as VictoriaLogs's API.")
            yield {name: str(value) for name, value in row.items()}


# LogsQL, https://docs.victoriametrics.com/victorialogs/logsql/


def _is(name: str, value: str) -> str:
    return f"{_quoted(name)}:={_quoted(value)}"


def _begins(name: str, value: str) -> str:
    return f"{_is(name, value)}*"


def _has(name: str) -> str:
    return f"{_quoted(name)}:*"


def _any(*filters: str) -> str:
    return f"({' or '.join(filters)})"


def _quoted(text: str) -> str:
    return json.dumps(text)


def _readable(rows: Iterable[dict[str, str]], problems: list[Problem], place: str) -> Iterator[Log]:
    """Yield the log records of rows; what cannot be read is a problem."""
    for row in rows:
        try:
            yield _log(row)
        except UnreadableError as error:  # noqa: PERF203 - it must not affect the others
            problems.append(Problem(place, 0, f"log record skipped: {error}"))


def _log(row: dict[str, str]) -> Log:
    severity, level = severity_and_level(
        otlp.unsigned(row.get("severity_number"), "severity"), row.get("severity_text", "")
    )
    body = row.get(_BODY, "")
    of_stream = {*_OF_STREAM.findall(row.get(_STREAM, ""))}
    resource: dict[str, Any] = {}
    attributes: dict[str, Any] = {}
    for name, value in row.items():
        if name in _PARTS or name.startswith(_SCOPE_ATTRIBUTE):
            continue
        is_of_resource = name.startswith(_OF_RESOURCES) or (
            name in of_stream and not name.startswith(_OF_RUN)
        )
        (resource if is_of_resource else attributes)[name] = value
    return Log(
        time=_nanoseconds(row.get(_TIME)),
        severity=severity,
        level=level,
        body=None if body.startswith(_NO_BODY) else body,
        attributes=attributes,
        logger=row.get(_LOGGER, ""),
        trace_id=otlp.optional_identifier(row.get("trace_id"), otlp.TRACE_ID, "trace id"),
        span_id=otlp.optional_identifier(row.get("span_id"), otlp.SPAN_ID, "span id"),
        resource=resource,
    )


def _nanoseconds(text: str | None) -> int:
    """Return a time such as ``2026-11-01T02:00:00.123456789Z`` in nanoseconds since the epoch."""
    second, _, fraction = (text or "").removesuffix("Z").partition(".")
    try:
        whole = dt.datetime.fromisoformat(f"{second}+00:00").timestamp()
        return int(whole) * NANOSECONDS + int(fraction.ljust(9, "0")[:9] or 0)
    except ValueError:
        raise UnreadableError(f"{text!r} is no time") from None
