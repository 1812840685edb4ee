"""The doctor asks an endpoint with an empty export request, and explains why it fails."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from flowspan.export import probe, routes
from flowspan.settings import Settings
from sinks import (
    Certificate,
    Sink,
    grpc_sink,
    http_sink,
    refusing_endpoint,
    silent_endpoint,
)

SINKS: dict[str, Callable[..., AbstractContextManager[Sink]]] = {
    "grpc": grpc_sink,
    "http/protobuf": http_sink,
}
OTHER = {"grpc": "http/protobuf", "http/protobuf": "grpc"}
both_protocols = pytest.mark.parametrize("protocol", list(SINKS))

Ask = Callable[..., str | None]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ask:
    """Probe the only route of a signal under variables, given without ``OTEL_``."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.chdir(tmp_path)

    def ask(signal: str = "traces", timeout: float = 2.0, **variables: object) -> str | None:
        for name, value in variables.items():
            monkeypatch.setenv(f"OTEL_{name}", str(value))
        found = [r for r in routes.describe_signals(Settings()) if r.signal == signal]
        (route,) = found
        return probe.probe(route, timeout)

    return ask


@both_protocols
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
def test_it_sends_an_empty_request(
    signal: str, protocol: str, scheme: str, certificate: Certificate, ask: Ask
) -> None:
    """An endpoint that takes the signal gets one empty request, with headers and TLS."""
    tls = certificate if scheme == "https" else None
    variables = {"EXPORTER_OTLP_CERTIFICATE": tls.certificate} if tls else {}
    with SINKS[protocol](tls) as sink:
        assert sink.endpoint.startswith(f"{scheme}:")
        answer = ask(
            signal,
            EXPORTER_OTLP_ENDPOINT=sink.endpoint,
            EXPORTER_OTLP_PROTOCOL=protocol,
            EXPORTER_OTLP_HEADERS="api-key=secret",
            EXPORTER_OTLP_COMPRESSION="gzip",
            **variables,
        )
    assert answer is None
    received = {
        "traces": sink.requests,
        "metrics": sink.metric_requests,
        "logs": sink.log_requests,
    }
    (request,) = received.pop(signal)
    assert list(received.values()) == [[], []]
    assert request.headers["api-key"] == "secret"
    assert request.message.ByteSize() == 0
    if protocol == "http/protobuf":
        assert request.path == f"/v1/{signal}"
        assert request.headers["content-encoding"] == "gzip"


@both_protocols
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_port_of_the_other_protocol(
    protocol: str, scheme: str, certificate: Certificate, ask: Ask
) -> None:
    """GRPC to an HTTP port, and the reverse, is named, with the variable that mends it."""
    tls = certificate if scheme == "https" else None
    with SINKS[OTHER[protocol]](tls) as sink:
        answer = ask(
            EXPORTER_OTLP_ENDPOINT=sink.endpoint,
            EXPORTER_OTLP_PROTOCOL=protocol,
            EXPORTER_OTLP_CERTIFICATE=certificate.certificate,
        )
    speaks, usual = {"grpc": ("HTTP, not gRPC", 4317), "http/protobuf": ("gRPC, not HTTP", 4318)}[
        protocol
    ]
    assert str(answer).startswith(f"this port speaks {speaks}: set ")
    assert f"OTEL_EXPORTER_OTLP_PROTOCOL={OTHER[protocol]}, or use" in str(answer)
    assert str(answer).endswith(f"usually {usual}")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, "set OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/"),
        ({"TRACES_EXPORTER": "otlp_proto_grpc"}, "set OTEL_TRACES_EXPORTER=otlp_proto_http"),
    ],
)
def test_it_names_the_variable_that_decides(variables: dict[str, str], said: str, ask: Ask) -> None:
    """The advice names the variable that is in use, not one that would be ignored."""
    with http_sink() as sink:
        assert said in str(ask(EXPORTER_OTLP_ENDPOINT=sink.endpoint, **variables))


@both_protocols
def test_tls_mismatch(protocol: str, certificate: Certificate, ask: Ask) -> None:
    """It says if a port expects TLS, if it does not, and if its certificate is not trusted."""

    def answer(endpoint: str) -> str:
        return str(ask(EXPORTER_OTLP_ENDPOINT=endpoint, EXPORTER_OTLP_PROTOCOL=protocol))

    with SINKS[protocol](certificate) as sink:
        assert answer(sink.endpoint).startswith("its certificate is not trusted (self")
        assert "set OTEL_EXPORTER_OTLP_CERTIFICATE" in answer(sink.endpoint)
        plain = answer(sink.endpoint.replace("https", "http"))
    assert plain == "this port speaks TLS: write https:// in OTEL_EXPORTER_OTLP_ENDPOINT"
    with SINKS[protocol]() as sink:
        encrypted = answer(sink.endpoint.replace("http", "https"))
    expected = "this port does not speak TLS: write http:// in OTEL_EXPORTER_OTLP_ENDPOINT"
    assert encrypted == expected


def test_insecure_variable(ask: Ask) -> None:
    """For gRPC the scheme alone does not help if another variable overrides it."""
    with grpc_sink() as sink:
        answer = ask(EXPORTER_OTLP_ENDPOINT=sink.endpoint, EXPORTER_OTLP_INSECURE="false")
    assert "write http:// in OTEL_EXPORTER_OTLP_ENDPOINT, and unset " in str(answer)
    assert "OTEL_EXPORTER_OTLP_INSECURE" in str(answer)


@both_protocols
@pytest.mark.parametrize("status", [401, 403])
def test_refused_token(protocol: str, status: int, ask: Ask) -> None:
    """It says that the token is refused, or that one is missing, and does not show it."""
    variables = {"EXPORTER_OTLP_PROTOCOL": protocol}
    with SINKS[protocol]() as sink:
        sink.status = status
        missing = ask(EXPORTER_OTLP_ENDPOINT=sink.endpoint, **variables)
        wrong = ask(EXPORTER_OTLP_HEADERS="authorization=Bearer%20hunter2", **variables)
    code = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}[status]
    shown = code if protocol == "grpc" else status
    assert missing == f"it wants a token or header ({shown}): set OTEL_EXPORTER_OTLP_HEADERS"
    assert wrong == f"it refuses the token or header ({shown}): correct OTEL_EXPORTER_OTLP_HEADERS"


@pytest.mark.parametrize(
    ("variable", "path", "said"),
    [
        ("OTLP_ENDPOINT", "/v1/traces", "set OTEL_EXPORTER_OTLP_ENDPOINT={base}, it is a base URL"),
        ("OTLP_ENDPOINT", "/v1/logs/", "set OTEL_EXPORTER_OTLP_ENDPOINT={base}, it is a base URL"),
        ("OTLP_TRACES_ENDPOINT", "", "is used as it is, and is usually {base}/v1/traces"),
        ("OTLP_TRACES_ENDPOINT", "/v1/trace", "is used as it is, and is usually {base}/v1/traces"),
        ("OTLP_ENDPOINT", "/otlp", "correct OTEL_EXPORTER_OTLP_ENDPOINT, or set OTEL_TRACES_"),
    ],
)
def test_wrong_path(variable: str, path: str, said: str, ask: Ask) -> None:
    """A path that takes nothing is an error, with the URL that was probably meant."""
    with http_sink() as sink:
        sink.paths = ("/v1/traces", "/v1/metrics", "/v1/logs")
        answer = ask(
            EXPORTER_OTLP_PROTOCOL="http/protobuf",
            **{f"EXPORTER_{variable}": sink.endpoint + path},
        )
        assert str(answer).startswith("nothing takes traces at this path (404): ")
        assert said.format(base=sink.endpoint) in str(answer)


@both_protocols
def test_backend_that_takes_no_metrics(protocol: str, ask: Ask) -> None:
    """A signal that the backend does not take can be switched off, and it says how."""
    with SINKS[protocol]() as sink:
        sink.status = 404
        answer = ask(
            "metrics", EXPORTER_OTLP_ENDPOINT=sink.endpoint, EXPORTER_OTLP_PROTOCOL=protocol
        )
    assert str(answer).startswith("nothing takes metrics ")
    assert "OTEL_METRICS_EXPORTER=none if" in str(answer)


@pytest.mark.parametrize(
    ("status", "headers", "said"),
    [
        (503, {}, "it answers 503 Service Unavailable"),
        (
            308,
            {"Location": "https://me:pw@there.example/v1"},
            "redirects to https://[redacted]@there",
        ),
        (200, {"Content-Type": "text/html; charset=utf-8"}, "it answers with a web page"),
    ],
)
def test_other_answers(status: int, headers: dict[str, str], said: str, ask: Ask) -> None:
    """What is not the answer of an OTLP receiver is an error, also if the exporter is content."""
    with http_sink() as sink:
        sink.status, sink.answer_headers = status, headers
        answer = ask(EXPORTER_OTLP_ENDPOINT=sink.endpoint, EXPORTER_OTLP_PROTOCOL="http/protobuf")
    assert said in str(answer)


def test_overloaded_grpc_receiver(ask: Ask) -> None:
    """A receiver that speaks the protocol and is unavailable is not taken for another port."""
    with grpc_sink() as sink:
        sink.status = 503
        answer = ask(EXPORTER_OTLP_ENDPOINT=sink.endpoint)
    assert answer == "gRPC says UNAVAILABLE: status 503"


@both_protocols
def test_nothing_listens(protocol: str, ask: Ask) -> None:
    """A refused connection says what to start or to correct."""
    with refusing_endpoint() as endpoint:
        answer = ask(EXPORTER_OTLP_ENDPOINT=endpoint, EXPORTER_OTLP_PROTOCOL=protocol)
    assert str(answer).startswith("nothing listens there (connection refused): start the ")
    assert str(answer).endswith("or correct OTEL_EXPORTER_OTLP_ENDPOINT")


@both_protocols
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_answer_in_time(protocol: str, scheme: str, ask: Ask) -> None:
    """An endpoint that says nothing is given up after the timeout."""
    with silent_endpoint() as endpoint:
        started = time.monotonic()
        answer = ask(
            timeout=0.5,
            EXPORTER_OTLP_ENDPOINT=endpoint.replace("http", scheme),
            EXPORTER_OTLP_PROTOCOL=protocol,
        )
        assert time.monotonic() - started < 10
    assert str(answer).startswith("it does not answer within 0.5 s")


def test_bad_variables(ask: Ask, tmp_path: Path) -> None:
    """A port that cannot exist and a file that is missing are errors, not tracebacks."""
    assert "ort" in str(ask(EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:99999"))
    missing = tmp_path / "missing.pem"
    assert f"there is no file {missing}" in str(ask(EXPORTER_OTLP_CERTIFICATE=missing))


def test_unknown_host(ask: Ask) -> None:
    """A host name that cannot be resolved is named."""
    answer = ask(EXPORTER_OTLP_ENDPOINT="http://nowhere.invalid:4317")
    assert answer == "there is no host nowhere.invalid: correct OTEL_EXPORTER_OTLP_ENDPOINT"


def test_embedded_files(ask: Ask, tmp_path: Path) -> None:
    """It checks the folder without creating it."""
    assert ask() is None
    assert not (tmp_path / ".flowspan").exists()
    (tmp_path / ".flowspan").write_text("")
    assert "is not a folder" in str(ask())


def test_signal_that_is_off(ask: Ask) -> None:
    """A signal that is off is no error."""
    assert ask(TRACES_EXPORTER="none") is None
