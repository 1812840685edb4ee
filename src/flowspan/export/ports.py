"""Find out what a port speaks, to say why an exporter gets no answer from it."""

import contextlib
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from flowspan.export.routes import (
    _OTLP_GRPC,
    _OTLP_HTTP,
    OTHER_TRANSPORT,
    REQUESTS_AUTHORITY,
    SignalRoute,
    _otlp_variable,
    how_to_switch,
    otlp_variable_in_use,
)

_GRPC_AUTHORITY: Final = ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",)


class _Transport(NamedTuple):
    name: str
    usual_port: int


_TRANSPORTS: Final = {_OTLP_GRPC: _Transport("gRPC", 4317), _OTLP_HTTP: _Transport("HTTP", 4318)}

# https://www.rfc-editor.org/rfc/rfc9113#section-3.4: a client starts with this and its settings,
# and the first frame of a server has its settings, too.
_HTTP_2_START: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_FRAME_HEADER: Final = 9  # bytes
_FRAME_TYPE: Final = slice(3, 4)
_SETTINGS: Final = b"\x04"
_HTTP_1_QUESTION: Final = b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_HTTP_1_ANSWER: Final = b"HTTP/1."


def find_obstacle(route: SignalRoute, timeout: float) -> str | None:
    """Return what keeps an OTLP exporter from getting an answer, and what to do about it.

    Connects to the destination directly, not through a proxy.

    Args:
        route: From `describe_signals`.
        timeout: Seconds for each step: connecting, the TLS handshake, one answer.

    Returns:
        None if nothing is found.

    Raises:
        OSError: The destination cannot be reached for another reason.
        ValueError: The port is above 65535, or a file holds no certificate.
    """
    url = urlsplit(route.destination)
    endpoint = otlp_variable_in_use(route.signal, "ENDPOINT")
    try:
        if url.scheme == "http" and _speaks_tls(route, timeout):
            return f"this port speaks TLS: {_use_scheme('https', route)}"
        return _wrong_transport(route, timeout)
    except ConnectionRefusedError:
        return (
            "nothing listens there (connection refused): start the Collector or the backend, or "
            f"correct {endpoint}"
        )
    except socket.gaierror:
        return f"there is no host {url.hostname}: correct {endpoint}"
    except ssl.SSLCertVerificationError as error:
        return (
            f"its certificate is not trusted ({error.verify_message}): set "
            f"{otlp_variable_in_use(route.signal, 'CERTIFICATE')} to the file of its authority"
        )
    except (ssl.SSLError, ConnectionResetError) as error:
        speaks_tls = "ALERT" in (getattr(error, "reason", None) or "")  # and says no
        if speaks_tls or url.scheme == "http":
            raise
        return f"this port does not speak TLS: {_use_scheme('http', route)}"


def _use_scheme(scheme: str, route: SignalRoute) -> str:
    insecure = otlp_variable_in_use(route.signal, "INSECURE")
    also = f", and unset {insecure}" if insecure in os.environ else ""
    return f"write {scheme}:// in {otlp_variable_in_use(route.signal, 'ENDPOINT')}{also}"


def _wrong_transport(route: SignalRoute, timeout: float) -> str | None:
    """Return what to do if the port speaks the other transport of OTLP."""
    with _connected(route, timeout) as connection:
        header = _ask(connection, _HTTP_2_START, _FRAME_HEADER)
    speaks_http_2 = header[_FRAME_TYPE] == _SETTINGS
    if speaks_http_2 != (route.exporter == _OTLP_HTTP):
        return None
    if not speaks_http_2:
        with _connected(route, timeout) as connection:
            if _ask(connection, _HTTP_1_QUESTION, len(_HTTP_1_ANSWER)) != _HTTP_1_ANSWER:
                return None
    own, other = _TRANSPORTS[route.exporter], _TRANSPORTS[OTHER_TRANSPORT[route.exporter]]
    return (
        f"this port speaks {other.name}, not {own.name}: {how_to_switch(route)}, or use the port "
        f"for {own.name}, usually {own.usual_port}"
    )


def _ask(connection: socket.socket, question: bytes, length: int) -> bytes:
    """Send `question` and return the first `length` bytes of the answer, or what there is."""
    answer = b""
    with contextlib.suppress(OSError):
        connection.sendall(question)
        while len(answer) < length and (more := connection.recv(length - len(answer))):
            answer += more
    return answer


@contextlib.contextmanager
def _connected(route: SignalRoute, timeout: float) -> Iterator[socket.socket]:
    """Connect as the exporter does: with TLS, and its certificates, if the URL says https."""
    url = urlsplit(route.destination)
    with _connect(route, timeout) as connection:
        if url.scheme == "http":
            yield connection
            return
        with _tls_context(route).wrap_socket(connection, server_hostname=url.hostname) as encrypted:
            yield encrypted


def _connect(route: SignalRoute, timeout: float) -> socket.socket:
    url = urlsplit(route.destination)
    # gRPC uses 443 for a target without a port, even without TLS.
    port = url.port or (80 if url.scheme == "http" and route.exporter == _OTLP_HTTP else 443)
    return socket.create_connection((url.hostname or "", port), timeout)


def _speaks_tls(route: SignalRoute, timeout: float) -> bool:
    url, context = urlsplit(route.destination), ssl.create_default_context()
    # Any certificate will do for this question; nothing is sent.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with _connect(route, timeout) as connection:
            context.wrap_socket(connection, server_hostname=url.hostname).close()
    except OSError:
        return False
    return True


def _tls_context(route: SignalRoute) -> ssl.SSLContext:
    authority = Path(_otlp_variable(route.signal, "CERTIFICATE") or _default_authority(route))
    if authority.is_dir():
        context = ssl.create_default_context(capath=authority)
    else:
        context = ssl.create_default_context(cafile=authority)
    if certificate := _otlp_variable(route.signal, "CLIENT_CERTIFICATE"):
        context.load_cert_chain(certificate, _otlp_variable(route.signal, "CLIENT_KEY") or None)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def _default_authority(route: SignalRoute) -> str:
    """Return the certificates that the exporter trusts by default: a variable's, or Mozilla's."""
    from requests.utils import DEFAULT_CA_BUNDLE_PATH  # noqa: PLC0415

    variables = _GRPC_AUTHORITY if route.exporter == _OTLP_GRPC else REQUESTS_AUTHORITY
    return next(filter(None, map(os.environ.get, variables)), DEFAULT_CA_BUNDLE_PATH)
