"""Capture each line that any logger of `logging` or structlog logs in this process, once.

The hooks survive any configuration: they patch the classes of loggers, not handlers, filters or
processors. Nothing here blocks, and the line is logged as it would be without the hooks. The thread
that logs pays for this code, so some of it trades elegance for speed.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any, Final, Protocol

import wrapt

from flowspan._containment import Containment

if TYPE_CHECKING:
    from collections.abc import Sequence

# Levels of the methods of structlog's loggers, most of which are named after their level
_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "err": logging.ERROR,
    "exception": logging.ERROR,
    "critical": logging.CRITICAL,
    "fatal": logging.CRITICAL,
    "notset": logging.NOTSET,
}
_INHERITED: Final = object()

_contained: Final = Containment("logs")


class Line:
    """One line that its logger lets pass."""

    measures = False
    """Whether `Measure` wants it."""

    exports = False
    """Whether `Export` wants it."""

    source: logging.Logger | None = None
    """The `logging` logger that it goes through; None for a structlog line that uses none."""

    record: logging.LogRecord | None = None
    """The record that the handlers of `source` get."""

    event: dict[str, Any] | None = None
    """For a structlog line, a copy of its event as the renderer got it."""

    keywords: Mapping[str, Any] | None = None
    """For a structlog line, the keywords of the call, without values bound before."""

    processors: Sequence[Any] = ()
    """The processors that a structlog line passes; the last one is the renderer."""

    rendered: object = None
    """For a structlog line that goes through `source`, its message there."""

    is_printed = False
    """Whether it is a structlog line that is passed to `print`, which Prefect may have patched."""

    is_echo = False
    """Whether it is the record that Prefect made from such a line."""

    _text: str | None = None

    def __init__(self, level: int, message: object, args: Any) -> None:
        """Create a line with a level of `logging`, its message, and the arguments to format it."""
        self.level = level
        self.message = message
        self.args = args

    @property
    def text(self) -> str | None:
        """The message, formatted once for all users; None if formatting fails."""
        if self._text is None:
            record = self.record
            if record is None or self.event is not None:  # the record has the rendered event
                record = logging.LogRecord("", 0, "", 0, self.message, self.args, None)
            try:
                self._text = record.getMessage()
            except Exception:  # noqa: BLE001 - the handler that prints the line reports it
                return None
        return self._text


class Measure(Protocol):
    """A listener that looks for measurements in lines."""

    def wants(self, message: object, args: Any) -> bool:
        """Return whether to call `hear` for a line."""

    def hear(self, line: Line) -> None:
        """Handle a line, in the thread and the context of the code that logs it."""


class Export(Protocol):
    """A listener that exports lines."""

    level: int
    """The lowest level to export."""

    def hear(self, line: Line) -> None:
        """Handle a line, as for `Measure`."""

    def arrange(self, processors: list[Any]) -> list[Any]:
        """Return the processors to use for a structlog line instead of `processors`."""


class LogHooks:
    """Pass every line that this process logs to listeners; their errors are contained.

    A line counts if its logger lets it pass, whatever handlers do with it later. Lines logged while
    a line is handled are ignored, because that might never end.
    """

    def __init__(self) -> None:
        self._measure: Measure | None = None
        self._export: Export | None = None
        self._local = _Local()
        self._is_installed = False
        self._awaits_structlog = False
        self._filter: tuple[Any, ...] | None = None
        self._process_event: tuple[Any, ...] | None = None

    def install(self, measure: Measure | None, export: Export | None = None) -> None:
        """Start listening; structlog is patched once the application has imported it."""
        if self._is_installed:
            return
        self._is_installed = True
        self._measure, self._export = measure, export
        self._wrap_logging()
        if not self._awaits_structlog:  # such a hook cannot be unregistered
            self._awaits_structlog = True
            wrapt.register_post_import_hook(self._wrap_structlog, "structlog")

    def remove(self) -> None:
        """Stop listening and restore the originals, unless others have wrapped ours."""
        self._is_installed = False
        for patch in (self._filter, self._process_event):
            if patch is not None:
                owner, name, wrapper, original = patch
                if vars(owner).get(name) is not wrapper:
                    continue
                if original is _INHERITED:
                    delattr(owner, name)
                else:
                    setattr(owner, name, original)
        self._filter = self._process_event = None

    def _wrap_logging(self) -> None:
        # `filter` is called once for each record that passes its logger's level, with the values of
        # `extra`, in every logger, even in one that does not propagate. Handlers come later: one
        # that queues records removes their arguments. `filter` has returned by then, which matters
        # because Prefect's handler counts the frames to the code that logs, to warn there.
        owner, name = logging.Logger, "filter"
        passes = owner.filter

        @functools.wraps(passes)
        def filter_and_hear(logger: logging.Logger, record: logging.LogRecord) -> Any:
            passed: Any = passes(logger, record)
            if passed and self._filter is ours:
                # Since Python 3.12 a filter may return another record.
                heard = passed if isinstance(passed, logging.LogRecord) else record
                try:
                    self._hear_record(logger, heard)
                except Exception:  # entering the guard each time would cost more
                    with _contained:
                        raise
            return passed

        self._filter = ours = (owner, name, filter_and_hear, vars(owner).get(name, _INHERITED))
        setattr(owner, name, filter_and_hear)

    def _wrap_structlog(self, structlog: Any) -> None:
        self._awaits_structlog = False
        if self._is_installed:
            with _contained:  # otherwise the user's import would fail
                self._wrap_process_event(structlog.BoundLoggerBase)

    def _wrap_process_event(self, owner: Any) -> None:
        # Private in name only: it is documented for authors of loggers, and all loggers call it.
        # https://www.structlog.org/en/stable/custom-wrappers.html
        original = vars(owner)["_process_event"]

        def process_event(logger: Any, *args: Any, **kwargs: Any) -> Any:
            line = None
            if self._process_event is ours:
                line, twin = self._begin_event(logger, *args, **kwargs)
            # Raises DropEvent for lines that are dropped
            rendered = original(logger if line is None else twin, *args, **kwargs)
            if self._process_event is ours:
                self._hear_event(logger, line, rendered)
            return rendered

        # structlog takes the innermost frame outside itself for the code that logs, so this frame
        # must look like structlog's. CallsiteParameterAdder would show it instead of the user's.
        wrapper = FunctionType(
            process_event.__code__,
            {"__name__": "structlog.flowspan"},
            closure=process_event.__closure__,
        )
        functools.update_wrapper(wrapper, original)
        self._process_event = ours = (owner, "_process_event", wrapper, original)
        owner._process_event = wrapper  # noqa: SLF001 - as above

    def _hear_record(self, logger: logging.Logger, record: logging.LogRecord) -> None:
        local = self._local
        if local.is_busy:
            return
        printed, local.printed = local.printed, None
        line, local.expected = local.expected, None
        # The record of a structlog line has the same message object.
        if line is not None and record.msg is line.rendered:
            line.level = record.levelno
        else:
            line = self._line(record.levelno, record.msg, record.args)
            # A line of another process was captured there.
            if line is None or (record.process is not None and record.process != os.getpid()):
                return
        line.source, line.record = logger, record
        if printed is not None and isinstance(record.msg, str) and record.msg == printed:
            line.is_echo, line.measures = True, False
        self._pass_on(line)

    def _begin_event(
        self, logger: Any, method_name: str, event: Any, event_kw: dict[str, Any]
    ) -> tuple[Line | None, Any]:
        """Return a line and a logger that fills it in; None and `logger` if nobody wants it."""
        try:
            if self._local.is_busy:
                return None, logger
            args = event_kw.get("positional_args", ())
            line = self._line(_LEVELS.get(method_name, logging.INFO), event, args)
            if line is None:
                return None, logger
            line.keywords = event_kw
            # Read each time, because structlog's testing tools change the list in place.
            line.processors = processors = list(logger._processors)  # noqa: SLF001 - as above
            if self._export is not None and line.exports:
                processors = self._export.arrange(processors)

            def keep(_: Any, __: str, event: Any) -> Any:
                # A renderer removes from the event what it has shown.
                line.event = dict(event) if isinstance(event, Mapping) else None
                return event

            # The class may be the user's, whose __init__ may take and do anything.
            twin = object.__new__(type(logger))
            processors = [*processors[:-1], keep, *processors[-1:]]
            twin.__dict__ = {**logger.__dict__, "_processors": processors}
        except Exception:  # as above
            with _contained:
                raise
            return None, logger
        else:
            return line, twin

    def _hear_event(self, logger: Any, line: Line | None, rendered: Any) -> None:
        try:
            if line is not None and line.event is None:  # rendered before the last processor
                keywords = line.keywords or {}
                line.event = {**logger._context, **keywords, "event": line.message}  # noqa: SLF001
            wrapped = logger._logger  # noqa: SLF001 - as above
            args, kwargs = rendered
            message = args[0] if args else kwargs.get("msg")
            if not isinstance(wrapped, (logging.Logger, logging.LoggerAdapter)):
                is_captured = not isinstance(print, BuiltinFunctionType)
                if line is not None:
                    line.is_printed = is_captured and _prints(wrapped)
                    self._pass_on(line)
                # Also if nobody wants the line, because the printed record has its own level.
                if is_captured and isinstance(message, str):
                    self._local.printed = message.rstrip()
            # Without filter_by_level the level is only checked now.
            elif line is not None and wrapped.isEnabledFor(line.level):
                # The record with the processed event comes next, in this thread.
                line.rendered = message
                self._local.expected = line
        except Exception:  # as above
            with _contained:
                raise

    def _line(self, level: int, message: object, args: Any) -> Line | None:
        """Return a line, or None if nobody wants it."""
        measures = self._measure is not None and self._measure.wants(message, args)
        exports = self._export is not None and level >= self._export.level
        if not (measures or exports):
            return None
        line = Line(level, message, args)
        line.measures, line.exports = measures, exports
        return line

    def _pass_on(self, line: Line) -> None:
        local = self._local
        local.is_busy = True
        try:
            if self._measure is not None and line.measures:
                with _contained:
                    self._measure.hear(line)
            if self._export is not None and line.exports:
                self._export.hear(line)
        finally:
            local.is_busy = False


def _prints(wrapped: Any) -> bool:
    """Whether a structlog logger prints to the terminal, like PrintLogger."""
    file = getattr(wrapped, "_file", None)
    if file is None or hasattr(wrapped, "_write"):
        return False
    own = sys.modules.get(type(wrapped).__module__)
    default = getattr(own, "stdout", None)  # the default if no file is given
    return any(file is terminal for terminal in (sys.stdout, sys.stderr, default))


class _Local(threading.local):
    """The state of one thread."""

    expected: Line | None = None
    """The structlog line whose record comes next."""

    printed: str | None = None
    """The text that structlog prints next, if Prefect captures prints."""

    is_busy = False
