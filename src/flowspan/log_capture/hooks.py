"""What is logged in this process, heard once a line, in every logger of `logging` and of structlog.

The hooks survive any configuration: they are in the classes of loggers, not in handlers, filters or
processors. Nothing here waits, and the line goes on as it would have without them. What a line
costs is spent in the thread that logs, so a few things are less handsome here than elsewhere.
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
from flowspan._replacement import Replacement

if TYPE_CHECKING:
    from collections.abc import Sequence

# Of the methods of structlog's loggers, most of which are named after the levels
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

_contained: Final = Containment("logs")


class Line:
    """One line that its logger lets pass."""

    measures = False
    """Whether the one who measures wants it."""

    exports = False
    """Whether the one who exports wants it."""

    source: logging.Logger | None = None
    """The logger of `logging` that it goes through; None for a line of structlog that does not."""

    record: logging.LogRecord | None = None
    """What the handlers of `source` get."""

    event: dict[str, Any] | None = None
    """For a line of structlog, a copy of its event as the renderer got it."""

    keywords: Mapping[str, Any] | None = None
    """For a line of structlog, what came with the event, without what was bound before."""

    processors: Sequence[Any] = ()
    """Those that a line of structlog passes; the last one is the renderer."""

    rendered: object = None
    """For a line of structlog that goes through `source`, the message that it has there."""

    is_printed = False
    """Whether it is a line of structlog that comes to `print`, which Prefect may have patched."""

    is_echo = False
    """Whether it is the record that Prefect made of such a line."""

    _text: str | None = None

    def __init__(self, level: int, message: object, args: Any) -> None:
        """Take what was logged, at a level of `logging`, and what it is to be formatted with."""
        self.level = level
        self.message = message
        self.args = args

    @property
    def text(self) -> str | None:
        """The message, formatted once for all who want it; None if that cannot be done."""
        if self._text is None:
            record = self.record
            if record is None or self.event is not None:  # else it has what is rendered
                record = logging.LogRecord("", 0, "", 0, self.message, self.args, None)
            try:
                self._text = record.getMessage()
            except Exception:  # noqa: BLE001 - whoever prints the line reports it
                return None
        return self._text


class Measure(Protocol):
    """Who looks for measurements in lines."""

    def wants(self, message: object, args: Any) -> bool:
        """Whether to call `hear` for a line."""

    def hear(self, line: Line) -> None:
        """Take note of a line, in the thread and in the context of the code that logs it."""


class Export(Protocol):
    """Who exports lines."""

    level: int
    """The least level that is exported."""

    def hear(self, line: Line) -> None:
        """Take note of a line, as `Measure` does."""

    def arrange(self, processors: list[Any]) -> list[Any]:
        """Return what a line of structlog is to pass instead of `processors`."""


class LogHooks:
    """Lets others hear what is logged in this process; what they raise is contained.

    A line counts where its logger lets it pass, whatever handlers do with it later. What is logged
    while a line is heard is not heard itself: that might never end.
    """

    def __init__(self) -> None:
        self._measure: Measure | None = None
        self._export: Export | None = None
        self._local = _Local()
        self._is_installed = False
        self._awaits_structlog = False
        self._filter: Replacement | None = None
        self._process_event: Replacement | None = None

    def install(self, measure: Measure | None, export: Export | None = None) -> None:
        """Begin to listen; structlog is reached once the application has imported it."""
        if self._is_installed:
            return
        self._is_installed = True
        self._measure, self._export = measure, export
        self._wrap_logging()
        if not self._awaits_structlog:  # such a hook cannot be taken back
            self._awaits_structlog = True
            wrapt.register_post_import_hook(self._wrap_structlog, "structlog")

    def remove(self) -> None:
        """Stop listening and restore what was there, unless others have put theirs around it."""
        self._is_installed = False
        for patch in (self._filter, self._process_event):
            if patch is not None and patch.is_in_place:
                patch.restore()
        self._filter = self._process_event = None

    def _wrap_logging(self) -> None:
        # Called once for each record, after its logger's level has passed it, with what `extra` has
        # brought and in every logger, also in one that hands nothing to its parents. Handlers come
        # after it: one that queues records takes their arguments away. And it has returned by then,
        # since Prefect's handler counts the frames to the code that logs, to warn there.
        passes = logging.Logger.filter

        @functools.wraps(passes)
        def filter_and_hear(logger: logging.Logger, record: logging.LogRecord) -> Any:
            passed: Any = passes(logger, record)
            if passed and self._filter is ours:
                # Since Python 3.12 a filter may return another record.
                heard = passed if isinstance(passed, logging.LogRecord) else record
                try:
                    self._hear_record(logger, heard)
                except Exception:  # to enter the guard each time would cost more
                    with _contained:
                        raise
            return passed

        # Known before it is installed, since other threads log meanwhile.
        self._filter = ours = Replacement(logging.Logger, "filter", filter_and_hear)
        ours.install()

    def _wrap_structlog(self, structlog: Any) -> None:
        self._awaits_structlog = False
        if self._is_installed:
            with _contained:  # else the user's import fails
                self._wrap_process_event(structlog.BoundLoggerBase)

    def _wrap_process_event(self, owner: Any) -> None:
        # Private in name only: it is documented for the authors of loggers, all of which call it.
        # https://www.structlog.org/en/stable/custom-wrappers.html
        original = vars(owner)["_process_event"]

        def process_event(logger: Any, *args: Any, **kwargs: Any) -> Any:
            line = None
            if self._process_event is ours:
                line, twin = self._begin_event(logger, *args, **kwargs)
            # Raises DropEvent for what is left out
            rendered = original(logger if line is None else twin, *args, **kwargs)
            if self._process_event is ours:
                self._hear_event(logger, line, rendered)
            return rendered

        # To structlog the code that logs is the innermost frame outside of itself, so this one must
        # pass for its own; CallsiteParameterAdder would show it instead of the user's.
        wrapper = FunctionType(
            process_event.__code__,
            {"__name__": "structlog.flowspan"},
            closure=process_event.__closure__,
        )
        functools.update_wrapper(wrapper, original)
        self._process_event = ours = Replacement(owner, "_process_event", wrapper)
        ours.install()

    def _hear_record(self, logger: logging.Logger, record: logging.LogRecord) -> None:
        local = self._local
        if local.is_busy:
            return
        printed, local.printed = local.printed, None
        line, local.expected = local.expected, None
        # The record of a line of structlog has the very same message.
        if line is not None and record.msg is line.rendered:
            line.level = record.levelno
        else:
            line = self._line(record.levelno, record.msg, record.args)
            # What another process has logged has been heard there.
            if line is None or (record.process is not None and record.process != os.getpid()):
                return
        line.source, line.record = logger, record
        if printed is not None and isinstance(record.msg, str) and record.msg == printed:
            line.is_echo, line.measures = True, False
        self._pass_on(line)

    def _begin_event(
        self, logger: Any, method_name: str, event: Any, event_kw: dict[str, Any]
    ) -> tuple[Line | None, Any]:
        """Return a line and a logger that fills it in; if nobody wants it, None and the logger."""
        try:
            if self._local.is_busy:
                return None, logger
            args = event_kw.get("positional_args", ())
            line = self._line(_LEVELS.get(method_name, logging.INFO), event, args)
            if line is None:
                return None, logger
            line.keywords = event_kw
            # Read anew each time: structlog's own tools for tests change the list in place.
            line.processors = processors = list(logger._processors)  # noqa: SLF001 - as above
            if self._export is not None and line.exports:
                processors = self._export.arrange(processors)

            def keep(_: Any, __: str, event: Any) -> Any:
                # A renderer takes out of the event what it has shown.
                line.event = dict(event) if isinstance(event, Mapping) else None
                return event

            # The class may be the user's, whose __init__ takes and does what it likes.
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
            if line is not None and line.event is None:  # rendered by more than the last processor
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
                # Also where nobody wants the line: what is printed has a level of its own.
                if is_captured and isinstance(message, str):
                    self._local.printed = message.rstrip()
            # Without a filter_by_level the level is checked only now.
            elif line is not None and wrapped.isEnabledFor(line.level):
                # The record comes next, in this thread: what processors made of the event.
                line.rendered = message
                self._local.expected = line
        except Exception:  # as above
            with _contained:
                raise

    def _line(self, level: int, message: object, args: Any) -> Line | None:
        """Make a line if anybody wants it."""
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
    """Whether a logger of structlog's prints to the terminal, as its PrintLogger does."""
    file = getattr(wrapped, "_file", None)
    if file is None or hasattr(wrapped, "_write"):
        return False
    own = sys.modules.get(type(wrapped).__module__)
    default = getattr(own, "stdout", None)  # what it takes for no file
    return any(file is terminal for terminal in (sys.stdout, sys.stderr, default))


class _Local(threading.local):
    """What one thread is at."""

    expected: Line | None = None
    """The line of structlog whose record comes next."""

    printed: str | None = None
    """What structlog prints next, where Prefect makes a record of what is printed."""

    is_busy = False
