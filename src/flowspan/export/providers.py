"""Build OpenTelemetry's providers when the application has set none.

The standard variables decide (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/).
This module reads those that choose an exporter: ``OTEL_TRACES_EXPORTER``,
``OTEL_METRICS_EXPORTER``, ``OTEL_LOGS_EXPORTER``, the OTLP endpoint and the OTLP protocol. All
others are read by the SDK and its exporters themselves: headers, TLS files, compression, timeouts,
sampler, limits, batching, export interval, temporality, resource.

What flowspan adds to the SDK's pipeline is in `flowspan.export.bounded`.
"""

import logging
import os
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider

from flowspan import semconv
from flowspan._containment import Containment
from flowspan._version import __version__
from flowspan.errors import ConfigurationError
from flowspan.export import forks
from flowspan.export.bounded import (
    BoundedLoggerProvider,
    BoundedLogProcessor,
    BoundedMeterProvider,
    BoundedProcessor,
    BoundedReader,
    BoundedTracerProvider,
    flush,
    shutdown,
    span_limits,
)
from flowspan.export.outages import (
    Reporter,
    ReportingLogExporter,
    ReportingMetricExporter,
    ReportingSpanExporter,
)
from flowspan.export.routes import (
    _METRICS,
    _OTLP_BY_PROTOCOL,
    _OTLP_GRPC,
    _OTLP_HTTP,
    _TRACES,
    EMBEDDED,
    LOGS,
    SignalRoute,
    _entry_point,
    _otlp_endpoint,
    _otlp_variable,
    _routes,
    describe_signals,
)
from flowspan.settings import Settings
from flowspan.values import clean

if TYPE_CHECKING:
    import requests

__all__ = [
    "ConfigurationError",
    "SignalRoute",
    "build_logger_provider",
    "build_meter_provider",
    "build_span_exporters",
    "build_tracer_provider",
    "describe_signals",
    "flush",
    "resource",
    "shutdown",
    "span_limits",
]

_logger = logging.getLogger("flowspan")
_contained = Containment("export")


def build_tracer_provider(settings: Settings) -> TracerProvider:
    """Build the SDK's tracer provider from the ``OTEL_*`` variables, or with the embedded default.

    It does not shut itself down when the process ends: call `shutdown`.

    Raises:
        ConfigurationError: An exporter or protocol is unknown, or an exporter rejects its settings.
    """
    exporters = build_span_exporters(settings)
    try:
        processors = [BoundedProcessor(one, settings.flush_timeout) for one in exporters]
    except ValueError as error:
        raise ConfigurationError(f"OTEL_BSP_*: {error}") from error
    return BoundedTracerProvider(processors, resource(), settings.flush_timeout)


def build_span_exporters(settings: Settings) -> list[ReportingSpanExporter]:
    """Build the exporters of spans from the ``OTEL_*`` variables, one for each route.

    Raises:
        ConfigurationError: As `build_tracer_provider`.
    """
    return [
        ReportingSpanExporter(make_reporter(route, settings))
        for route in _routes(_TRACES, settings)
    ]


def link_limit(provider: object) -> int | None:
    """Return how many links a provider keeps for each span; None if that is unknown or no limit.

    Args:
        provider: The application's, or one that only stands for what flowspan would build.
    """
    limits = getattr(provider, "_span_limits", None)
    if limits is None and type(provider).__name__ == "ProxyTracerProvider":
        limits = span_limits()
    return getattr(limits, "max_links", None)


def build_meter_provider(settings: Settings) -> MeterProvider:
    """Build the SDK's meter provider from the ``OTEL_*`` variables, or with the embedded default.

    It does not shut itself down when the process ends: call `shutdown`.

    Raises:
        ConfigurationError: As `build_tracer_provider`.
    """
    made = [_make_reader(route, settings) for route in _routes(_METRICS, settings)]
    readers = [reader for reader in made if reader is not None]
    return BoundedMeterProvider(readers, resource(), settings.flush_timeout)


def build_logger_provider(settings: Settings) -> LoggerProvider:
    """Build the SDK's logger provider from the ``OTEL_*`` variables, or with the embedded default.

    It does not shut itself down when the process ends: call `shutdown`.

    Raises:
        ConfigurationError: As `build_tracer_provider`.
    """
    processors = []
    for route in _routes(LOGS, settings):
        exporter = ReportingLogExporter(make_reporter(route, settings))
        try:
            processors.append(BoundedLogProcessor(exporter, settings.flush_timeout))
        except ValueError as error:
            raise ConfigurationError(f"OTEL_BLRP_*: {error}") from error
    return BoundedLoggerProvider(processors, resource(), settings.flush_timeout)


def make_reporter(route: SignalRoute, settings: Settings) -> Reporter[Any]:
    """Create the reporter of a route, and with it this process's exporter.

    Raises:
        ConfigurationError: As `build_tracer_provider`.
    """
    make = partial(_make_exporter, route, settings)
    return Reporter(route.signal, route.destination, make)


def _make_reader(route: SignalRoute, settings: Settings) -> MetricReader | None:
    if route.exporter != EMBEDDED:
        kind = _entry_point(route.signal, route.exporter).load()
        if isinstance(kind, type) and issubclass(kind, MetricReader):
            return _make_asked_reader(route, kind)
    reporter = make_reporter(route, settings)
    try:
        return BoundedReader(ReportingMetricExporter(reporter))
    except ValueError as error:
        raise ConfigurationError(f"OTEL_METRIC_EXPORT_INTERVAL: {error}") from error


def _make_asked_reader(route: SignalRoute, kind: type[MetricReader]) -> MetricReader | None:
    """Create a reader that is scraped instead of exporting, like that of Prometheus."""
    try:
        return kind()
    except OSError as error:
        # Another process has the port. This one, such as a process of a pool, must still run.
        _logger.warning(
            "The metrics of process %d cannot be scraped: the reader %s says %s",
            os.getpid(),
            route.exporter,
            error,
        )
        return None
    except Exception as error:
        raise ConfigurationError(
            f"The {route.signal} exporter {route.exporter!r} cannot be set up: {error}"
        ) from error


def resource() -> Resource:
    """Describe this process; the SDK adds a random ``service.instance.id`` for each process."""
    described = Resource.create(
        {
            "telemetry.distro.name": "flowspan",
            "telemetry.distro.version": __version__,
            semconv.PROCESS_ID: os.getpid(),
        }
    )
    # The specification's default if neither a variable nor a detector names a service.
    if str(described.attributes[SERVICE_NAME]).startswith("unknown_service"):
        described = described.merge(Resource({SERVICE_NAME: "prefect"}))
    # Variables and command lines may hold bytes that are no text.
    return Resource(clean(described.attributes), described.schema_url)


# Which exporters


def _make_exporter(route: SignalRoute, settings: Settings) -> Any:
    """Import and create the exporter of one route; imports are here to load gRPC only if used."""
    if route.exporter == EMBEDDED:
        return _make_embedded_exporter(route, settings)
    return make_foreign_exporter(route)


def make_foreign_exporter(route: SignalRoute) -> Any:
    """Create an exporter that is not flowspan's own, as the ``OTEL_*`` variables say.

    Raises:
        ConfigurationError: The exporter is unknown or rejects its settings.
    """
    entry_point = _entry_point(route.signal, route.exporter)
    arguments: dict[str, object] = {}
    if route.exporter in _OTLP_BY_PROTOCOL.values():
        _check_tls_files(route.signal)
        # The exporter would find it itself, but treats an empty variable as an endpoint.
        arguments["endpoint"] = _otlp_endpoint(route.signal, route.exporter)
    if route.exporter == _OTLP_HTTP and not any(map(_is_session_variable, os.environ)):
        arguments["session"] = _session()
    try:
        exporter = entry_point.load()(**arguments)
    except Exception as error:
        raise ConfigurationError(
            f"The {route.signal} exporter {route.exporter!r} cannot be set up: {error}"
        ) from error
    if route.exporter == _OTLP_GRPC:
        with _contained:  # without it all works but forks
            forks.hold_back(exporter)
    return exporter


def _make_embedded_exporter(route: SignalRoute, settings: Settings) -> Any:
    from opentelemetry.exporter.otlp.json.file import FileMetricExporter  # noqa: PLC0415

    from flowspan.export.files import EmbeddedLogExporter, EmbeddedSpanExporter, RotatingStream  # noqa: PLC0415

    stream = RotatingStream(
        Path(route.destination).parent,
        route.signal,
        max_bytes=settings.file_max_bytes,
        max_count=settings.file_max_count,
    )
    if route.signal == _TRACES:
        return EmbeddedSpanExporter(stream)
    if route.signal == LOGS:
        return EmbeddedLogExporter(stream)
    return FileMetricExporter(stream=cast("IO[str]", stream))


def _check_tls_files(signal: str) -> None:
    """Raise if a TLS file is missing; gRPC would only log it and use other certificates."""
    for name in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"):
        path = _otlp_variable(signal, name)
        if path and not Path(path).exists():
            raise ConfigurationError(f"OTEL_EXPORTER_OTLP_{name}: there is no file {path}")


def _is_session_variable(name: str) -> bool:
    """Return whether the exporter itself gets its session as a variable of this name says."""
    return name.startswith("OTEL_PYTHON_EXPORTER_OTLP_HTTP_") and name.endswith("_PROVIDER")


def _session() -> "requests.Session":
    """Return a session that trusts the certificate authority it is given and refuses redirects.

    The exporter passes ``OTEL_EXPORTER_OTLP_CERTIFICATE``, but requests lets its own variables
    override that (https://github.com/psf/requests/issues/3829). The exporter does not follow
    redirects, but takes them for success.
    """
    import requests  # noqa: PLC0415

    class Session(requests.Session):
        def request(self, *args: Any, **kwargs: Any) -> requests.Response:
            answer = super().request(*args, **{"verify": self.verify, **kwargs})
            if answer.is_redirect:
                place = answer.headers["Location"]
                raise requests.TooManyRedirects(f"it redirects to {place} ({answer.status_code})")
            return answer

    return Session()
