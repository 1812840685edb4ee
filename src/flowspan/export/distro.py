"""Undo what opentelemetry-distro decides where the user has decided nothing.

``opentelemetry-instrument`` loads this distribution. It names OTLP for every signal that has no
exporter, so that without an endpoint everything goes to localhost:4317, whether or not anything
listens there. flowspan's default is the embedded files.
"""

import os
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

from opentelemetry import _logs, metrics, trace

from flowspan._containment import Containment
from flowspan.export import declared
from flowspan.export.outages import (
    ReportingLogExporter,
    ReportingMetricExporter,
    ReportingSpanExporter,
)
from flowspan.export.providers import make_reporter
from flowspan.export.routes import _METRICS, _OTLP, _TRACES, LOGS, _otlp_variable, embedded_route
from flowspan.settings import Settings

_contained = Containment("export")
_DISTRIBUTION: Final = "opentelemetry.distro"
_ITS_EXPORTERS: Final = "opentelemetry.exporter.otlp.proto.grpc."
_KINDS: Final[dict[str, Any]] = {
    _TRACES: ReportingSpanExporter,
    _METRICS: ReportingMetricExporter,
    LOGS: ReportingLogExporter,
}


def undo_defaults(settings: Settings) -> list[object]:
    """Send signals for which the distribution has chosen localhost:4317 to the embedded files.

    The distribution's global providers stay, with what other instrumentations record, but write to
    the embedded files. ``OTEL_<SIGNAL>_EXPORTER`` is unset again, so that child processes find what
    the user has set.

    Does nothing if no files are to be written, nor on other systems than Linux, which do not tell
    what the user has set.

    Returns:
        The distribution's providers of these signals.
    """
    undone: list[object] = []
    if _DISTRIBUTION not in sys.modules or declared.path():  # a file decides all of it
        return undone
    if settings.files == "never":
        return undone
    at_start = _names_at_start()
    if at_start is None:
        return undone
    for signal, kind in _KINDS.items():
        variable = f"OTEL_{signal.upper()}_EXPORTER"
        is_default = variable not in at_start and os.environ.get(variable) == _OTLP
        if not is_default or _otlp_variable(signal, "ENDPOINT"):
            continue
        with _contained:
            provider = _global_provider(signal)
            holders = list(_holders(signal, provider))
            for holder in holders:
                _redirect(holder, kind(make_reporter(embedded_route(signal, settings), settings)))
            if holders:
                undone.append(provider)
                del os.environ[variable]
    return undone


def _redirect(holder: Any, exporter: Any) -> None:
    replaced, holder._exporter = holder._exporter, exporter  # noqa: SLF001 - there is no public way
    replaced.shutdown()


def _names_at_start() -> Collection[str] | None:
    """Return the variables with which this process started; None if only Linux could tell."""
    try:
        started = Path("/proc/self/environ").read_bytes()
    except OSError:  # not Linux
        return None
    return {os.fsdecode(pair.partition(b"=")[0]) for pair in started.split(b"\0")}


def _global_provider(signal: str) -> Any:
    if signal == _TRACES:
        return trace.get_tracer_provider()
    return metrics.get_meter_provider() if signal == _METRICS else _logs.get_logger_provider()


def _holders(signal: str, provider: Any) -> Iterator[Any]:
    """Yield what holds the distribution's exporters, in an attribute of the same name."""
    if signal == _METRICS:
        holders = provider._metric_readers  # noqa: SLF001 - same reason
    else:
        if signal == _TRACES:
            processors = provider._active_span_processor._span_processors  # noqa: SLF001 - same reason
        else:
            processors = provider._multi_log_record_processor._log_record_processors  # noqa: SLF001 - same reason
        holders = [getattr(one, "_batch_processor", None) for one in processors]
    for holder in holders:
        exporter = getattr(holder, "_exporter", None)
        if type(exporter).__module__.startswith(_ITS_EXPORTERS):
            yield holder
