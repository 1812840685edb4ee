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
from collections.abc import Iterator, Mapping
from typing import Any, Final

import httpx
import orjson

from flowspan import semconv
from flowspan.errors import SourceError
from flowspan.read import otlp_json as otlp
from flowspan.read.lines import Problem
from flowspan.read.log_files import Log, Logs, find, severity_and_level
from flowspan.read.otlp_json import UnreadableError
from flowspan.read.selection import Summary
from flowspan.read.server import Server
from flowspan.units import NANOSECONDS

# What VictoriaLogs makes of the parts of a record
_TIME: Final = "_time"
_BODY: Final = "_msg"
_STREAM: Final = "_stream"
_NO_BODY: Final = "missing _msg field"  # how its substitute begins
_LOGGER: Final = "scope.name"
_PARTS: Final = {
    _TIME,
    _BODY,
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
_RUNS: Final = (
    (
        f'"{semconv.FLOW_RUN_ID}":*',
        (semconv.FLOW_RUN_ID, semconv.FLOW_NAME, semconv.FLOW_RUN_NAME),
    ),
    (  # without the tasks of flows, whose lines bear the ids of both
        f'"{semconv.TASK_RUN_ID}":* "{semconv.FLOW_RUN_ID}":""',
        (semconv.TASK_RUN_ID, semconv.TASK_NAME, semconv.TASK_RUN_NAME),
    ),
)
"""LogsQL for the lines of runs, and the fields with the id and the names of the run."""

_LOOKBACKS: Final = (dt.timedelta(hours=1), dt.timedelta(days=1), dt.timedelta(days=30), None)


def load(url: httpx.URL, wanted: str, *, headers: Mapping[str, str] | None = None) -> Logs:
    """Read the log lines of one run or trace; see `flowspan.read.log_files.find`.

    Args:
        url: See `flowspan.read.server.base_url`.
        wanted: What to find.
        headers: Headers of every request.

    Raises:
        ValueError: `wanted` is nothing that can be found.
        SourceError: VictoriaLogs cannot be reached, refuses the request, or is something else.
        UnknownRunError: It has no line of it.
    """
    with contextlib.closing(_Api(url, headers or {})) as api:
        return find(api, wanted)


class _Api(Server):
    """The queries that are needed; each raises `SourceError` if it fails."""

    def of_trace(self, trace_id: str | None) -> Logs:
        """Return the log lines of a trace."""
        return self._logs(_is("trace_id", trace_id)) if trace_id else Logs((), ())

    def of_run(self, run_id: str, own_trace: str) -> Logs:
        """Return the log lines of a flow or task run, and of the trace that would be its own."""
        runs = (_is(name, run_id) for _, (name, *_) in _RUNS)
        return self._logs(" or ".join((_is("trace_id", own_trace), *runs)))

    def recent(self, count: int) -> list[Summary]:
        """Return the runs that logged last; the oldest are only looked for if there are too few."""
        found: list[Summary] = []
        for lookback in _LOOKBACKS:
            found = sorted(self._runs(count, lookback), key=lambda run: run.end, reverse=True)
            if len(found) >= count:
                break
        return found[:count]

    def _runs(self, count: int, lookback: dt.timedelta | None) -> Iterator[Summary]:
        for lines, names in _RUNS:
            by = ", ".join(map(_quoted, ("trace_id", *names)))
            query = (
                f"{lines} | stats by ({by}) max({_TIME}) as end | sort by (end desc) limit {count}"
            )
            for row in self._rows(query, lookback):
                with contextlib.suppress(UnreadableError):
                    run_id, *name = (row.get(one, "") for one in names)
                    end = _nanoseconds(row.get("end"))
                    yield Summary(row.get("trace_id", ""), run_id, " ".join(name).strip(), end)

    def _logs(self, query: str) -> Logs:
        found: list[Log] = []
        problems: list[Problem] = []
        for row in self._rows(query):
            try:
                found.append(_log(row))
            except UnreadableError as error:  # noqa: PERF203 - it must not affect the others
                problems.append(Problem(self.place, 0, f"log record skipped: {error}"))
        return Logs(tuple(sorted(found, key=lambda log: log.time)), tuple(problems))

    def _rows(self, query: str, lookback: dt.timedelta | None = None) -> Iterator[dict[str, str]]:
        """Yield the rows that a LogsQL query returns, in no order."""
        asked = {"query": query}
        if lookback is not None:
            start = dt.datetime.now(dt.timezone.utc) - lookback
            asked["start"] = start.isoformat()
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


def _is(name: str, value: str) -> str:
    return f"{_quoted(name)}:={_quoted(value)}"


def _quoted(text: str) -> str:
    return json.dumps(text)


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
