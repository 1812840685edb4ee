"""Turn log lines into OTLP log records, and decide whether flowspan exports a line.

This module does not use the handler of ``opentelemetry-instrumentation-logging`` or the processor
of ``opentelemetry-instrumentation-structlog``. Both build the whole record in the thread that logs,
which costs more than logging the line; do not know the run; name an exception without its module
and use its first argument as its message; and pass on secrets and values that no exporter can
encode. The first is a handler, so it misses loggers that do not propagate; the second changes
structlog's configuration. Only the severity numbers come from the package that both are based on.
If an application uses them, or the SDK's own handler, they keep exporting their lines, and flowspan
only adds the run's attributes.
"""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from time import time_ns
from traceback import TracebackException
from types import TracebackType
from typing import Any, Final

from opentelemetry import context as context_api
from opentelemetry._logs import (
    LoggerProvider,
    LogRecord,
    NoOpLoggerProvider,
    get_logger_provider,
)
from opentelemetry._logs._internal import ProxyLoggerProvider
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context
from opentelemetry.instrumentation.log_utils import std_to_otel
from opentelemetry.semconv.attributes.code_attributes import CODE_STACKTRACE
from opentelemetry.semconv.attributes.exception_attributes import (
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
)
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    SpanContext,
    get_current_span,
    set_span_in_context,
)

from flowspan import semconv
from flowspan.export.bounded import BoundedLoggerProvider
from flowspan.log_capture.hooks import Line
from flowspan.recording.attempt import qualified_name
from flowspan.recording.recorder import RunRecorder, current_recorder, speaking_recorder
from flowspan.redaction import redact
from flowspan.values import LAST_INT, LONGEST_TEXT, clean, clean_key, clean_text, is_a

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

_STRUCTLOG: Final = "structlog"
_NOTHING: Final[Mapping[str, Any]] = {}
_STRUCTURED: Final = (str, dict, list, tuple)
_PREFECT: Final = "prefect."
# Fields of a record that do not become attributes: those that every record has, those that
# formatters add, Prefect's switch, and those that opentelemetry-instrumentation-logging can add for
# format strings.
_OF_RECORDS: Final = frozenset(
    {
        *vars(logging.makeLogRecord({})),
        *("asctime", "message", "taskName", "send_to_api"),
        *("otelTraceID", "otelSpanID", "otelTraceSampled", "otelServiceName"),
    }
)
_FIELDS_OF_A_RECORD: Final = len(vars(logging.makeLogRecord({})))
# Keys of an event that do not become attributes: structlog's own loggers and processors use them.
_OF_EVENTS: Final = frozenset(
    {
        *("event", "exc_info", "exception", "level", "level_number", "logger", "logger_name"),
        *("positional_args", "stack", "stack_info", "stacklevel", "timestamp"),
    }
)
# By the names that Prefect's loggers and `flowspan.logs.add_run_context` use.
_RUN_FIELDS: Final = {
    "flow_name": semconv.FLOW_NAME,
    "flow_run_id": semconv.FLOW_RUN_ID,
    "flow_run_name": semconv.FLOW_RUN_NAME,
    "task_name": semconv.TASK_NAME,
    "task_run_id": semconv.TASK_RUN_ID,
    "task_run_name": semconv.TASK_RUN_NAME,
    "deployment_name": semconv.DEPLOYMENT_NAME,
}
_TRACE_FIELDS: Final = ("trace_id", "span_id", "trace_flags", "service")
_DATADOG: Final = "dd."
# https://opentelemetry.io/docs/specs/otel/logs/data-model/#displaying-severity
_SEVERITY_TEXTS: Final = {"WARNING": "WARN", "CRITICAL": "FATAL"}
# Values of these types need no copy, because nobody can change them.
_IMMUTABLE: Final = frozenset({str, int, float, bool, type(None), bytes})

FindRecorder = Callable[[str], RunRecorder | None]


class LogExport:
    """Export log lines with the ids of the run that logs them.

    Args:
        provider: Where records go. flowspan's own provider builds them in a separate thread.
        level: The lowest level to export.
        find_recorder: Return the recorder of the run that Prefect logs a line about, by run id, if
            it is known in this process.
        print_logger: Return the logger that records captured prints, if any.
    """

    def __init__(
        self,
        provider: LoggerProvider,
        level: int,
        find_recorder: FindRecorder,
        print_logger: Callable[[], logging.Logger | None] = lambda: None,
    ) -> None:
        self.level = level
        self._provider = provider
        self._find_recorder = find_recorder
        self._print_logger = print_logger

    def arrange(self, processors: list[Any]) -> list[Any]:
        """Show the run's attributes to OpenTelemetry's structlog processor, if there is one."""
        if not _has_otel_processor(processors):
            return processors
        recorder = speaking_recorder()
        run = {} if recorder is None else clean(recorder.log_attributes)
        return [_telling(one, run) if _is_otel_processor(one) else one for one in processors]

    def hear(self, line: Line) -> None:
        """Export a line, unless OpenTelemetry itself logs it or the application exports it."""
        context = context_api.get_current()
        if context.get(_SUPPRESS_INSTRUMENTATION_KEY):
            return  # an export is running
        recorder, ids = self._run_of(line, context)
        run = {} if recorder is None else recorder.log_attributes
        if line.source is not None and _is_handled(line.source, line.level):
            vars(line.record).update(clean(run))
        elif not (
            line.is_echo
            or _has_otel_processor(line.processors)
            or (line.is_printed and self._is_handled_as_print())
        ):
            draft = _Draft(line, run, ids)
            if isinstance(self._provider, BoundedLoggerProvider):
                self._provider.emit_later(draft)
            else:
                # The application's provider may have processors that look at the context.
                self._provider.get_logger(draft.logger).emit(draft.record(context))

    def _is_handled_as_print(self) -> bool:
        logger = self._print_logger()
        return (
            logger is not None
            and logger.isEnabledFor(logging.INFO)
            and _is_handled(logger, logging.INFO)
        )

    def _run_of(self, line: Line, context: Context) -> tuple[RunRecorder | None, SpanContext]:
        """Return the run that logs a line, and its span.

        Neither has ended, unless the line is the last that Prefect logs about an adopted run.
        """
        recorder, span = speaking_recorder(context), get_current_span(context)
        ids = span.get_span_context()
        if recorder is not None:
            return recorder, ids
        if current_recorder(context) is not None and not span.is_recording():
            ids = INVALID_SPAN_CONTEXT  # of the run that has ended
        if line.record is not None and _name(line.record).startswith(_PREFECT):
            # A run's logger may be used without the run's context, such as in a pool's thread.
            extras = vars(line.record)
            run_id = extras.get("task_run_id") or extras.get("flow_run_id")
            recorder = self._find_recorder(str(run_id))
            if recorder is not None and not ids.is_valid:
                ids = recorder.innermost_span_context
        return recorder, ids


class _Draft:
    """The content of a line when it was logged; `record` does everything that can wait."""

    def __init__(self, line: Line, run: Mapping[str, Any], ids: SpanContext) -> None:
        record, event, body = line.record, line.event, line.message
        self._run = run
        self._ids = ids
        self._level = line.level
        self._values: dict[str, Any] = {}
        if record is not None:
            self.logger = _name(record)
            self._time = max(0, min(int(record.created * 1e9), LAST_INT))
            self._level_name: str | None = record.levelname
            if len(extras := vars(record)) > _FIELDS_OF_A_RECORD:
                self._values = {k: _kept(v, k) for k, v in extras.items() if k not in _OF_RECORDS}
        else:
            self.logger = _STRUCTLOG
            self._time = time_ns()
            self._level_name = None
        if event is not None:
            self._values |= {k: _kept(v, k) for k, v in event.items() if k not in _OF_EVENTS}
            if "event" in event:
                body = event["event"]
            else:  # renamed
                self._values = {k: v for k, v in self._values.items() if v is not body}
            if record is None and is_a(name := event.get("logger"), str):
                self.logger = clean_text(str(name))
        if line.args and body is line.message:  # else a processor has put the arguments in
            body = line.text or body
        if type(body) not in _IMMUTABLE and not is_a(body, _STRUCTURED):
            body = _as_text(body)
        self._body = _kept(body)
        self._failure = _failure(line)

    def record(self, context: Context | None) -> LogRecord:
        """Build the record; `context` is what processors see, except for its span."""
        level_name = clean_text(str(self._level_name or logging.getLevelName(self._level)))
        named = ((redact(clean_key(key)), value) for key, value in self._values.items())
        # Keys that start with an underscore belong to structlog's formatter.
        values = {key: value for key, value in named if key and not key.startswith("_")}
        self._drop_repeated(values)
        values.update(self._failure)
        trace = values.get(EXCEPTION_STACKTRACE)
        if isinstance(trace, TracebackException):
            values[EXCEPTION_STACKTRACE] = "".join(trace.format())
        attributes = {key: redact(value, key) for key, value in values.items()}
        attributes.update(clean(self._run))
        return LogRecord(
            timestamp=self._time,
            observed_timestamp=self._time,
            context=set_span_in_context(NonRecordingSpan(self._ids), context),
            severity_number=std_to_otel(self._level),
            severity_text=_SEVERITY_TEXTS.get(level_name, level_name),
            body=redact(self._body),
            attributes=attributes,
        )

    def _drop_repeated(self, values: dict[str, Any]) -> None:
        """Drop values that the record's ids or the run's attributes already contain."""
        is_prefects = self.logger.startswith(_PREFECT)
        for key, name in _RUN_FIELDS.items():
            if key in values and (is_prefects or values[key] == self._run.get(name)):
                del values[key]
        if values.get("trace_id") == f"{self._ids.trace_id:032x}":
            for key in [key for key in values if key.startswith(_DATADOG)]:
                del values[key]
            for key in _TRACE_FIELDS:
                values.pop(key, None)


def _name(record: logging.LogRecord) -> str:
    """Return the name of a record's logger; a record made by hand may have none."""
    return clean_text(str(record.name or ""))


def _kept(value: Any, key: str = "") -> Any:
    """Copy a value unless it is immutable, because it may change before the record is built."""
    kind = type(value)
    if kind is str or kind is bytes:
        return value[: 2 * LONGEST_TEXT]  # no more will be read, and many lines may be waiting
    return value if kind in _IMMUTABLE else redact(value, clean_key(key))


def _failure(line: Line) -> Mapping[str, Any]:
    """Return the attributes of a line's exception and stack, if it has any."""
    event, record = line.event or _NOTHING, line.record
    found: dict[str, Any] = {}
    if (exc_info := _exc_info(line)) is not None:
        found[EXCEPTION_TYPE] = qualified_name(exc_info[1])
        found[EXCEPTION_MESSAGE] = _as_text(exc_info[1])
        # Reading the source lines takes much longer than noting where they are.
        found[EXCEPTION_STACKTRACE] = TracebackException(*exc_info, lookup_lines=False)
    elif is_a(rendered := event.get("exception"), str):
        found[EXCEPTION_STACKTRACE] = rendered
    for stack in (record and record.stack_info, event.get("stack")):
        if is_a(stack, str):
            found[CODE_STACKTRACE] = stack
    return found


def _exc_info(line: Line) -> ExcInfo | None:
    """Return the exception of a line, even if a structlog processor has rendered it."""
    found = (line.event or _NOTHING).get("exc_info") or (line.keywords or _NOTHING).get("exc_info")
    if not found and line.record is not None:
        found = line.record.exc_info
    if not found:
        return None
    if isinstance(found, BaseException):
        return type(found), found, found.__traceback__
    if not isinstance(found, tuple):  # usually True
        found = sys.exc_info()
    return found if isinstance(found[1], BaseException) else None


def _as_text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - the user's object may do anything
        return str(redact(value))


# Who else exports


@lru_cache(maxsize=1024)
def _derives_from(kind: type, name: str) -> bool:
    """Whether a class is OpenTelemetry's class of that name, or derives from it.

    Compared by name, because the packages may not be installed.
    """
    bases = [base for base in kind.__mro__ if base.__name__ == name]
    return any(base.__module__.startswith("opentelemetry.") for base in bases)


def _is_otel_processor(processor: object) -> bool:
    return _derives_from(type(processor), "StructlogProcessor")  # type: ignore[arg-type]


def _has_otel_processor(processors: Sequence[object]) -> bool:
    is_loaded = "opentelemetry.instrumentation.structlog" in sys.modules
    return is_loaded and any(map(_is_otel_processor, processors))


def _telling(processor: Any, run: Mapping[str, Any]) -> Any:
    """Wrap a processor that does not change its event, to show it the run's attributes."""

    def process(logger: Any, method_name: str, event: Mapping[str, Any]) -> Mapping[str, Any]:
        processor(logger, method_name, {**event, **run})
        return event

    return process


def _is_handled(logger: logging.Logger, level: int) -> bool:
    """Whether one of OpenTelemetry's handlers exports the records of a logger."""
    current: logging.Logger | None = logger
    while current is not None:
        for handler in current.handlers:
            is_otels = _derives_from(type(handler), "LoggingHandler")  # type: ignore[arg-type]
            if is_otels and level >= handler.level and _delivers(handler):
                return True
        current = current.parent if current.propagate else None
    return False


def _delivers(handler: Any) -> bool:
    provider = getattr(handler, "_logger_provider", None)
    if isinstance(provider, ProxyLoggerProvider):
        provider = get_logger_provider()
    return not isinstance(provider, (ProxyLoggerProvider, NoOpLoggerProvider))
