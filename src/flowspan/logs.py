"""Add the current run to log lines.

Use `add_run_context` if you have configured structlog, `configure` if you have configured nothing,
and `RunContextFilter` for format strings of the standard library, such as those in Prefect's
``logging.yml``. Importing this module imports neither Prefect nor OpenTelemetry's SDK nor
structlog.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import unquote

import orjson
from opentelemetry import trace

from flowspan import semconv
from flowspan._containment import Containment
from flowspan.redaction import redact
from flowspan.values import clean_key

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

    from opentelemetry.trace import SpanContext

    from flowspan.recording.recorder import RunRecorder

    EventDict = MutableMapping[str, Any]

__all__ = ["RunContextFilter", "add_run_context", "configure"]

_contained: Final = Containment("logs")

_FIELDS: Final = {
    semconv.FLOW_NAME: "flow_name",
    semconv.FLOW_RUN_ID: "flow_run_id",
    semconv.FLOW_RUN_NAME: "flow_run_name",
    semconv.TASK_NAME: "task_name",
    semconv.TASK_RUN_ID: "task_run_id",
    semconv.TASK_RUN_NAME: "task_run_name",
}
_ALL_FIELDS: Final = ("trace_id", "span_id", "trace_flags", "service", *_FIELDS.values())
_CONSOLE_FIELDS: Final = ("flow_run_name", "task_run_name", "trace_id")
_NOTHING: Final = "-"
_DEFAULT_SERVICE: Final = "prefect"

_FORMATS: Final = ("json", "console", "auto")
_NO_SECRETS: Final = ("timestamp", "level", "logger")
_FIRST: Final = (*_NO_SECRETS, "event")
# Attributes that every record has or gets from a formatter, Prefect's switch for sending a record
# to its API, and attributes that the export of records may have added
_NO_EXTRAS: Final = {
    *vars(logging.makeLogRecord({})),
    *("asctime", "message", "send_to_api"),
    *(*_FIELDS, semconv.DEPLOYMENT_NAME),
}
# Prefect and `RunContextFilter` write these for unknown values
_UNKNOWN: Final = ("<unknown>", _NOTHING)
_PREFECT_RUN_LOGGERS: Final = ("prefect.flow_runs", "prefect.task_runs")


def add_run_context(_logger: Any, _method_name: str, event_dict: EventDict) -> EventDict:
    """Add the current run and span to an event; a processor for structlog.

    Adds ``trace_id``, ``span_id`` and ``trace_flags`` (32, 16 and 2 lower-case hexadecimal digits)
    of the current span, which is the attempt's if the run has attempts, or one of your own;
    ``service``, as in the traces; ``flow_name``, ``flow_run_id``, ``flow_run_name``; and in a task
    run ``task_name``, ``task_run_id``, ``task_run_name``. Keys that the event already has are
    kept. Unknown values are omitted. Outside a run, after it has ended, or if nothing is
    instrumented, it adds nothing.

    Put it anywhere before the renderer. With ``ProcessorFormatter``, put it in ``processors``, or
    in both structlog's chain and ``foreign_pre_chain``. It never raises.
    """
    with _contained:
        for field, value in _run_context():
            event_dict.setdefault(field, value)
    return event_dict


class RunContextFilter(logging.Filter):
    """Add the fields of `add_run_context` to every record, for format strings.

    A handler with this filter can format ``%(trace_id)s``, ``%(span_id)s``, ``%(trace_flags)s``,
    ``%(service)s``, ``%(flow_name)s`` and so on. Unknown values are ``-``, so format strings never
    fail, inside or outside a run. Attributes that a record already has are kept.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attributes to `record`, and let it pass."""
        context = dict.fromkeys(_ALL_FIELDS, _NOTHING)
        with _contained:
            context.update(_run_context())
        for field, value in context.items():
            if not hasattr(record, field):
                setattr(record, field, value)
        return bool(super().filter(record))


def configure(
    format: Literal["json", "console", "auto"] = "auto",  # noqa: A002 - what it is called everywhere
    *,
    datadog: bool = False,
) -> None:
    """Write the logs of structlog, Prefect and the standard library to stderr in one format.

    Use it if you have not configured structlog: it replaces structlog's configuration and every
    handler that writes to the terminal, keeping its level and filters. Other handlers stay, such
    as those that write to files or send logs to Prefect's API. Calling it again changes nothing
    else. Call it where your flow is defined, so that pool processes and served runs call it, too.

    Lines have ``timestamp`` (UTC), ``level``, ``logger``, ``event``, your keys and the fields of
    `add_run_context`; exceptions are text in ``exception``. Secrets are masked, and values that
    JSON has no type for become their ``repr``, cut to 1,000 characters (see
    `flowspan.redaction.redact`).

    Levels do not change: ``PREFECT_LOGGING_LEVEL`` for Prefect's loggers, and
    ``PREFECT_LOGGING_ROOT_LEVEL`` (by default WARNING) for the others. A structlog logger without
    its own level takes Prefect's, so it logs as much as ``get_run_logger()``.

    Args:
        format: ``json`` writes one object per line. ``console`` is for people, with colours if
            stderr is a terminal and ``NO_COLOR`` is not set; it shows only the names and the trace
            id of the run. ``auto`` is ``console`` if stderr is a terminal, else ``json``.
        datadog: Whether JSON lines also have the fields by which Datadog connects them with traces:
            ``dd.trace_id`` (the lower half of the trace id) and ``dd.span_id``, 64-bit decimal
            numbers as text, ``dd.service``, ``dd.env``, ``dd.version`` and, as the body,
            ``message``. The tags come from ``DD_SERVICE``, ``DD_ENV`` and ``DD_VERSION``, or from
            ``service.name``, ``deployment.environment.name`` (or ``deployment.environment``) and
            ``service.version`` of the resource. See
            https://docs.datadoghq.com/tracing/other_telemetry/connect_logs_and_traces/opentelemetry/
            and https://docs.datadoghq.com/logs/log_configuration/processors/log_message_remapper/.

    Raises:
        ValueError: `format` is none of the three.
        ImportError: structlog is not installed.
    """
    if format not in _FORMATS:
        raise ValueError(f"format is 'json', 'console' or 'auto', not {format!r}")
    try:
        import structlog  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise ImportError(
            "flowspan.logs.configure() needs structlog: pip install structlog", name="structlog"
        ) from error
    import prefect.main  # noqa: F401, PLC0415 - it sets up Prefect's logging, which comes first

    common: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _format_arguments,
    ]
    structlog.configure(
        processors=[
            _filter_by_level,
            *common,
            structlog.processors.StackInfoRenderer(),
            _as_record,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderers: list[Any] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        _mask_secrets,
    ]
    if format == "json" or (format == "auto" and not _is_terminal(sys.stderr)):
        renderers += [add_run_context, *([_add_datadog] if datadog else []), _to_json]
    else:
        colors = _is_terminal(sys.stderr) and not os.environ.get("NO_COLOR")
        renderers += [
            _add_console_context,
            structlog.dev.ConsoleRenderer(
                colors=colors,
                sort_keys=False,
                # The one that accepts exceptions already formatted
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ]
    # Everything that depends on the arguments is in the formatter, because structlog's loggers
    # keep their processors once they have been used.
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=renderers,
        foreign_pre_chain=[*common, _add_extras],
        use_get_message=False,
        pass_foreign_args=True,
    )
    _replace_terminal_handlers(formatter)


# The run


def _current_run() -> RunRecorder | None:
    """Return the recorder of the current run; None outside a run or after its end."""
    module = sys.modules.get("flowspan.recording.recorder")  # if missing, nothing is instrumented
    recorder: RunRecorder | None = module.speaking_recorder() if module is not None else None
    return recorder


def _current_span() -> SpanContext | None:
    span = trace.get_current_span().get_span_context()
    return span if span.is_valid else None


def _run_context() -> Iterator[tuple[str, Any]]:
    """Yield the fields one by one, so that a failure loses only the following ones."""
    recorder = _current_run()
    if recorder is None:
        return
    span = _current_span()
    if span is not None:
        yield "trace_id", f"{span.trace_id:032x}"
        yield "span_id", f"{span.span_id:016x}"
        yield "trace_flags", f"{span.trace_flags:02x}"
    yield "service", _service()
    attributes = recorder.log_attributes
    for attribute, field in _FIELDS.items():
        if attribute in attributes:
            yield field, attributes[attribute]


def _service() -> str:
    return str(_resource().get("service.name") or _DEFAULT_SERVICE)


def _resource() -> Mapping[str, Any]:
    """Return the attributes of the spans' resource, or else those of the environment."""
    instrumentor = sys.modules.get("flowspan.instrumentor")
    if instrumentor is not None:
        resource = getattr(instrumentor.PrefectInstrumentor().provider, "resource", None)
        if resource is not None:
            attributes: Mapping[str, Any] = resource.attributes
            return attributes
    # https://opentelemetry.io/docs/specs/otel/resource/sdk/#specifying-resource-information-via-an-environment-variable
    pairs = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",")
    parts = (pair.partition("=") for pair in pairs)
    found = {key.strip(): unquote(value.strip()) for key, _, value in parts}
    if service := os.environ.get("OTEL_SERVICE_NAME"):
        found["service.name"] = service
    return found


# Processors that `configure` uses; at module level, because loggers are pickled with them


def _filter_by_level(logger: Any, method_name: str, event_dict: EventDict) -> EventDict:
    """Drop events below the logger's level; a logger without a level takes Prefect's."""
    from structlog import DropEvent  # noqa: PLC0415 - an optional dependency

    if isinstance(logger, logging.Logger) and _inherits_from_root(logger):
        level = logging.getLogger("prefect").getEffectiveLevel()
        if level < logging.getLogger().level:
            logger.setLevel(level)
    # Unlike structlog's own filter, this accepts adapters. exception() logs an error.
    if not logger.isEnabledFor(getattr(logging, method_name.upper(), logging.ERROR)):
        raise DropEvent
    return event_dict


def _inherits_from_root(logger: logging.Logger) -> bool:
    ancestor: logging.Logger | None = logger
    while ancestor is not None and ancestor.level == logging.NOTSET:
        ancestor = ancestor.parent
    return ancestor is not logger and (ancestor is None or ancestor is logging.getLogger())


def _format_arguments(_logger: Any, _method_name: str, event_dict: EventDict) -> EventDict:
    """Put ``%``-style arguments into the event; keep both separate if they do not fit."""
    args = event_dict.get("positional_args")
    if args:
        # Like the standard library, use a single mapping for the names in the message.
        is_mapping = len(args) == 1 and isinstance(args, tuple) and isinstance(args[0], Mapping)
        try:
            event_dict["event"] = str(event_dict["event"]) % (
                args[0] if is_mapping and args[0] else args
            )
        except Exception:  # noqa: BLE001 - user code; a line that is not formatted beats none
            return event_dict
    event_dict.pop("positional_args", None)
    return event_dict


def _as_record(
    logger: Any, method_name: str, event_dict: EventDict
) -> tuple[tuple[_Event], dict[str, Any]]:
    """Turn an event into arguments that ``ProcessorFormatter`` and other formatters understand."""
    extra = {"_logger": logger, "_name": method_name}
    return (_Event(event_dict),), {"exc_info": event_dict.get("exc_info"), "extra": extra}


class _Event(dict[str, Any]):
    """An event that is readable as a record's message, for handlers other than ours."""

    _OF_THE_RECORD: Final = ("event", "exc_info", "level", "logger", "stack", "timestamp")

    def __str__(self) -> str:
        fields = [
            f"{key}={redact(value, key)!r}"
            for key, value in self.items()
            if key not in self._OF_THE_RECORD
        ]
        return " ".join([str(self.get("event", "")), *fields])


def _add_extras(_logger: Any, _method_name: str, event_dict: EventDict) -> EventDict:
    """Add the ``extra`` and the stack of a standard library record."""
    record: logging.LogRecord = event_dict["_record"]
    if "stack_info" in event_dict:
        event_dict["stack"] = event_dict.pop("stack_info")
    # In a subflow that a task calls, Prefect's logger mixes up both runs.
    is_told_better = record.name.startswith(_PREFECT_RUN_LOGGERS) and _current_run() is not None
    for key, value in vars(record).items():
        if key in _NO_EXTRAS or (key in _ALL_FIELDS and (is_told_better or _is_unknown(value))):
            continue
        if key == "deployment_name" and value is None:
            continue
        event_dict.setdefault(key, value)
    return event_dict


def _is_unknown(value: object) -> bool:
    """Return whether a value says that there is none, without comparing a user's value."""
    return value is None or (type(value) is str and value in _UNKNOWN)


def _mask_secrets(_logger: Any, _method_name: str, event_dict: EventDict) -> EventDict:
    return {
        key: value if key in _NO_SECRETS else redact(value, clean_key(key))
        for key, value in event_dict.items()
    }


def _add_console_context(_logger: Any, _method_name: str, event_dict: EventDict) -> EventDict:
    """Add the run's fields that people want to read."""
    with _contained:
        context = dict(_run_context())
        for field in _CONSOLE_FIELDS:
            if field in context:
                event_dict.setdefault(field, context[field])
    return event_dict


def _add_datadog(_logger: Any, _method_name: str, event_dict: EventDict) -> EventDict:
    with _contained:
        for key, value in _datadog_fields(event_dict):
            if value:
                event_dict.setdefault(key, value)
    return event_dict


def _datadog_fields(event_dict: EventDict) -> Iterator[tuple[str, object]]:
    yield "message", event_dict.get("event")
    resource, variable = _resource(), os.environ.get
    environment = resource.get("deployment.environment.name")
    yield "dd.service", variable("DD_SERVICE") or _service()
    yield "dd.env", variable("DD_ENV") or environment or resource.get("deployment.environment")
    yield "dd.version", variable("DD_VERSION") or resource.get("service.version")
    span = _current_span()
    if span is not None and _current_run() is not None:
        yield "dd.trace_id", str(span.trace_id & 0xFFFF_FFFF_FFFF_FFFF)
        yield "dd.span_id", str(span.span_id)


def _to_json(_logger: Any, _method_name: str, event_dict: EventDict) -> str:
    first = {key: event_dict.pop(key) for key in _FIRST if key in event_dict}
    line = {**first, **event_dict}
    try:
        return _dumps(line)
    except TypeError:  # a key of `extra` can be anything, and a name invalid Unicode
        return _dumps({redact(clean_key(key)): redact(value) for key, value in line.items()})


def _dumps(line: Mapping[str, Any]) -> str:
    # Only bytes reach `default`.
    return orjson.dumps(line, default=repr).decode()


# Handlers


class StderrHandler(logging.Handler):
    """A handler that writes to the current stderr, in place of other handlers.

    Its name has no leading underscore, because Prefect ignores handlers with such names when it
    decides whether to configure the root logger again.
    """

    def __init__(self, replaced: list[logging.Handler]) -> None:
        super().__init__(min((handler.level for handler in replaced), default=logging.NOTSET))
        self._replaced = replaced

    def filter(self, record: logging.LogRecord) -> Any:
        """Pass records that any of the replaced handlers would have written."""
        if not self._replaced:
            return super().filter(record)
        for handler in self._replaced:
            if record.levelno >= handler.level and (passed := handler.filter(record)):
                # Since Python 3.12 a filter may return another record.
                return super().filter(record if passed is True else passed)
        return False

    def format(self, record: logging.LogRecord) -> str:
        """Format `record`; if that fails, return at least its level, logger and message."""
        try:
            return super().format(record)
        except Exception:  # the user's values may do anything when they are rendered
            with _contained:
                raise
            return _to_json(
                None,
                "",
                {
                    "level": record.levelname.lower(),
                    "logger": record.name,
                    "event": redact(record.msg),
                },
            )

    def emit(self, record: logging.LogRecord) -> None:
        """Write `record` as a line, unless stderr is closed, as it may be at exit."""
        stream = sys.stderr
        if stream is None or getattr(stream, "closed", False):
            return
        try:
            stream.write(f"{self.format(record)}\n")
            stream.flush()
        except RecursionError:  # https://bugs.python.org/issue36272
            raise
        except Exception:  # noqa: BLE001 - as every handler does
            self.handleError(record)


# Kept alive, because Prefect sets up all its logging again if it misses a handler it knows by name
_replaced: Final[list[logging.Handler]] = []


def _replace_terminal_handlers(formatter: logging.Formatter) -> None:
    root = logging.getLogger()
    known = list(root.manager.loggerDict.values())  # a copy: other threads may add loggers
    for logger in [root, *(item for item in known if isinstance(item, logging.Logger))]:
        replaced = [handler for handler in logger.handlers if _writes_to_terminal(handler)]
        if logger is not root and not replaced:
            continue
        kept = [handler for handler in logger.handlers if handler not in replaced]
        if logger is root or not _is_written_above(logger):
            is_ours = len(replaced) == 1 and isinstance(replaced[0], StderrHandler)
            handler = replaced[0] if is_ours else StderrHandler(replaced)
            handler.setFormatter(formatter)
            kept.append(handler)
        logger.handlers = kept  # in one step, because of other threads
        _replaced.extend(item for item in replaced if not isinstance(item, StderrHandler))


def _writes_to_terminal(handler: logging.Handler) -> bool:
    from prefect.logging.handlers import PrefectConsoleHandler  # noqa: PLC0415 - importing is slow

    if isinstance(handler, (StderrHandler, PrefectConsoleHandler)):
        return True
    console = getattr(handler, "console", None)  # Rich's handler has one
    stream = getattr(console, "file", None) or getattr(handler, "stream", None)
    terminals = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return stream is not None and any(stream is terminal for terminal in terminals)


def _is_written_above(logger: logging.Logger) -> bool:
    """Return whether a logger's records also reach an ancestor that writes to the terminal."""
    ancestor: logging.Logger | None = logger
    while ancestor is not None and ancestor.propagate:
        ancestor = ancestor.parent
        if ancestor is not None and any(map(_writes_to_terminal, ancestor.handlers)):
            return True
    return False


def _is_terminal(stream: Any) -> bool:
    is_closed = getattr(stream, "closed", False)
    return hasattr(stream, "isatty") and not is_closed and bool(stream.isatty())
