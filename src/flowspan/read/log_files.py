"""Read the log lines of one run, or of one trace, from OTLP JSON lines.

The records in which processes report that their runs have not ended (`flowspan.read.open_runs`) are
left out unless they are asked for.

Each line of a file is one ``ExportLogsServiceRequest`` in the OTLP JSON encoding
(https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding). Unreadable parts become a
`Problem`; everything else is still returned. As with spans, only lines that contain a wanted id or
look broken are parsed.

As JSON, in ``flowspan logs --json`` and in the ``logs`` of each span of ``flowspan timeline --logs
--json``, a log line is ``{"time", "level", "severity_number", "body", "attributes", "logger",
"trace_id", "span_id", "resource"}``. The time is integer nanoseconds since the epoch. The level is
one of `LEVELS`, the application's own name for it, or null. The body is any JSON value, attributes
are plain objects, and missing ids are null. Numbers that JSON lacks are text, as in OTLP.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from flowspan import semconv
from flowspan.places import Folders
from flowspan.read import lines
from flowspan.read import otlp_json as otlp
from flowspan.read.lines import Problem
from flowspan.read.otlp_json import UnreadableError
from flowspan.read.run_search import Found, RunSearch, guess
from flowspan.read.selection import (
    Summary,
    UnknownRunError,
    Wanted,
    most_recent,
    parse_wanted,
    trace_of_root,
)

FILE_PATTERN: Final = "logs*.jsonl"

_KNOWN: Final = 300  # the latest runs, among whose names is perhaps the one that was misspelt
_LISTED: Final = 5

# OpenTelemetry's severities come in groups of four, starting at 1; 0 is no severity
# (https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber). The groups have
# Python's names here.
LEVELS: Final = ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_OTHER_NAMES: Final = {"WARN": "WARNING", "FATAL": "CRITICAL"}
_GROUP: Final = 4
_SEVERITIES: Final = (
    "UNSPECIFIED",
    *(
        f"{group}{number}"
        for group in ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")
        for number in ("", 2, 3, 4)
    ),
)
_INFO: Final = _SEVERITIES.index("INFO")

_TIME: Final = re.compile(rb'"(?:t|observedT)imeUnixNano"\s*:\s*"?(\d{1,20})')
_AMBIGUOUS: Final = re.compile(r"[\s\"=]")

# OpenTelemetry's own; flowspan's semconv lists only what flowspan writes.
_EXCEPTION_TYPE: Final = "exception.type"
_EXCEPTION_MESSAGE: Final = "exception.message"
_STACK: Final = "exception.stacktrace"
_CODE_PREFIX: Final = "code."

# The attributes that identify a run, and the names that `flowspan.logs.add_run_context` and
# Prefect's own loggers use for them.
_IDENTITY: Final = (
    semconv.FLOW_NAME,
    semconv.FLOW_RUN_ID,
    semconv.FLOW_RUN_NAME,
    semconv.TASK_NAME,
    semconv.TASK_RUN_ID,
    semconv.TASK_RUN_NAME,
    semconv.DEPLOYMENT_NAME,
)
_REPEATED: Final = {name.removeprefix("prefect.").replace(".", "_"): name for name in _IDENTITY}
_TOLD_ELSEWHERE: Final = {*_IDENTITY, "trace_flags", _EXCEPTION_TYPE, _EXCEPTION_MESSAGE, _STACK}


@dataclass(frozen=True, slots=True)
class Log:
    """One log record.

    Attributes:
        time: When it happened, or was observed if unknown; nanoseconds since the epoch.
        severity: OpenTelemetry's severity number, 1 to 24; 0 if it has none.
        level: Python's name of its level; empty if it has none.
        body: Its body as `otlp_json.any_value` returns it, mostly text.
        attributes: Its attributes as `otlp_json.attributes` returns them.
        logger: Name of its logger; may be empty.
        trace_id: Lower-case hex, None outside any trace.
        span_id: Lower-case hex, None outside any span.
        resource: Attributes of the process that wrote it.
    """

    time: int
    severity: int
    level: str
    body: Any
    attributes: Mapping[str, Any]
    logger: str
    trace_id: str | None
    span_id: str | None
    resource: Mapping[str, Any]

    @property
    def flow_run_id(self) -> str | None:
        """Id of its flow run, lower-case."""
        return self._id(semconv.FLOW_RUN_ID)

    @property
    def task_run_id(self) -> str | None:
        """Id of its task run, lower-case."""
        return self._id(semconv.TASK_RUN_ID)

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the task and its run, as far as known."""
        return self._texts(semconv.TASK_NAME, semconv.TASK_RUN_NAME)

    def text(self, name: str) -> str | None:
        """Return one of its attributes as text, None if it is absent or empty."""
        return next(iter(self._texts(name)), None)

    @property
    def place(self) -> str:
        """Where it comes from: ``flow/task-run``, as far as known; may be empty."""
        task = self._texts(semconv.TASK_RUN_NAME) or self._texts(semconv.TASK_NAME)
        return "/".join((*self._texts(semconv.FLOW_NAME), *task))

    @property
    def message(self) -> str:
        """The body as text: JSON if it is not text."""
        return _as_text(self.body)

    @property
    def exception(self) -> str:
        """The exception as ``type: message``, or the last line of its stack; may be empty."""
        parts = self._texts(_EXCEPTION_TYPE, _EXCEPTION_MESSAGE)
        return ": ".join(parts) or self.stack.rstrip().rpartition("\n")[2]

    @property
    def stack(self) -> str:
        """The exception with its stack, as Python prints it; may be empty."""
        return "".join(self._texts(_STACK))

    @property
    def fields(self) -> dict[str, str]:
        """The application's own fields besides the message, as text.

        Fields that repeat the place, the exception or the ids are left out, and so is the place in
        the code.
        """
        return {
            name: _as_field(value)
            for name, value in self.attributes.items()
            if name not in _TOLD_ELSEWHERE
            and not name.startswith(_CODE_PREFIX)
            and not self._repeats(name, value)
        }

    def _repeats(self, name: str, value: Any) -> bool:
        if name in _REPEATED:
            return bool(value == self.attributes.get(_REPEATED[name]))
        known = {
            "trace_id": self.trace_id,
            "span_id": self.span_id,
            "service": self.resource.get(otlp.SERVICE_NAME),
        }
        return name in known and value == known[name]

    def _id(self, name: str) -> str | None:
        value = self.attributes.get(name)
        return None if value is None else str(value).lower()

    def _texts(self, *names: str) -> tuple[str, ...]:
        values = (self.attributes.get(name) for name in names)
        return tuple(str(value) for value in values if value not in (None, ""))


@dataclass(frozen=True, slots=True)
class Logs:
    """Log records in order of time, and what could not be read."""

    logs: tuple[Log, ...]
    problems: tuple[Problem, ...]


def find_files(source: Path | Folders) -> list[Path]:
    """Return the files to read, newest first.

    Raises:
        SourceError: There are no such files.
    """
    return lines.find_files(source, FILE_PATTERN)


class LogStore(Protocol):
    """What `find` needs to know of log lines.

    Attributes:
        place: Its name in messages.
    """

    place: str

    def of_trace(self, trace_id: str | None) -> Logs:
        """Return the log lines of a trace; without an id, only problems."""

    def of_run(self, run_id: str, own_trace: str) -> Logs:
        """Return the log lines of a flow or task run, and of the trace that would be its own."""

    def latest(self, back: int) -> Summary | None:
        """Return the trace that logged last, or the one `back` before it, if there is one.

        If it has a run id, a run without a trace.
        """

    def search(self, wanted: Wanted) -> RunSearch:
        """Search for the runs that a name or the first digits of an id may mean."""

    def recent(self, count: int) -> list[Summary]:
        """Return the runs that logged last, and traces that logged outside runs."""


class _Files:
    def __init__(self, source: Path | Folders, *, events: bool) -> None:
        self.place = str(source)
        self._files = find_files(source)
        self._events = events

    def of_trace(self, trace_id: str | None) -> Logs:
        return load_trace(self._files, trace_id, events=self._events)

    def of_run(self, run_id: str, own_trace: str) -> Logs:
        return _load_run(self._files, run_id, own_trace, events=self._events)

    def latest(self, back: int) -> Summary | None:
        return _latest(self._files, back, events=self._events)

    def search(self, wanted: Wanted) -> RunSearch:
        return _search(self._files, wanted, events=self._events)

    def recent(self, count: int) -> list[Summary]:
        return _recent(self._files, count, _run, events=self._events)


def load(source: Path | Folders, wanted: str, *, events: bool = False) -> Logs:
    """Read the log lines of one run or trace from files; see `find`.

    Args:
        source: A file of OTLP JSON lines, or folders with ``logs*.jsonl``.
        wanted: What to find.
        events: Whether to include the reports of runs that have not ended.

    Raises:
        ValueError: `wanted` is empty.
        SourceError: There is nothing to read at `source`.
        UnknownRunError: The files have no line of it.
        AmbiguousRunError: They have lines of several such runs.
    """
    return find(_Files(source, events=events), wanted)


def find(store: LogStore, wanted: str) -> Logs:
    """Find the log lines of one run or trace.

    Args:
        store: Where to look.
        wanted: A run or a trace, as `parse_wanted` takes it; ``latest`` is the trace whose run
            logged last. For a flow run: its lines and its tasks'; if it is the root of a trace, all
            lines of the trace.

    Raises:
        ValueError: `wanted` is empty.
        SourceError: The store cannot be read.
        UnknownRunError: It has no line of it.
        AmbiguousRunError: It has lines of several such runs.
    """
    meant = parse_wanted(wanted)
    one = None
    if meant.back is not None:
        one = store.latest(meant.back)
    elif meant.run_id is None:
        one = store.search(meant).the_one(store.place, [])
    trace_id = one.trace_id if one and not one.run_id else meant.trace_id
    run_id = one.run_id if one else meant.run_id
    found = store.of_trace(trace_id) if trace_id or not run_id else Logs((), ())
    if not found.logs and run_id is not None:
        found = store.of_run(run_id, trace_of_root(run_id))
    if not found.logs:
        recent = store.recent(_KNOWN)
        # Lines outside runs only name traces, most of which also have runs.
        known = [one for one in recent if one.run_id] or recent
        where = f"{store.place} holds no log lines"
        what = f"{where} of trace or run {wanted}." if known else f"{where} of runs yet."
        raise UnknownRunError(f"{what}{guess(meant, known)}", known[:_LISTED], found.problems)
    return found


def load_trace(files: Iterable[Path], trace_id: str | None, *, events: bool = False) -> Logs:
    """Read the log lines of a trace; without an id, read only problems."""
    needles = lines.spellings(trace_id) if trace_id else ()

    def belongs(log: Log) -> bool:
        return bool(trace_id) and log.trace_id == trace_id

    return _load(files, needles, belongs, events=events)


def _load_run(files: Iterable[Path], run_id: str, own_trace: str, *, events: bool) -> Logs:
    def belongs(log: Log) -> bool:
        return log.trace_id == own_trace or run_id in (log.flow_run_id, log.task_run_id)

    return _load(files, lines.spellings(run_id, own_trace), belongs, events=events)


def _load(
    files: Iterable[Path],
    needles: Collection[bytes],
    belongs: Callable[[Log], bool],
    *,
    events: bool,
) -> Logs:
    found: list[Log] = []
    problems: list[Problem] = []
    for path, number, raw in lines.lines(files, problems):
        if any(needle in raw for needle in needles) or not lines.looks_whole(raw, otlp.LOGS):
            reasons: list[str] = []
            found += filter(belongs, _parse(raw, reasons, events=events))
            problems += [Problem(path, number, reason) for reason in reasons]
    return Logs(tuple(sorted(found, key=lambda log: log.time)), tuple(problems))


def _recent(
    files: Iterable[Path], count: int, key: Callable[[Summary], str], *, events: bool
) -> list[Summary]:
    """Return the runs that logged last, and traces that logged outside runs."""
    latest = lines.latest_first(files, _TIME)
    return most_recent(latest, partial(_summaries, events=events), key, count)


def _latest(files: Iterable[Path], back: int, *, events: bool) -> Summary | None:
    """Return the trace that logged last, or the one `back` before it; or a run without a trace."""
    found = _recent(files, back + 1, _trace, events=events)
    if back >= len(found):
        return None
    one = found[back]
    return replace(one, run_id=None) if one.trace_id else one


def _run(one: Summary) -> str:
    return one.run_id or one.trace_id


def _trace(one: Summary) -> str:
    return one.trace_id or one.run_id or ""


def _summaries(raw: bytes, *, events: bool) -> Iterator[Summary]:
    for log in _parse(raw, [], events=events):
        if log.flow_run_id or log.task_run_id or log.trace_id:
            yield next(runs_of(log)).summary


def _search(files: Iterable[Path], wanted: Wanted, *, events: bool) -> RunSearch:
    """Search for the runs that a name or the first digits of an id may mean."""
    search = RunSearch(wanted)
    for _, _, raw in lines.lines(files, []):
        if search.is_mentioned(raw):
            for log in _parse(raw, [], events=events):
                for found in runs_of(log):
                    search.add(found, by_task=True)
    return search


def runs_of(log: Log) -> Iterator[Found]:
    """Yield the flow run and the task run that a record belongs to, or else its trace."""
    trace_id, flow_id, task_id = log.trace_id or "", log.flow_run_id, log.task_run_id
    flow = log.text(semconv.FLOW_NAME)
    if flow_id or not task_id:
        run_name = log.text(semconv.FLOW_RUN_NAME)
        one = Summary(trace_id, flow_id, flow or "", log.time, run_name)
        yield Found(one, is_flow=True, flow_run_id=flow_id)
    if task_id:
        name, run_name = flow or log.text(semconv.TASK_NAME), log.text(semconv.TASK_RUN_NAME)
        one = Summary(trace_id, task_id, name or "", log.time, run_name)
        yield Found(one, is_flow=False, flow_run_id=flow_id)


def parse_level(name: str) -> int:
    """Return the lowest severity number of a level.

    Raises:
        ValueError: There is no such level; the message lists the levels.
    """
    level = _level_name(name)
    if level not in LEVELS:
        raise ValueError(f"{name!r} is no level. Levels are {', '.join(LEVELS)}.")
    return _severity(level)


def at_least(logs: Iterable[Log], severity: int) -> list[Log]:
    """Return the records of this severity or above; records without one count as INFO."""
    return [log for log in logs if (log.severity or _INFO) >= severity]


def of_task(logs: Iterable[Log], name: str) -> list[Log]:
    """Return the records of a task's runs, or of the task run with this name."""
    return [log for log in logs if name in log.task_names]


def as_object(log: Log) -> dict[str, Any]:
    """Return the documented JSON object of a record."""
    return {
        "time": log.time,
        "level": log.level or None,
        "severity_number": log.severity,
        "body": otlp.plain(log.body),
        "attributes": otlp.plain(log.attributes),
        "logger": log.logger,
        "trace_id": log.trace_id,
        "span_id": log.span_id,
        "resource": otlp.plain(log.resource),
    }


def _parse(raw: bytes, problems: list[str], *, events: bool) -> Iterator[Log]:
    """Yield the readable records of one line; append the reasons for the others to `problems`."""
    try:
        for resource, scope, records in otlp.groups(raw, otlp.LOGS):
            logger = otlp.text(scope.get("name"))
            if logger == semconv.RUNS_SCOPE and not events:
                continue
            for record in records:
                try:
                    yield _log(record, logger, resource)
                except UnreadableError as error:  # noqa: PERF203 - it must not affect the others
                    problems.append(f"log record skipped: {error}")
    except UnreadableError as error:
        problems.append(str(error))


def _log(raw: Mapping[str, Any], logger: str, resource: Mapping[str, Any]) -> Log:
    time = otlp.unsigned(raw.get("timeUnixNano"), "time")
    name = otlp.enum(raw.get("severityNumber"), _SEVERITIES, "SEVERITY_NUMBER_")
    severity, level = severity_and_level(
        _SEVERITIES.index(name), otlp.text(raw.get("severityText"))
    )
    return Log(
        time=time or otlp.unsigned(raw.get("observedTimeUnixNano"), "observed time"),
        severity=severity,
        level=level,
        body=otlp.any_value(raw.get("body")),
        attributes=otlp.attributes(raw.get("attributes")),
        logger=logger,
        trace_id=otlp.optional_identifier(raw.get("traceId"), otlp.TRACE_ID, "trace id"),
        span_id=otlp.optional_identifier(raw.get("spanId"), otlp.SPAN_ID, "span id"),
        resource=resource,
    )


def severity_and_level(number: int, name: str) -> tuple[int, str]:
    """Complete the severity of a record: its number by its level's name, or the other way round."""
    level = _level_name(name)
    return number or _severity(level), level or (LEVELS[(number - 1) // _GROUP] if number else "")


def _level_name(name: str) -> str:
    upper = name.strip().upper()
    return _OTHER_NAMES.get(upper, upper)


def _severity(level: str) -> int:
    return LEVELS.index(level) * _GROUP + 1 if level in LEVELS else 0


def _as_text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(otlp.plain(value), ensure_ascii=False)


def _as_field(value: Any) -> str:
    """Return a value as text whose end is unambiguous."""
    if isinstance(value, str) and value and not _AMBIGUOUS.search(value):
        return value
    return json.dumps(otlp.plain(value), ensure_ascii=False, separators=(",", ":"))
