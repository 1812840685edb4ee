"""The SDK's pipelines with bounded flush and shutdown, because the user's thread waits for them.

A forked process exports on its own.
"""

import contextlib
import contextvars
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from opentelemetry._logs import LogRecord
from opentelemetry.context import Context, get_current
from opentelemetry.sdk._logs import (
    LoggerProvider,
    LogRecordProcessor,
    ReadableLogRecord,
    ReadWriteLogRecord,
)
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.environment_variables import (
    OTEL_BLRP_MAX_QUEUE_SIZE,
    OTEL_SPAN_EVENT_COUNT_LIMIT,
    OTEL_SPAN_LINK_COUNT_LIMIT,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from flowspan.export.outages import (
    Reporter,
    ReportingLogExporter,
    ReportingMetricExporter,
    ReportingSpanExporter,
    log_listener,
)

logger = logging.getLogger("flowspan")

_MANY: Final = 10_000
_STRUGGLING: Final = 1.0
"""Seconds that an exporter's shutdown may take if its endpoint did not answer before."""

T = TypeVar("T")


class BoundedProcessor(BatchSpanProcessor):
    """The SDK's batch processor, whose shutdown takes no longer than `timeout` seconds."""

    def __init__(self, exporter: ReportingSpanExporter, timeout: float) -> None:
        super().__init__(exporter)
        self.exporter = exporter
        self.reporter = exporter.reporter
        self._timeout = timeout

    def on_end(self, span: ReadableSpan) -> None:
        token = log_listener.set(self.reporter.is_news)
        try:
            super().on_end(span)
        finally:
            log_listener.reset(token)

    def shutdown(self, timeout: float | None = None) -> None:
        seconds = self._timeout if timeout is None else timeout
        if self.reporter.is_struggling:
            seconds = min(seconds, _STRUGGLING)
        # Private, since the public method takes no timeout and waits up to 30 s for its thread.
        self._batch_processor.shutdown(timeout_millis=round(max(0.0, seconds) * 1000))


class BoundedTracerProvider(TracerProvider):
    """The SDK's tracer provider, whose shutdown takes no longer than `timeout` seconds."""

    def __init__(
        self, processors: Sequence[BoundedProcessor], resource: Resource, timeout: float
    ) -> None:
        super().__init__(resource=resource, span_limits=span_limits(), shutdown_on_exit=False)
        for processor in processors:
            self.add_span_processor(processor)
        self.reporters: list[Reporter[Any]] = [processor.reporter for processor in processors]
        self._processors = processors
        self._timeout = timeout

    def listen(self, listener: Callable[[Sequence[ReadableSpan]], None] | None) -> None:
        """Call `listener`, in the thread that exports, with each batch that has been taken."""
        for processor in self._processors:
            processor.exporter.listener = listener

    def shutdown(self, timeout: float | None = None) -> None:
        shares = _shares(self._processors, self._timeout if timeout is None else timeout)
        for processor, share in shares:
            processor.shutdown(share)
        super().shutdown()


class BoundedReader(PeriodicExportingMetricReader):
    """The SDK's periodic reader, safe to fork."""

    def __init__(self, exporter: ReportingMetricExporter) -> None:
        super().__init__(exporter)
        self.reporter = exporter.reporter

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        if self._daemon_thread is None:  # with an infinite interval nobody else collects at the end
            self.force_flush(timeout_millis)
        if self.reporter.is_struggling:
            # The last collection would only wait for the current export.
            timeout_millis = min(timeout_millis, _STRUGGLING * 1000)
        super().shutdown(timeout_millis=timeout_millis)

    def _at_fork_reinit(self) -> None:
        # The SDK's own method keeps the lock, which a thread may hold that no longer exists.
        self._export_lock = threading.Lock()
        super()._at_fork_reinit()  # type: ignore[no-untyped-call] # the SDK's


class BoundedMeterProvider(MeterProvider):
    """The SDK's meter provider, whose shutdown takes no longer than `timeout` seconds.

    A forked process starts at zero. With the SDK's own provider it would export its parent's counts
    a second time, as its own.
    """

    def __init__(self, readers: Sequence[MetricReader], resource: Resource, timeout: float) -> None:
        super().__init__(readers, resource, shutdown_on_exit=False)
        self.reporters: list[Reporter[Any]] = [
            reader.reporter for reader in readers if isinstance(reader, BoundedReader)
        ]
        self._readers = readers
        self._timeout = timeout
        self._is_shut_down = False

    def shutdown(self, timeout_millis: float | None = None) -> None:
        if self._is_shut_down:
            return
        self._is_shut_down = True
        timeout = self._timeout if timeout_millis is None else timeout_millis / 1000
        # The SDK's own method would leave the last readers only the time that the first ones left.
        for reader, share in _shares(self._readers, timeout):
            reader.shutdown(timeout_millis=share * 1000)

    def _handle_fork(self) -> None:
        super()._handle_fork()
        # Private, but existing instruments stay valid.
        consumer: Any = self._measurement_consumer
        observable = consumer._async_instruments  # noqa: SLF001
        consumer.__init__(self._sdk_config, self._readers)
        consumer._async_instruments = observable  # noqa: SLF001


class Draft(Protocol):
    """A log record that is not built yet."""

    logger: str
    """The name of its logger."""

    def record(self, context: Context | None) -> LogRecord:
        """Build the record; `context` is that of the log call, or None if nothing reads it."""


class BoundedLogProcessor(BatchLogRecordProcessor):
    """The SDK's batch processor, whose shutdown takes no longer than `timeout` seconds.

    It also accepts records that are not built yet; its thread builds them.
    """

    def __init__(self, exporter: ReportingLogExporter, timeout: float) -> None:
        # A loop logs more in a second than the SDK's default queue of 2,048 holds.
        size = None if os.environ.get(OTEL_BLRP_MAX_QUEUE_SIZE) else _MANY
        super().__init__(exporter, max_queue_size=size)
        self.reporter = exporter.reporter
        self._timeout = timeout

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        token = log_listener.set(self.reporter.is_news)
        try:
            super().on_emit(log_record)
        finally:
            log_listener.reset(token)

    def emit_later(self, make: Callable[[], ReadableLogRecord]) -> None:
        # Private, but the queue may hold anything: only the exporter looks at its items.
        queue: Any = self._batch_processor
        if len(queue._queue) < queue._max_queue_size:  # noqa: SLF001
            queue.emit(make)
            return
        token = log_listener.set(self.reporter.is_news)
        try:
            queue.emit(make)
        finally:
            log_listener.reset(token)

    def shutdown(self, timeout: float | None = None) -> None:
        seconds = self._timeout if timeout is None else timeout
        # As for spans
        self._batch_processor.shutdown(timeout_millis=round(max(0.0, seconds) * 1000))


class BoundedLoggerProvider(LoggerProvider):
    """The SDK's logger provider, whose shutdown takes no longer than `timeout` seconds."""

    def __init__(
        self, processors: Sequence[BoundedLogProcessor], resource: Resource, timeout: float
    ) -> None:
        super().__init__(resource, shutdown_on_exit=False)
        for processor in processors:
            super().add_log_record_processor(processor)
        self.reporters: list[Reporter[Any]] = [processor.reporter for processor in processors]
        self._processors = processors
        self._timeout = timeout
        self._has_others = False
        self._is_shut_down = False

    def add_log_record_processor(self, log_record_processor: LogRecordProcessor) -> None:
        self._has_others = True
        super().add_log_record_processor(log_record_processor)

    def emit_later(self, draft: Draft) -> None:
        """Emit the record of a draft, building it in another thread.

        Building a record costs more than logging a line. If the application has added processors
        of its own, the record is built at once, because they may look at the context.
        """
        if self._has_others:
            self.get_logger(draft.logger).emit(draft.record(get_current()))
        elif not self._is_shut_down:  # after the shutdown the SDK would log a warning for each line
            for processor in self._processors:
                processor.emit_later(partial(self._make, draft))

    def _make(self, draft: Draft) -> ReadableLogRecord:
        logger: Any = self.get_logger(draft.logger)
        scope, limits = logger.instrumentation_scope, self._log_record_limits
        bounded = ReadWriteLogRecord(draft.record(None), self.resource, scope, limits)
        return ReadableLogRecord(bounded.log_record, self.resource, scope, limits)

    def shutdown(self, timeout: float | None = None) -> None:
        self._is_shut_down = True
        shares = _shares(self._processors, self._timeout if timeout is None else timeout)
        for processor, share in shares:
            processor.shutdown(share)
        super().shutdown()


def span_limits() -> SpanLimits:
    """Read the limits from the ``OTEL_*`` variables, with higher defaults for links and events.

    A run may consume the results of thousands of mapped runs. The SDK's default is 128 links.
    """
    return SpanLimits(
        max_links=None if os.environ.get(OTEL_SPAN_LINK_COUNT_LIMIT) else _MANY,
        max_events=None if os.environ.get(OTEL_SPAN_EVENT_COUNT_LIMIT) else _MANY,
    )


# Flush and shutdown

_OURS: Final = (BoundedTracerProvider, BoundedMeterProvider, BoundedLoggerProvider)


@dataclass(eq=False)
class _Flush:
    """A `force_flush` that is running in its own thread."""

    ended: threading.Event = field(default_factory=threading.Event)
    succeeded: bool = False


# By process and provider, because a fork inherits the entries but not the threads that end them.
_under_way: dict[tuple[int, int], _Flush] = {}


def flush(providers: Iterable[object], timeout: float, *, gives_up: bool = False) -> bool:
    """Export everything that has ended, waiting at most `timeout` seconds in total; never raise.

    The SDK's own `force_flush` ignores its timeout
    (https://github.com/open-telemetry/opentelemetry-python/issues/4568), so it runs in a daemon
    thread, one at a time for each provider: with a dead endpoint, callers share the running one.

    Python 3.12 and later start no threads while the interpreter shuts down. Then this flushes
    nothing, and `shutdown` exports the rest with the thread that the SDK already has.

    Args:
        providers: Those of any signals.
        timeout: In seconds.
        gives_up: Whether to start the flush, but not wait for it, where the endpoint did not answer
            before. So a dead endpoint delays only the first of many calls.

    Returns:
        Whether everything was exported, as far as the providers know; True for providers without
        `force_flush`, which buffer nothing.
    """
    deadline = time.monotonic() + timeout
    flushable = [provider for provider in providers if hasattr(provider, "force_flush")]
    begun = [(provider, *_join_or_start(provider, timeout)) for provider in flushable]
    succeeded = True
    for provider, current, is_ours in begun:
        if gives_up and any(reporter.is_struggling for reporter in _reporters(provider)):
            succeeded = False
            continue
        ended = current.ended.wait(max(0.0, deadline - time.monotonic()))
        if ended and not is_ours:
            # A flush that another caller started may have begun before our last span ended.
            current, _ = _join_or_start(provider, timeout)  # noqa: PLW2901
            ended = current.ended.wait(max(0.0, deadline - time.monotonic()))
        if not ended:
            _complain_if_stuck(provider)
        lost = any(reporter.failing for reporter in _reporters(provider))
        succeeded = succeeded and ended and current.succeeded and not lost
    return succeeded


def shutdown(providers: Sequence[object], timeout: float) -> None:
    """Export what is left and close, within `timeout` seconds in total; never raise.

    Providers that flowspan did not build are not closed.
    """
    ours = [provider for provider in providers if isinstance(provider, _OURS)]
    for provider, share in _shares(ours, timeout):
        with contextlib.suppress(Exception):
            if isinstance(provider, BoundedMeterProvider):
                provider.shutdown(share * 1000)
            else:
                provider.shutdown(share)


def _shares(items: Sequence[T], timeout: float) -> Iterator[tuple[T, float]]:
    """Yield each item with an equal share of the remaining time, in seconds.

    So a dead endpoint takes no time from the others.
    """
    deadline = time.monotonic() + timeout
    for index, item in enumerate(items):
        yield item, max(0.0, deadline - time.monotonic()) / (len(items) - index)


def _join_or_start(provider: Any, timeout: float) -> tuple[_Flush, bool]:
    """Return the running flush, or a new one, and whether it is new."""
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
    except RuntimeError:  # at interpreter shutdown, or if no thread can be started
        _end(key, new)
    return new, True


def _end(key: tuple[int, int], current: _Flush) -> None:
    del _under_way[key]
    current.ended.set()


def _reporters(provider: object) -> list[Reporter[Any]]:
    return provider.reporters if isinstance(provider, _OURS) else []


def _complain_if_stuck(provider: object) -> None:
    for reporter in _reporters(provider):
        reporter.complain_if_stuck()
