"""Check that a destination can be reached, without sending anything."""

import os
import socket
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from flowspan.export.routes import (
    _OTLP_BY_PROTOCOL,
    _OTLP_GRPC,
    _OTLP_HTTP,
    EMBEDDED,
    SignalRoute,
    _otlp_variable,
)

_REQUESTS_AUTHORITY: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


_GRPC_AUTHORITY: Final = ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",)


def probe(route: SignalRoute, timeout: float = 2.0) -> str | None:
    """Check whether the destination of a route answers; send no telemetry.

    For OTLP, connect directly, not through a proxy, and use TLS with the certificates of the
    ``OTEL_*`` variables if the URL says https. For the embedded files, check that the folder exists
    or can be created, and is writable. Other exporters are not checked.

    Args:
        route: From `describe_signals`.
        timeout: Seconds for each step: connecting, and the TLS handshake.

    Returns:
        None if it answers, else the reason.
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
    # gRPC uses 443 for a target without a port, even without TLS.
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
    """Return the certificates that the exporter trusts by default: a variable's, or Mozilla's."""
    from requests.utils import DEFAULT_CA_BUNDLE_PATH  # noqa: PLC0415

    variables = _GRPC_AUTHORITY if route.exporter == _OTLP_GRPC else _REQUESTS_AUTHORITY
    return next(filter(None, map(os.environ.get, variables)), DEFAULT_CA_BUNDLE_PATH)
