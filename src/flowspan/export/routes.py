"""Find each signal's exporter and destination."""

import os
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Final
from urllib.parse import urlsplit

from flowspan.errors import ConfigurationError
from flowspan.settings import Settings

EMBEDDED: Final = "embedded"  # not an entry point: flowspan's own name for its files


NONE: Final = "none"


_TRACES: Final = "traces"


_METRICS: Final = "metrics"


LOGS: Final = "logs"


SIGNALS: Final = (_TRACES, _METRICS, LOGS)


_OTLP: Final = "otlp"


_OTLP_GRPC: Final = "otlp_proto_grpc"


_OTLP_HTTP: Final = "otlp_proto_http"


_OTLP_BY_PROTOCOL: Final = {"grpc": _OTLP_GRPC, "http/protobuf": _OTLP_HTTP}


OTHER_TRANSPORT: Final = {_OTLP_GRPC: _OTLP_HTTP, _OTLP_HTTP: _OTLP_GRPC}


REQUESTS_AUTHORITY: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables of the requests library, which the HTTP exporter uses."""


_DEFAULT_PROTOCOL: Final = "grpc"  # OpenTelemetry Python's; the specification recommends HTTP


@dataclass(frozen=True)
class SignalRoute:
    """One way for one signal to leave this process."""

    signal: str
    """``traces``, ``metrics`` or ``logs``"""

    exporter: str
    """``embedded``, ``none``, or a name in the entry point group of the signal's exporters."""

    destination: str
    """URL without credentials, path of the embedded file, or the exporter's class."""


def describe_signals(settings: Settings) -> list[SignalRoute]:
    """Return the routes of each signal under the current variables; `NONE` if a signal is off.

    Raises:
        ConfigurationError: As `build_tracer_provider`.
    """
    off = set() if settings.logs else {LOGS}
    return [
        route
        for signal in SIGNALS
        for route in ([] if signal in off else _routes(signal, settings))
        or [SignalRoute(signal, NONE, "nowhere")]
    ]


def _routes(signal: str, settings: Settings) -> list[SignalRoute]:
    return [
        SignalRoute(signal, name, _destination(signal, name, settings))
        for name in _exporter_names(signal, settings)
    ]


def embedded_route(signal: str, settings: Settings) -> SignalRoute:
    """Return the route of a signal to its embedded file, whatever the variables say."""
    return SignalRoute(signal, EMBEDDED, _destination(signal, EMBEDDED, settings))


def _exporter_names(signal: str, settings: Settings) -> list[str]:
    named = os.environ.get(_exporter_variable(signal), "").strip()
    if not named:
        named = _OTLP if _otlp_variable(signal, "ENDPOINT") else EMBEDDED
    names = (name.strip() for name in named.split(","))
    found = [
        _resolve(signal, name) for name in dict.fromkeys(names) if name.lower() not in ("", NONE)
    ]
    if settings.files == "never":
        return [name for name in found if name != EMBEDDED]
    if settings.files == "also" and found and EMBEDDED not in found:
        found.append(EMBEDDED)
    return found


def _exporter_variable(signal: str) -> str:
    return f"OTEL_{signal.upper()}_EXPORTER"


def switch_of(signal: str, settings: Settings) -> str:
    """Return the name of the variable because of which a signal has no exporter."""
    if signal == LOGS and not settings.logs:
        return "FLOWSPAN_LOGS"
    named = os.environ.get(_exporter_variable(signal), "").strip().lower()
    return "FLOWSPAN_FILES" if named in ("", EMBEDDED) else _exporter_variable(signal)


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
    """Read a variable of the OTLP exporters, first the signal's own; empty means unset."""
    return (
        os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}", "").strip()
        or os.environ.get(f"OTEL_EXPORTER_OTLP_{name}", "").strip()
    )


def otlp_variable_in_use(signal: str, name: str) -> str:
    """Return the name of the variable that `_otlp_variable` reads; the general one if none is set.

    Args:
        signal: As in `SignalRoute`.
        name: What follows ``OTEL_EXPORTER_OTLP_``, such as ``ENDPOINT``.
    """
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}"
    return own if os.environ.get(own, "").strip() else f"OTEL_EXPORTER_OTLP_{name}"


def how_to_switch(route: SignalRoute) -> str:
    """Say how to send one signal by the other transport of OTLP."""
    other = OTHER_TRANSPORT[route.exporter]
    variable = _exporter_variable(route.signal)
    if route.exporter in os.environ.get(variable, ""):  # named itself, so no protocol is read
        return f"set {variable}={other}"
    protocol = next(name for name, one in _OTLP_BY_PROTOCOL.items() if one == other)
    return f"set {otlp_variable_in_use(route.signal, 'PROTOCOL')}={protocol}"


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
    """Return a gRPC target as a URL whose scheme says whether TLS is used.

    The exporter's rules apply: ``https`` always means TLS, then the INSECURE variable decides, then
    the scheme; a bare ``host:port`` means TLS.
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
            f"{_exporter_variable(signal)} names {name!r}, which no installed package provides: "
            f"set it to one of {', '.join(known)}, or install the package that registers it"
        )
    return group[name]
