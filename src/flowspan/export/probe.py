"""Check that a destination accepts telemetry, and say what is wrong if it does not."""

import os
import re
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from flowspan.export.outages import without_secrets
from flowspan.export.ports import find_obstacle
from flowspan.export.providers import make_foreign_exporter
from flowspan.export.routes import (
    _OTLP_GRPC,
    _OTLP_HTTP,
    EMBEDDED,
    SignalRoute,
    _otlp_variable,
    _without_credentials,
    how_to_switch,
    otlp_variable_in_use,
)

_DOUBLED_PATH: Final = re.compile(r"/v1/(traces|metrics|logs)/?$")


def probe(route: SignalRoute, timeout: float = 2.0) -> str | None:
    """Check whether the destination of a route accepts telemetry; send none.

    For OTLP, send an export request without spans, metrics or log records, through OpenTelemetry's
    own exporter, so with its headers, TLS and compression. For the embedded files, check that the
    folder exists or can be created, and is writable. Other exporters are not checked.

    Args:
        route: From `describe_signals`.
        timeout: Seconds for the answer. If there is none, finding out why may take a few times as
            long.

    Returns:
        None if it does, else what is wrong and what to do, as a clause after "but".
    """
    try:
        if route.exporter == EMBEDDED:
            _check_writable(Path(route.destination))
        elif route.exporter == _OTLP_HTTP:
            return _ask_by_http(route, timeout)
        elif route.exporter == _OTLP_GRPC:
            return _ask_by_grpc(route, timeout)
    # A port above 65535, or a file that holds no certificate, is a ValueError.
    except (OSError, ValueError) as error:
        return without_secrets(str(error)) or type(error).__name__
    return None


def _check_writable(path: Path) -> None:
    existing = next(place for place in (path, *path.parents) if place.exists())
    if existing != path and not existing.is_dir():
        raise NotADirectoryError(f"{existing} is not a folder")
    if not os.access(existing, os.W_OK):
        raise PermissionError(f"{existing} cannot be written to")


# HTTP


def _ask_by_http(route: SignalRoute, timeout: float) -> str | None:
    import requests  # noqa: PLC0415 - slow

    exporter = make_foreign_exporter(route)
    client = exporter._client  # noqa: SLF001 - the public export() hides the answer
    answer = client._submit(client._compress(b""), timeout)  # noqa: SLF001 - same reason
    exporter.shutdown()
    if answer.status_code is not None:
        return _judge(route, answer)
    if isinstance(answer.error, requests.exceptions.ProxyError):
        return f"the proxy does not let it through ({without_secrets(str(answer.error))})"
    if isinstance(answer.error, requests.exceptions.Timeout):
        return _no_answer(timeout)
    if isinstance(answer.error, requests.exceptions.TooManyRedirects):
        endpoint = otlp_variable_in_use(route.signal, "ENDPOINT")
        return f"{without_secrets(str(answer.error))}, which exporters ignore: correct {endpoint}"
    return find_obstacle(route, timeout) or without_secrets(str(answer.error))


def _no_answer(timeout: float) -> str:
    return f"it does not answer within {timeout:g} s: is it the right host and port?"


def _judge(route: SignalRoute, answer: Any) -> str | None:
    """Return what an HTTP answer says, or None if it is that of an OTLP receiver."""
    status, endpoint = answer.status_code, otlp_variable_in_use(route.signal, "ENDPOINT")
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return _refused(route, str(status))
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
        return f"nothing takes {route.signal} at this path ({status}): {_correct_path(route)}"
    if status // 100 != 2:  # noqa: PLR2004 - the class of the status
        return f"it answers {status} {without_secrets(answer.reason or '')}: see its log"
    if "text/html" in answer.headers().get("Content-Type", ""):
        return f"it answers with a web page, not as an OTLP receiver: correct {endpoint}"
    return None


def _refused(route: SignalRoute, code: str) -> str:
    variable = otlp_variable_in_use(route.signal, "HEADERS")
    if _otlp_variable(route.signal, "HEADERS"):
        return f"it refuses the token or header ({code}): correct {variable}"
    return f"it wants a token or header ({code}): set {variable}"


def _correct_path(route: SignalRoute) -> str:
    variable = otlp_variable_in_use(route.signal, "ENDPOINT")
    given = _without_credentials(_otlp_variable(route.signal, "ENDPOINT"))
    is_base = variable == "OTEL_EXPORTER_OTLP_ENDPOINT"
    if is_base and _DOUBLED_PATH.search(given):
        return f"set {variable}={_DOUBLED_PATH.sub('', given)}, it is a base URL"
    if not is_base and urlsplit(given).path != f"/v1/{route.signal}":
        usual = urlsplit(given)._replace(path=f"/v1/{route.signal}").geturl()
        return f"{variable} is used as it is, and is usually {usual}"
    return (
        f"correct {variable}, or set OTEL_{route.signal.upper()}_EXPORTER=none if the backend "
        f"takes no {route.signal}"
    )


# gRPC


def _ask_by_grpc(route: SignalRoute, timeout: float) -> str | None:
    import grpc  # type: ignore[import-untyped]  # noqa: PLC0415 - slow

    exporter = make_foreign_exporter(route)
    try:
        exporter._client.Export(  # noqa: SLF001 - the public export() hides the answer
            _empty_request(route.signal),
            metadata=exporter._headers,  # noqa: SLF001 - same reason
            timeout=timeout,
        )
    except grpc.RpcError as error:
        return _explain(route, error.code(), error.details(), timeout)
    finally:
        exporter.shutdown()
    return None


def _explain(route: SignalRoute, code: Any, details: str, timeout: float) -> str:
    """Return what a gRPC error means; `code` is a ``grpc.StatusCode``."""
    from grpc import StatusCode  # noqa: PLC0415 - as above

    if code in (StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED):
        return _refused(route, code.name)
    if code is StatusCode.UNIMPLEMENTED:
        return (
            f"nothing takes {route.signal} by gRPC there ({code.name}): {how_to_switch(route)} if "
            f"it takes them by HTTP, or OTEL_{route.signal.upper()}_EXPORTER=none if it takes none"
        )
    if code is StatusCode.DEADLINE_EXCEEDED:
        return _no_answer(timeout)
    obstacle = find_obstacle(route, timeout) if code is StatusCode.UNAVAILABLE else None
    return obstacle or f"gRPC says {code.name}: {without_secrets(details)}"


def _empty_request(signal: str) -> Any:
    from opentelemetry.proto.collector.logs.v1 import logs_service_pb2  # noqa: PLC0415 - slow
    from opentelemetry.proto.collector.metrics.v1 import (  # noqa: PLC0415 - slow
        metrics_service_pb2,
    )
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2  # noqa: PLC0415 - slow

    requests: dict[str, Any] = {
        "traces": trace_service_pb2.ExportTraceServiceRequest,
        "metrics": metrics_service_pb2.ExportMetricsServiceRequest,
        "logs": logs_service_pb2.ExportLogsServiceRequest,
    }
    return requests[signal]()
