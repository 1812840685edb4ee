"""Exporters that log one line when their endpoint is down, and are silent otherwise."""

import contextlib
import contextvars
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from flowspan._containment import Containment
from flowspan.redaction import redact_text

logger = logging.getLogger("flowspan")

_contained = Containment("logs")
_heard = Containment("export")
_WARNING_INTERVAL: Final = 60.0
"""Seconds between two warnings about one endpoint, even if it goes up and down."""
_LONG: Final = 2.0
"""Seconds after which an export is likely to fail."""

# A Collector repeats a token that it rejects.
_SHOWN: Final = re.compile(r"\b(bearer|basic)\s+\S+", re.IGNORECASE)

E = TypeVar("E", SpanExporter, MetricExporter, LogRecordExporter)

_Listener = Callable[[logging.LogRecord], bool]
log_listener: contextvars.ContextVar[_Listener | None] = contextvars.ContextVar(
    "flowspan_exporter_log_listener", default=None
)
"""Decides which records of the exporters' loggers pass."""


def _hear(record: logging.LogRecord) -> bool:
    """Filter the exporters' loggers: while one of our exporters runs, it decides what passes."""
    listener = log_listener.get()
    return listener is None or listener(record)


@contextlib.contextmanager
def _listening(listener: _Listener) -> Iterator[None]:
    token = log_listener.set(listener)
    try:
        yield
    finally:
        log_listener.reset(token)


def _listen_to(exporter: object) -> None:
    """Add the filter to the loggers of an exporter: libraries name them after their modules."""
    modules = {kind.__module__ for kind in type(exporter).__mro__}
    # The second is where the batch processor logs that its queue is full.
    for module in (*modules, "opentelemetry.sdk._shared_internal"):
        filters = logging.getLogger(module).filters
        if _hear not in filters:
            # Before the SDK's filter, which drops another signal's message as a repetition.
            filters.insert(0, _hear)


def without_secrets(reason: str) -> str:
    """Return the words of a library or a server in one line, with tokens masked."""
    return _SHOWN.sub(r"\1 [redacted]", redact_text(" ".join(reason.split())))


class Reporter(Generic[E]):
    """The exporter of one route: a separate one in each process, silent except for one line.

    A fork inherits locks that nobody will release and connections that the parent still uses, so
    the child creates a new exporter. It keeps a reference to the inherited one, whose destructor
    would close the parent's connections.

    An outage is logged once, in one line. A later one, after the endpoint has answered again, is
    logged too, but there are at least `_WARNING_INTERVAL` seconds between two lines.
    """

    def __init__(self, signal: str, destination: str, make: Callable[[], E]) -> None:
        self.failing = False  # the last batch was lost
        self._signal = signal
        self._destination = destination
        self._make: Callable[[], E] = make
        self._by_process: dict[int, E] = {}
        self._busy_since: float | None = None
        self._reason = ""
        self._said = False
        self._said_at = -_WARNING_INTERVAL
        _listen_to(self.own())

    def deliver(self, export: Callable[[E], bool]) -> bool:
        """Call `export` with the exporter of this process; log a failure instead of raising it.

        `export` must return whether it succeeded; so does this method.
        """
        succeeded = False
        self._reason = ""
        with _listening(self._note):
            try:
                exporter = self.own()
                self._busy_since = time.monotonic()
                succeeded = export(exporter)
            except Exception as error:  # noqa: BLE001
                self._reason = self._reason or f"{type(error).__name__}: {error}"
        self._busy_since = None
        self.failing = not succeeded
        if self.failing:
            self._complain(self._reason or "the exporter gives no reason")
        else:
            self._said = False
        return succeeded

    def close(self) -> None:
        """Interrupt the current export, if any, and close."""
        if self._busy_since is not None:
            self._complain(self._reason or "no answer until the process ended")
        exporter = self._by_process.get(os.getpid())
        if exporter is not None:
            with _listening(self._note), contextlib.suppress(Exception):
                exporter.shutdown()  # type: ignore[no-untyped-call] # that of log records

    def complain_if_stuck(self) -> None:
        """Log that the endpoint is dead if attempts have failed and the exporter still tries."""
        if self._busy_since is not None and self._reason:
            self._complain(self._reason)

    @property
    def is_struggling(self) -> bool:
        """Whether the last batch was lost, or the current one takes long."""
        since = self._busy_since
        return self.failing or (since is not None and time.monotonic() - since > _LONG)

    def is_news(self, _record: logging.LogRecord) -> bool:
        """Return whether the SDK may log that its queue is full: not if we have logged why."""
        self.complain_if_stuck()
        return not self._said

    def own(self) -> E:
        """Return the exporter of this process."""
        pid = os.getpid()
        if pid not in self._by_process:
            self._by_process[pid] = self._make()
            self._busy_since = None
        return self._by_process[pid]

    def _note(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        # The first message says what went wrong; the last often says only that attempts are over.
        self._reason = self._reason or record.getMessage()
        return False

    def _complain(self, reason: str) -> None:
        now = time.monotonic()
        if self._said or now - self._said_at < _WARNING_INTERVAL:
            return
        self._said, self._said_at = True, now
        with suppress_instrumentation():  # otherwise it would be queued for the same endpoint
            logger.warning(
                "Telemetry is being dropped: %s do not reach %s (%s)",
                self._signal,
                self._destination,
                without_secrets(reason),
            )


class ReportingSpanExporter(SpanExporter):
    """The exporter of one route's spans, which reports through `reporter`."""

    def __init__(self, reporter: Reporter[SpanExporter]) -> None:
        self.reporter = reporter
        self.listener: Callable[[Sequence[ReadableSpan]], None] | None = None
        """Is called with the spans of each batch that the endpoint has taken."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export with the exporter of this process; never raise."""
        succeeded = self.reporter.deliver(
            lambda exporter: exporter.export(spans) is SpanExportResult.SUCCESS
        )
        if succeeded and self.listener is not None:
            with _heard:
                self.listener(spans)
        return SpanExportResult.SUCCESS if succeeded else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Interrupt the current export, if any, and close."""
        self.reporter.close()


class ReportingMetricExporter(MetricExporter):
    """The exporter of one route's metrics, which reports through `reporter`."""

    def __init__(self, reporter: Reporter[MetricExporter]) -> None:
        exporter: Any = reporter.own()
        # Private, but the SDK's reader also gets them from an exporter this way.
        super().__init__(exporter._preferred_temporality, exporter._preferred_aggregation)  # noqa: SLF001
        self.reporter = reporter

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Export with the exporter of this process; never raise."""
        succeeded = self.reporter.deliver(
            lambda exporter: (
                exporter.export(metrics_data, timeout_millis, **kwargs)
                is MetricExportResult.SUCCESS
            )
        )
        return MetricExportResult.SUCCESS if succeeded else MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:  # noqa: ARG002
        """Do nothing: collected metrics are exported at once."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:  # noqa: ARG002
        """Interrupt the current export, if any, and close."""
        self.reporter.close()


class ReportingLogExporter(LogRecordExporter):
    """The exporter of one route's log records, which reports through `reporter`."""

    def __init__(self, reporter: Reporter[LogRecordExporter]) -> None:
        self.reporter = reporter

    def export(
        self, batch: Sequence[ReadableLogRecord | Callable[[], ReadableLogRecord]]
    ) -> LogRecordExportResult:
        """Build the records that are not built yet, and export all with this process's exporter."""
        records = []
        for item in batch:
            with _contained:  # one failure must not lose the other records
                records.append(item if isinstance(item, ReadableLogRecord) else item())
        succeeded = self.reporter.deliver(
            lambda exporter: exporter.export(records) is LogRecordExportResult.SUCCESS
        )
        return LogRecordExportResult.SUCCESS if succeeded else LogRecordExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 10_000) -> bool:  # noqa: ARG002
        """Do nothing: records are exported at once."""
        return True

    def shutdown(self) -> None:
        """Interrupt the current export, if any, and close."""
        self.reporter.close()
