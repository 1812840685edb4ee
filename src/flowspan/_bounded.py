"""What flowspan adds to the SDK's pipeline, since the user's thread pays for it.

Flush and shutdown take no longer than they are told to; an endpoint that does not answer is
reported in one line; a forked process exports on its own.
"""

import contextlib
import contextvars
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from opentelemetry.sdk.environment_variables import (
    OTEL_SPAN_EVENT_COUNT_LIMIT,
    OTEL_SPAN_LINK_COUNT_LIMIT,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

logger = logging.getLogger("flowspan")

_MANY: Final = 10_000
_WARNING_INTERVAL: Final = 60.0
"""Seconds between two warnings about one endpoint, however often it comes and goes."""

_Listener = Callable[[logging.LogRecord], bool]
_listener: contextvars.ContextVar[_Listener | None] = contextvars.ContextVar(
    "flowspan_exporter_log_listener", default=None
)


def _hear(record: logging.LogRecord) -> bool:
    """Filter for the exporters' loggers: while one of ours works, it decides what is logged."""
    listener = _listener.get()
    return listener is None or listener(record)


@contextlib.contextmanager
def _listening(listener: _Listener) -> Iterator[None]:
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def _listen_to(exporter: SpanExporter) -> None:
    """Put the filter on the loggers of an exporter: libraries name them after their modules."""
    modules = {kind.__module__ for kind in type(exporter).__mro__}
    # Where the batch processor says that its queue is full.
    for module in (*modules, "opentelemetry.sdk._shared_internal"):
        logging.getLogger(module).addFilter(_hear)  # adding it twice has no effect


class ReportingExporter(SpanExporter):
    """One route's exporter: one of its own in each process, and silent but for one line.

    A fork inherits locks that nobody will release and connections that the parent still uses, so
    the child makes a new exporter. The inherited one stays referenced, lest its destructor closes
    what is not its own.

    An outage is said once, in one line. A later one, after the endpoint has answered again, is
    said too, but no two lines come within `_WARNING_INTERVAL`.
    """

    def __init__(self, signal: str, destination: str, make: Callable[[], SpanExporter]) -> None:
        self.failing = False  # the last batch was lost
        self._signal = signal
        self._destination = destination
        self._make = make
        self._by_process: dict[int, SpanExporter] = {}
        self._busy = False
        self._reason = ""
        self._said = False
        self._said_at = -_WARNING_INTERVAL
        _listen_to(self._own())

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export with the exporter of this process; a failure of any kind is said, not raised."""
        result = SpanExportResult.FAILURE
        self._reason = ""
        with _listening(self._note):
            try:
                exporter = self._own()
                self._busy = True
                result = exporter.export(spans)
            except Exception as error:  # noqa: BLE001
                self._reason = self._reason or f"{type(error).__name__}: {error}"
        self._busy = False
        self.failing = result is not SpanExportResult.SUCCESS
        if self.failing:
            self._complain(self._reason or "the exporter gives no reason")
        else:
            self._said = False
        return result

    def shutdown(self) -> None:
        """Interrupt the export under way, if any, and close."""
        if self._busy:
            self._complain(self._reason or "no answer until the process ended")
        exporter = self._by_process.get(os.getpid())
        if exporter is not None:
            with _listening(self._note), contextlib.suppress(Exception):
                exporter.shutdown()

    def complain_if_stuck(self) -> None:
        """Say that the endpoint is dead if attempts have failed and the exporter tries on."""
        if self._busy and self._reason:
            self._complain(self._reason)

    def is_news(self, _record: logging.LogRecord) -> bool:
        """Whether to let the SDK say that its queue is full: not if we have said why."""
        self.complain_if_stuck()
        return not self._said

    def _own(self) -> SpanExporter:
        pid = os.getpid()
        if pid not in self._by_process:
            self._by_process[pid] = self._make()
            self._busy = False
        return self._by_process[pid]

    def _note(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        # The first says what went wrong, the last often only that attempts are over.
        self._reason = self._reason or record.getMessage()
        return False

    def _complain(self, reason: str) -> None:
        now = time.monotonic()
        if self._said or now - self._said_at < _WARNING_INTERVAL:
            return
        self._said, self._said_at = True, now
        logger.warning(
            "Telemetry is being dropped: %s do not reach %s (%s)",
            self._signal,
            self._destination,
            " ".join(reason.split()),
        )


class BoundedProcessor(BatchSpanProcessor):
    """The SDK's batch processor, whose shutdown takes no longer than `timeout` seconds."""

    def __init__(self, exporter: ReportingExporter, timeout: float) -> None:
        super().__init__(exporter)
        self.exporter = exporter
        self._timeout = timeout

    def on_end(self, span: ReadableSpan) -> None:
        # As `_listening` does; but each span costs its user's thread this.
        token = _listener.set(self.exporter.is_news)
        try:
            super().on_end(span)
        finally:
            _listener.reset(token)

    def shutdown(self, timeout: float | None = None) -> None:
        seconds = self._timeout if timeout is None else timeout
        # Private, since the public method takes no timeout and waits up to 30 s for its thread.
        self._batch_processor.shutdown(timeout_millis=round(max(0.0, seconds) * 1000))


class BoundedTracerProvider(TracerProvider):
    """The SDK's tracer provider, whose shutdown takes no longer than `timeout` seconds."""

    def __init__(
        self, processors: Sequence[BoundedProcessor], resource: Resource, timeout: float
    ) -> None:
        super().__init__(resource=resource, span_limits=_span_limits(), shutdown_on_exit=False)
        for processor in processors:
            self.add_span_processor(processor)
        self.processors = processors
        self._timeout = timeout

    def shutdown(self, timeout: float | None = None) -> None:
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        for index, processor in enumerate(self.processors):
            # An equal share of what is left, so that a dead endpoint takes nothing from the others.
            left = len(self.processors) - index
            processor.shutdown((deadline - time.monotonic()) / left)
        super().shutdown()


def _span_limits() -> SpanLimits:
    """Read the limits from the ``OTEL_*`` variables, with room for a run's links and events.

    A run may consume the results of thousands of mapped runs. The SDK's default keeps 128 links.
    """
    return SpanLimits(
        max_links=None if os.environ.get(OTEL_SPAN_LINK_COUNT_LIMIT) else _MANY,
        max_events=None if os.environ.get(OTEL_SPAN_EVENT_COUNT_LIMIT) else _MANY,
    )


# Flush and shutdown


@dataclass(eq=False)
class _Flush:
    """One `force_flush` under way, in a thread of its own."""

    ended: threading.Event = field(default_factory=threading.Event)
    succeeded: bool = False


# By process and provider: a fork inherits the entries, but not the threads that would end them.
_under_way: dict[tuple[int, int], _Flush] = {}


def flush(provider: object, timeout: float) -> bool:
    """Export what has ended, waiting no longer than `timeout` seconds; never raise.

    The SDK's own `force_flush` ignores its timeout
    (https://github.com/open-telemetry/opentelemetry-python/issues/4568), so it runs in a daemon
    thread, one at a time for each provider: with a dead endpoint, callers share the one under way.

    While the interpreter shuts down, Python 3.12 and later start no threads. Then nothing is
    flushed here: `shutdown` exports what is left, with the thread that the SDK already has.

    Returns:
        Whether all of it has been exported, as far as the provider can tell; True for providers
        that hold nothing back and so have no `force_flush`.
    """
    if not hasattr(provider, "force_flush"):
        return True
    deadline = time.monotonic() + timeout
    succeeded = False
    # A flush that others started may have begun before our last span ended. The next one has not.
    for _ in range(2):
        current, ours = _join_or_start(provider, timeout)
        if not current.ended.wait(max(0.0, deadline - time.monotonic())):
            _complain_if_stuck(provider)
            return False
        succeeded = current.succeeded
        if ours:
            break
    return succeeded and not any(exporter.failing for exporter in _exporters(provider))


def shutdown(provider: object, timeout: float) -> None:
    """Export what is left and close, within `timeout` seconds in all; never raise.

    A provider that flowspan did not build is left to its owner.
    """
    if isinstance(provider, BoundedTracerProvider):
        with contextlib.suppress(Exception):
            provider.shutdown(timeout)


def _join_or_start(provider: Any, timeout: float) -> tuple[_Flush, bool]:
    """Return the flush under way, or a new one, and whether it is new."""
    key = os.getpid(), id(provider)
    new = _Flush()
    current = _under_way.setdefault(key, new)  # atomic: a lock could be held by a forking thread
    if current is not new:
        return current, False

    def run() -> None:
        try:
            flushed = provider.force_flush(timeout_millis=round(timeout * 1000))
            new.succeeded = flushed is not False
        except Exception:
            logger.debug("force_flush failed", exc_info=True)
        finally:
            _end(key, new)

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(run,), name="flowspan-flush", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # at interpreter shutdown, or no threads are left
        _end(key, new)
    return new, True


def _end(key: tuple[int, int], current: _Flush) -> None:
    del _under_way[key]
    current.ended.set()


def _exporters(provider: object) -> list[ReportingExporter]:
    if not isinstance(provider, BoundedTracerProvider):
        return []
    return [processor.exporter for processor in provider.processors]


def _complain_if_stuck(provider: object) -> None:
    for exporter in _exporters(provider):
        exporter.complain_if_stuck()
