"""The OpenTelemetry SDK that flowspan builds when the application has set none.

The standard variables decide (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/).
This module reads those that choose an exporter: ``OTEL_TRACES_EXPORTER``,
``OTEL_METRICS_EXPORTER``, ``OTEL_LOGS_EXPORTER``, the OTLP endpoint and the OTLP protocol. All
others are read by the SDK and its exporters themselves: headers, TLS files, compression, timeouts,
sampler, limits, batching, export interval, temporality, resource.

What flowspan adds to the SDK's pipeline is in `flowspan._bounded`.
"""

import logging
import os
import socket
import ssl
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider

from flowspan import semconv
from flowspan._bounded import (
    BoundedLoggerProvider,
    BoundedLogProcessor,
    BoundedMeterProvider,
    BoundedProcessor,
    BoundedReader,
    BoundedTracerProvider,
    flush,
    shutdown,
)
from flowspan._reporting import (
    Reporter,
    ReportingLogExporter,
    ReportingMetricExporter,
    ReportingSpanExporter,
)
from flowspan._version import __version__
from flowspan.settings import Settings
from flowspan.settings_file import ConfigurationError

if TYPE_CHECKING:
    import requests

__all__ = [
    "ConfigurationError",
    "SignalRoute",
    "build_logger_provider",
    "build_meter_provider",
    "build_tracer_provider",
    "describe_signals",
    "flush",
    "probe",
    "shutdown",
]

_logger = logging.getLogger("flowspan")

EMBEDDED: Final = "embedded"  # not an entry point: flowspan's own name for its files
NONE: Final = "none"

_TRACES: Final = "traces"
_METRICS: Final = "metrics"
LOGS: Final = "logs"
_OTLP: Final = "otlp"
_OTLP_GRPC: Final = "otlp_proto_grpc"
_OTLP_HTTP: Final = "otlp_proto_http"
_OTLP_BY_PROTOCOL: Final = {"grpc": _OTLP_GRPC, "http/protobuf": _OTLP_HTTP}
_REQUESTS_AUTHORITY: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_GRPC_AUTHORITY: Final = ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",)
_DEFAULT_PROTOCOL: Final = "grpc"  # OpenTelemetry Python's; the specification recommends HTTP


@dataclass(frozen=True)
class SignalRoute:
    """One way by which one signal leaves this process."""

    signal: str
    """``traces``, ``metrics`` or ``logs``"""

    exporter: str
    """``embedded``, ``none``, or a name of the entry point group of the signal's exporters."""

    destination: str
    """URL without credentials, path of the embedded file, or else the class of the exporter."""


def build_tracer_provider(settings: Settings) -> TracerProvider:
    """Build the SDK's tracer provider from the ``OTEL_*`` variables, or with the embedded default.

    It does not shut itself down when the process ends: call `shutdown`.

    Raises:
        ConfigurationError: An exporter or protocol is unknown, or an exporter rejects its settings.
    """
    processors = []
    for route in _routes(_TRACES, settings):
        exporter = ReportingSpanExporter(_reporter(route, settings))
        try:
            processors.append(BoundedProcessor(exporter, settings.flush_timeout))
        except ValueError as error:
            raise ConfigurationError(f"OTEL_BSP_*: {error}") from error
    return BoundedTracerProvider(processors, _resource(), settings.flush_timeout)


def build_meter_provider(settings: Settings) -> MeterProvider:
    """Build the SDK's meter provider from the ``OTEL_*`` variables, or with the embedded default.

    It does not shut itself down when the process ends: call `shutdown`.

    Raises:
        ConfigurationError: As `build_tracer_provider`.
    """
    made = [_make_reader(route, settings) for route in _routes(_METRICS, settings)]
    readers = [reader for reader in made if reader is not None]
    return BoundedMeterProvider(readers, _resource(), settings.flush_timeout)


def build_logger_provider(settings: Settings) -> LoggerProvider:
    """Build the SDK's logger provider from the ``OTEL_*`` variables, or with the embedded default.

    It does not shut itself down when the process ends: call `shutdown`.

    Raises:
        ConfigurationError: As `build_tracer_provider`.
    """
    processors = []
    for route in _routes(LOGS, settings):
        exporter = ReportingLogExporter(_reporter(route, settings))
        try:
            processors.append(BoundedLogProcessor(exporter, settings.flush_timeout))
        except ValueError as error:
            raise ConfigurationError(f"OTEL_BLRP_*: {error}") from error
    return BoundedLoggerProvider(processors, _resource(), settings.flush_timeout)


def _reporter(route: SignalRoute, settings: Settings) -> Reporter[Any]:
    make = partial(_make_exporter, route, settings)
    return Reporter(route.signal, route.destination, make)


def _make_reader(route: SignalRoute, settings: Settings) -> MetricReader | None:
    if route.exporter != EMBEDDED:
        kind = _entry_point(route.signal, route.exporter).load()
        if isinstance(kind, type) and issubclass(kind, MetricReader):
            return _make_asked_reader(route, kind)
    reporter = _reporter(route, settings)
    try:
        return BoundedReader(ReportingMetricExporter(reporter))
    except ValueError as error:
        raise ConfigurationError(f"OTEL_METRIC_EXPORT_INTERVAL: {error}") from error


def _make_asked_reader(route: SignalRoute, kind: type[MetricReader]) -> MetricReader | None:
    """Make a reader that is asked instead of exporting, as that of Prometheus is."""
    try:
        return kind()
    except OSError as error:
        # One process of a host has the port. The others, such as those of a pool, must run, too.
        _logger.warning(
            "The metrics of process %d cannot be asked for: the reader %s says %s",
            os.getpid(),
            route.exporter,
            error,
        )
        return None
    except Exception as error:
        raise ConfigurationError(
            f"The {route.signal} exporter {route.exporter!r} cannot be set up: {error}"
        ) from error


def describe_signals(settings: Settings) -> list[SignalRoute]:
    """Say where each signal goes under the present variables; a signal that is off goes to `NONE`.

    Raises:
        ConfigurationError: As `build_tracer_provider`.
    """
    off = set() if settings.logs else {LOGS}
    return [
        route
        for signal in (_TRACES, _METRICS, LOGS)
        for route in ([] if signal in off else _routes(signal, settings))
        or [SignalRoute(signal, NONE, "nowhere")]
    ]


def _resource() -> Resource:
    """Describe this process; ``service.instance.id`` is the SDK's, a random one per process."""
    resource = Resource.create(
        {
            "telemetry.distro.name": "flowspan",
            "telemetry.distro.version": __version__,
            semconv.PROCESS_ID: os.getpid(),
        }
    )
    # What the specification has the SDK put where neither variable nor detector names a service.
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "prefect"}))
    return resource


# Which exporters


def _routes(signal: str, settings: Settings) -> list[SignalRoute]:
    return [
        SignalRoute(signal, name, _destination(signal, name, settings))
        for name in _exporter_names(signal)
    ]


def _exporter_names(signal: str) -> list[str]:
    named = os.environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip()
    if not named:
        named = _OTLP if _otlp_variable(signal, "ENDPOINT") else EMBEDDED
    names = (name.strip() for name in named.split(","))
    return [
        _resolve(signal, name) for name in dict.fromkeys(names) if name.lower() not in ("", NONE)
    ]


def _resolve(signal: str, name: str) -> str:
    """Turn ``otlp`` into the entry point of its protocol, as OpenTelemetry's configurator does."""
    if name != _OTLP:
        return name
    protocol = _otlp_variable(signal, "PROTOCOL") or _DEFAULT_PROTOCOL
    try:
        return _OTLP_BY_PROTOCOL[protocol]
    except KeyError:
        raise ConfigurationError(
            f"OTLP protocol {protocol!r} is not supported: set OTEL_EXPORTER_OTLP_PROTOCOL "
            f"(or OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL) to one of "
            f"{', '.join(_OTLP_BY_PROTOCOL)}"
        ) from None


def _otlp_variable(signal: str, name: str) -> str:
    """Read a variable of the OTLP exporters; the signal's own one wins, and empty means unset."""
    return (
        os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}", "").strip()
        or os.environ.get(f"OTEL_EXPORTER_OTLP_{name}", "").strip()
    )


def _destination(signal: str, exporter: str, settings: Settings) -> str:
    if exporter == EMBEDDED:
        return str(settings.dir.absolute() / f"{signal}.jsonl")
    if exporter == _OTLP_HTTP:
        return _without_credentials(_otlp_endpoint(signal, exporter))
    if exporter == _OTLP_GRPC:
        return _grpc_url(signal, _otlp_endpoint(signal, exporter))
    return _entry_point(signal, exporter).value


def _otlp_endpoint(signal: str, exporter: str) -> str:
    if exporter == _OTLP_GRPC:
        return _otlp_variable(signal, "ENDPOINT") or "http://localhost:4317"
    # The signal's own variable is a full URL, the general one a base.
    if own := os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "").strip():
        return own
    base = _otlp_variable(signal, "ENDPOINT") or "http://localhost:4318"
    return f"{base.removesuffix('/')}/v1/{signal}"


def _grpc_url(signal: str, endpoint: str) -> str:
    """Write a gRPC target as a URL whose scheme says whether TLS is used.

    The rules are those of the exporter: ``https`` always means TLS, then the INSECURE variable
    decides, then the scheme; a bare ``host:port`` means TLS.
    """
    url = urlsplit(endpoint)
    insecure = _otlp_variable(signal, "INSECURE")
    plain = url.scheme != "https" and (
        insecure.lower() == "true" if insecure else url.scheme == "http"
    )
    return _without_credentials(f"{'http' if plain else 'https'}://{url.netloc or endpoint}")


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _entry_point(signal: str, name: str) -> EntryPoint:
    group = entry_points(group=f"opentelemetry_{signal}_exporter")
    if name not in group.names:
        known = sorted({_OTLP, EMBEDDED, NONE, *group.names})
        raise ConfigurationError(
            f"OTEL_{signal.upper()}_EXPORTER names {name!r}, which no installed package provides: "
            f"set it to one of {', '.join(known)}, or install the package that registers it"
        )
    return group[name]


def _make_exporter(route: SignalRoute, settings: Settings) -> Any:
    """Import and make the exporter of one route; only now, so that gRPC is loaded only if used."""
    if route.exporter == EMBEDDED:
        return _make_embedded_exporter(route, settings)
    entry_point = _entry_point(route.signal, route.exporter)
    arguments: dict[str, object] = {}
    if route.exporter in _OTLP_BY_PROTOCOL.values():
        _check_tls_files(route.signal)
        # The exporter would find it itself, but takes an empty variable for an endpoint.
        arguments["endpoint"] = _otlp_endpoint(route.signal, route.exporter)
    if (
        route.exporter == _OTLP_HTTP
        and _otlp_variable(route.signal, "CERTIFICATE")
        and any(map(os.environ.get, _REQUESTS_AUTHORITY))
    ):
        arguments["session"] = _session()
    try:
        return entry_point.load()(**arguments)
    except Exception as error:
        raise ConfigurationError(
            f"The {route.signal} exporter {route.exporter!r} cannot be set up: {error}"
        ) from error


def _make_embedded_exporter(route: SignalRoute, settings: Settings) -> Any:
    from opentelemetry.exporter.otlp.json.file import FileMetricExporter  # noqa: PLC0415

    from flowspan.embedded import (  # noqa: PLC0415
        EmbeddedLogExporter,
        EmbeddedSpanExporter,
        RotatingStream,
    )

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
    """Refuse what gRPC would only log, to go on with other certificates than the user's."""
    for name in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"):
        path = _otlp_variable(signal, name)
        if path and not Path(path).exists():
            raise ConfigurationError(f"OTEL_EXPORTER_OTLP_{name}: there is no file {path}")


def _session() -> "requests.Session":
    """Make a session that trusts the authority it is told to.

    The exporter tells it ``OTEL_EXPORTER_OTLP_CERTIFICATE``, but requests lets variables of its own
    override that (https://github.com/psf/requests/issues/3829).
    """
    import requests  # noqa: PLC0415

    class Session(requests.Session):
        def request(self, *args: Any, **kwargs: Any) -> requests.Response:
            return super().request(*args, **{"verify": self.verify, **kwargs})

    return Session()


# Does it answer


def probe(route: SignalRoute, timeout: float = 2.0) -> str | None:
    """Check whether the destination of a route answers; send no telemetry.

    For OTLP: connect, over TLS if the URL says https, with the certificates of the ``OTEL_*``
    variables; directly, not through a proxy. For the embedded files: whether the folder is there,
    or can be made, and can be written to. Other exporters are taken at their word.

    Args:
        route: From `describe_signals`.
        timeout: Seconds for each step: to connect, and to agree on TLS.

    Returns:
        None when it answers, else the reason why not.
    """
    try:
        if route.exporter == EMBEDDED:
            _check_writable(Path(route.destination))
        elif route.exporter in _OTLP_BY_PROTOCOL.values():
            _connect(route, timeout)
    # A port above 65535, or a file that holds no certificate, is a ValueError.
    except (OSError, ValueError) as error:
        return str(error) or type(error).__name__
    return None


def _check_writable(path: Path) -> None:
    existing = next(place for place in (path, *path.parents) if place.exists())
    if existing != path and not existing.is_dir():
        raise NotADirectoryError(f"{existing} is not a folder")
    if not os.access(existing, os.W_OK):
        raise PermissionError(f"{existing} cannot be written to")


def _connect(route: SignalRoute, timeout: float) -> None:
    url = urlsplit(route.destination)
    # gRPC takes 443 for a target without port, even without TLS.
    port = url.port or (80 if url.scheme == "http" and route.exporter == _OTLP_HTTP else 443)
    with socket.create_connection((url.hostname or "", port), timeout) as connection:
        if url.scheme == "https":
            context = _tls_context(route)
            with context.wrap_socket(connection, server_hostname=url.hostname):
                pass


def _tls_context(route: SignalRoute) -> ssl.SSLContext:
    authority = Path(_otlp_variable(route.signal, "CERTIFICATE") or _default_authority(route))
    if authority.is_dir():
        context = ssl.create_default_context(capath=authority)
    else:
        context = ssl.create_default_context(cafile=authority)
    if certificate := _otlp_variable(route.signal, "CLIENT_CERTIFICATE"):
        context.load_cert_chain(certificate, _otlp_variable(route.signal, "CLIENT_KEY") or None)
    if route.exporter == _OTLP_GRPC:
        context.set_alpn_protocols(["h2"])
    return context


def _default_authority(route: SignalRoute) -> str:
    """Find what the exporter trusts unless told otherwise: Mozilla's list, or another's choice."""
    from requests.utils import DEFAULT_CA_BUNDLE_PATH  # noqa: PLC0415

    variables = _GRPC_AUTHORITY if route.exporter == _OTLP_GRPC else _REQUESTS_AUTHORITY
    return next(filter(None, map(os.environ.get, variables)), DEFAULT_CA_BUNDLE_PATH)
