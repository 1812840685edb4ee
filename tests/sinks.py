"""OTLP sinks on loopback, and helpers around them. Every wait is bounded.

Each sink is a context manager: it listens on a free port of 127.0.0.1 and keeps what it receives.
"""

import datetime as dt
import gzip
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from flowspan import semconv


@dataclass(frozen=True)
class Request:
    """One export as received, with lower-case header names."""

    path: str
    headers: dict[str, str]
    message: Any
    body: bytes = b""
    """The body of the request as received, maybe compressed; over HTTP only."""


@dataclass
class Sink:
    """The received exports, and how the sink answers; both may be changed while it runs."""

    endpoint: str = ""
    requests: list[Request] = field(default_factory=list)
    """The exports of spans."""
    metric_requests: list[Request] = field(default_factory=list)
    log_requests: list[Request] = field(default_factory=list)
    status: int = 200
    """HTTP status of the answer; for gRPC, 200, 401, 403, 404, and UNAVAILABLE for all others."""
    answer_headers: dict[str, str] = field(default_factory=dict)
    """What an answer by HTTP has in addition."""
    paths: tuple[str, ...] | None = None
    """The only paths that take something over HTTP; all others are answered with 404."""
    latency: float = 0.0
    """Seconds until the answer; cut short when the sink closes."""
    closing: threading.Event = field(default_factory=threading.Event)
    patience: list[float] = field(default_factory=list)
    """Seconds for which the client of each gRPC call waits for an answer, or a bit less."""

    @property
    def spans(self) -> list[Span]:
        """All spans that were accepted, in the order of arrival."""
        return [
            span
            for request in list(self.requests)
            for resource_spans in request.message.resource_spans
            for scope_spans in resource_spans.scope_spans
            for span in scope_spans.spans
        ]

    @property
    def metrics(self) -> list[tuple[dict[str, str], Metric]]:
        """All metrics that were accepted, in the order of arrival, with their resource."""
        return [
            ({i.key: i.value.string_value for i in resource_metrics.resource.attributes}, metric)
            for request in list(self.metric_requests)
            for resource_metrics in request.message.resource_metrics
            for scope_metrics in resource_metrics.scope_metrics
            for metric in scope_metrics.metrics
        ]

    @property
    def logs(self) -> list[LogRecord]:
        """All log records that were accepted, in the order of arrival.

        Reports of runs that have not ended are left out: how many there are depends on the time.
        """
        return [
            record
            for request in list(self.log_requests)
            for resource_logs in request.message.resource_logs
            for scope_logs in resource_logs.scope_logs
            if scope_logs.scope.name != semconv.RUNS_SCOPE
            for record in scope_logs.log_records
        ]

    @property
    def resources(self) -> list[dict[str, str]]:
        """The string attributes of each resource that was received."""
        return [
            {item.key: item.value.string_value for item in resource_spans.resource.attributes}
            for request in list(self.requests)
            for resource_spans in request.message.resource_spans
        ]

    def wait_for_spans(self, count: int, timeout: float = 20.0) -> list[Span]:
        """Return all spans once there are `count`, or those received after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while len(self.spans) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.spans

    def accept(self, request: Request) -> bool:
        """Keep a request and return whether to answer with success."""
        self.closing.wait(self.latency)
        if self.status == 200:
            requests: dict[type[Any], list[Request]] = {
                ExportTraceServiceRequest: self.requests,
                ExportMetricsServiceRequest: self.metric_requests,
                ExportLogsServiceRequest: self.log_requests,
            }
            requests[type(request.message)].append(request)
        return self.status == 200


_GRPC_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.UNIMPLEMENTED,
}


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for localhost and 127.0.0.1, as PEM files."""

    certificate: Path
    key: Path


@contextmanager
def http_sink(tls: Certificate | None = None) -> Iterator[Sink]:
    """Receive OTLP over HTTP with protobuf, plain or gzipped; `endpoint` is the base URL."""
    sink = Sink()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            packed = headers.get("content-encoding") == "gzip"
            unpacked = gzip.decompress(body) if packed else body
            kinds: dict[str, Any] = {
                "metrics": ExportMetricsServiceRequest,
                "logs": ExportLogsServiceRequest,
            }
            kind = kinds.get(self.path.rpartition("/")[2], ExportTraceServiceRequest)
            sink.accept(Request(self.path, headers, kind.FromString(unpacked), body))
            is_there = sink.paths is None or self.path in sink.paths
            answer = ExportTraceServiceResponse().SerializeToString()  # all answers are empty
            self.send_response(sink.status if is_there else 404)
            for header in {"Content-Type": "application/x-protobuf", **sink.answer_headers}.items():
                self.send_header(*header)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: object) -> None:  # clients that give up are part of the tests
            pass

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    sink.endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield sink
    finally:
        sink.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextmanager
def grpc_sink(tls: Certificate | None = None, port: int = 0) -> Iterator[Sink]:
    """Receive OTLP over gRPC; `endpoint` is a URL, as the exporters expect it."""
    sink = Sink()

    def accept(message: Any, context: Any) -> None:
        headers = {item.key: str(item.value) for item in context.invocation_metadata()}
        sink.patience.append(context.time_remaining())
        if not sink.accept(Request("Export", headers, message)):
            code = _GRPC_CODES.get(sink.status, grpc.StatusCode.UNAVAILABLE)
            context.abort(code, f"status {sink.status}")

    class Traces(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(  # noqa: N802
            self, message: ExportTraceServiceRequest, context: Any
        ) -> ExportTraceServiceResponse:
            accept(message, context)
            return ExportTraceServiceResponse()

    class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
        def Export(  # noqa: N802
            self, message: ExportMetricsServiceRequest, context: Any
        ) -> ExportMetricsServiceResponse:
            accept(message, context)
            return ExportMetricsServiceResponse()

    class Logs(logs_service_pb2_grpc.LogsServiceServicer):
        def Export(  # noqa: N802
            self, message: ExportLogsServiceRequest, context: Any
        ) -> ExportLogsServiceResponse:
            accept(message, context)
            return ExportLogsServiceResponse()

    server = grpc.server(futures.ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), server)  # type: ignore[no-untyped-call]
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Metrics(), server)  # type: ignore[no-untyped-call]
    logs_service_pb2_grpc.add_LogsServiceServicer_to_server(Logs(), server)  # type: ignore[no-untyped-call]
    if tls is None:
        port = server.add_insecure_port(f"127.0.0.1:{port}")
    else:
        pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
        port = server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([pair]))
    sink.endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    server.start()
    try:
        yield sink
    finally:
        sink.closing.set()
        server.stop(0).wait(5)


UNBOUNDED = 600
"""An exporter's timeout that no test waits for: what ends sooner has ended by another limit."""


@contextmanager
def silent_endpoint() -> Iterator[str]:
    """Yield the URL of an endpoint that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def refusing_endpoint() -> Iterator[str]:
    """Yield the URL of an endpoint that refuses connections: a bound port without a listener."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@dataclass
class Relay:
    """The endpoint of a relay, and the number of bytes that the client has sent."""

    endpoint: str = ""
    sent: int = 0


@contextmanager
def relay(endpoint: str) -> Iterator[Relay]:
    """Forward one client to a sink and count bytes, since gRPC does not say what it compressed."""
    host, _, port = endpoint.removeprefix("http://").partition(":")
    counted = Relay()

    def pump(source: socket.socket, target: socket.socket, *, count: bool) -> None:
        try:
            while data := source.recv(65536):
                counted.sent += len(data) if count else 0
                target.sendall(data)
        except OSError:
            pass

    def serve(server: socket.socket) -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            upstream = socket.create_connection((host, int(port)), 10)
            for source, target, count in ((client, upstream, True), (upstream, client, False)):
                threading.Thread(
                    target=pump, args=(source, target), kwargs={"count": count}, daemon=True
                ).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        counted.endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        yield counted


def self_signed_certificate(folder: Path) -> Certificate:
    """Write a certificate, valid for a day, that is its own certificate authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.timezone.utc)
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = Certificate(folder / "certificate.pem", folder / "key.pem")
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files
