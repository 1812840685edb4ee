"""A replacement for Datadog's intake: accepts the `datadog` exporter's requests, and decodes them.

The payloads have the vendor's own format. Protobuf skips fields that are not named here: only those
that tests use are.
"""

from __future__ import annotations

import gzip
import json
import math
import threading
import zlib
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import msgpack  # type: ignore[import-untyped]
from google.protobuf import (  # type: ignore[import-untyped]
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Messages, fields, numbers and types; [] is repeated, {} is a map from strings.
PAYLOADS = {
    "AgentPayload": {"tracerPayloads": (5, "[]TracerPayload")},
    "TracerPayload": {
        "chunks": (6, "[]TraceChunk"),
        "env": (8, "string"),
        "hostname": (9, "string"),
        "appVersion": (10, "string"),
    },
    "TraceChunk": {"priority": (1, "int32"), "spans": (3, "[]Span")},
    "Span": {
        "service": (1, "string"),
        "name": (2, "string"),
        "resource": (3, "string"),
        "traceID": (4, "uint64"),
        "spanID": (5, "uint64"),
        "parentID": (6, "uint64"),
        "start": (7, "int64"),
        "duration": (8, "int64"),
        "error": (9, "int32"),
        "meta": (10, "{}string"),
        "metrics": (11, "{}double"),
    },
    "MetricPayload": {"series": (1, "[]MetricSeries")},
    "MetricSeries": {
        "resources": (1, "[]Resource"),
        "metric": (2, "string"),
        "tags": (3, "[]string"),
        "points": (4, "[]MetricPoint"),
        "type": (5, "int32"),  # an enumeration
    },
    "Resource": {"type": (1, "string"), "name": (2, "string")},
    "MetricPoint": {"value": (1, "double"), "timestamp": (2, "int64")},
    "SketchPayload": {"sketches": (1, "[]Sketch")},
    "Sketch": {
        "metric": (1, "string"),
        "host": (2, "string"),
        "tags": (4, "[]string"),
        "dogsketches": (7, "[]Dogsketch"),
    },
    "Dogsketch": {
        "ts": (1, "int64"),
        "cnt": (2, "int64"),
        "sum": (6, "double"),
        "k": (7, "[]sint32"),
        "n": (8, "[]uint32"),
    },
}


def _messages() -> dict[str, Any]:
    """Return the message classes of `PAYLOADS`."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="datadog.proto", package="dd", syntax="proto3")

    def add(message: Any, name: str, number: int, kind: str) -> None:
        label = kinds.LABEL_REPEATED if kind[:2] in ("[]", "{}") else kinds.LABEL_OPTIONAL
        added = message.field.add(name=name, number=number, label=label)
        if kind.startswith("{}"):
            entry = message.nested_type.add(name=f"{name[0].upper()}{name[1:]}Entry")
            entry.options.map_entry = True
            add(entry, "key", 1, "string")
            add(entry, "value", 2, kind[2:])
            added.type, added.type_name = kinds.TYPE_MESSAGE, f".dd.{message.name}.{entry.name}"
        elif (plain := kind.removeprefix("[]")) in PAYLOADS:
            added.type, added.type_name = kinds.TYPE_MESSAGE, f".dd.{plain}"
        else:
            added.type = kinds.Type.Value(f"TYPE_{plain.upper()}")

    for name, fields in PAYLOADS.items():
        message = file.message_type.add(name=name)
        for key, (number, kind) in fields.items():
            add(message, key, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"dd.{name}"))
        for name in PAYLOADS
    }


MESSAGES = _messages()
UNPACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "deflate": zlib.decompress,
    "gzip": gzip.decompress,
}


@dataclass(frozen=True)
class Measured:
    """One received series or distribution: a gauge's last value, or values to add up."""

    metric: str
    host: str
    tags: frozenset[str]
    kind: str
    seconds: int
    """Its time, in seconds since the epoch."""
    value: float
    """For a distribution, the sum."""
    count: int = 1
    values: tuple[float, ...] = ()
    """For a distribution, its values, to within one per cent."""


@dataclass
class Intake:
    """The accepted data, in the order of arrival, and how to answer."""

    key: str
    """Requests with another key are refused."""
    url: str = ""
    refusing: dict[str, int] = field(default_factory=dict)
    """How many requests to a path to answer with 503."""
    paths: Counter[str] = field(default_factory=Counter)
    """The paths of accepted requests."""
    strange: list[str] = field(default_factory=list)
    """Requests without the key, to unknown paths or other hosts, or that cannot be read."""
    payloads: list[Any] = field(default_factory=list)
    stats: list[dict[str, Any]] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    logs: list[dict[str, Any]] = field(default_factory=list)
    hosts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def spans(self) -> list[Any]:
        """All spans, from all payloads."""
        return [span for payload in self.payloads for c in payload.chunks for span in c.spans]

    def trace_metrics(self, what: str, service: str) -> Counter[tuple[str, str]]:
        """The counts of the trace metrics, by operation and resource, over all intervals."""
        found: Counter[tuple[str, str]] = Counter()
        buckets = [bucket for payload in self.stats for bucket in payload["Stats"]]
        for group in [group for bucket in buckets for group in bucket["Stats"]]:
            if group["Service"] == service:
                found[group["Name"], group["Resource"]] += group[what]
        return found

    def find(self, metric: str, *tags: str) -> list[Measured]:
        """The values with this name and at least these tags."""
        return [m for m in self.measured if m.metric == metric and m.tags.issuperset(tags)]


def _traces(found: Intake, body: bytes) -> None:
    found.payloads += MESSAGES["AgentPayload"].FromString(body).tracerPayloads


def _stats(found: Intake, body: bytes) -> None:
    found.stats += msgpack.unpackb(body)["Stats"]


def _logs(found: Intake, body: bytes) -> None:
    records = json.loads(body)
    if isinstance(records, list):  # the client probes with an object
        found.logs += map(_log, records)


def _metrics(found: Intake, body: bytes) -> None:
    if not body.startswith(b"{"):  # JSON is about the exporter itself
        for series in MESSAGES["MetricPayload"].FromString(body).series:
            found.measured += _series(series)


def _distributions(found: Intake, body: bytes) -> None:
    for sketch in MESSAGES["SketchPayload"].FromString(body).sketches:
        found.measured += _sketch(sketch)


TRACES, STATS, LOGS = "/api/v0.2/traces", "/api/v0.2/stats", "/api/v2/logs"
SERIES, SKETCHES = "/api/v2/series", "/api/beta/sketches"
VALIDATE, HOST = "/api/v1/validate", "/intake"
KEEP: dict[str, Callable[[Intake, bytes], object]] = {
    TRACES: _traces,
    STATS: _stats,
    LOGS: _logs,
    SERIES: _metrics,
    SKETCHES: _distributions,
    VALIDATE: lambda _, __: None,
    HOST: lambda found, body: found.hosts.append(json.loads(body)),
}


def _log(record: dict[str, Any]) -> dict[str, Any]:
    """Return a log record with the attributes in its message, which is JSON."""
    return {**record, **json.loads(record["message"])}


def _series(series: Any) -> Iterator[Measured]:
    host = "".join(each.name for each in series.resources if each.type == "host")
    kind = {1: "count", 2: "rate", 3: "gauge"}[series.type]
    for point in series.points:
        yield Measured(
            series.metric, host, frozenset(series.tags), kind, point.timestamp, point.value
        )


def _sketch(sketch: Any) -> Iterator[Measured]:
    for part in sketch.dogsketches:
        yield Measured(
            sketch.metric,
            sketch.host,
            frozenset(sketch.tags),
            "distribution",
            part.ts,
            part.sum,
            part.cnt,
            tuple(_value(k) for k, n in zip(part.k, part.n, strict=True) for _ in range(n)),
        )


def _value(key: int) -> float:
    """Return the value of a sketch's bin: its bounds grow by 1/64, from 1e-9."""
    if key == 0:
        return 0.0
    growth = 1 + 2 / 128
    bias = 1 - math.floor(math.log(1e-9) / math.log(growth))
    return math.copysign(growth ** (abs(key) - bias), key)


@contextmanager
def intake(key: str) -> Iterator[Intake]:
    """Listen on a free port of loopback."""
    found = Intake(key)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            url = urlsplit(self.path)
            with lock:
                status = self._status(url.path, url.query, body)
            answer = json.dumps({"valid": status < 400}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def _status(self, path: str, query: str, body: bytes) -> int:
            keys = self.headers.get_all("DD-API-KEY", [])
            if path == VALIDATE:  # one of the two clients sends it there
                keys += parse_qs(query).get("api_key", [])
            # Clients of a proxy send the host in the first line.
            if keys != [key] or path not in KEEP or not self.path.startswith("/"):
                found.strange.append(f"{self.command} {self.path}")
                return 403
            if found.refusing.get(path, 0) > 0:
                found.refusing[path] -= 1
                return 503
            try:
                KEEP[path](found, UNPACK[self.headers.get("Content-Encoding", "")](body))
            except Exception as error:
                found.strange.append(f"{path}: {error!r}")
                return 400
            found.paths[path] += 1
            return 202

        do_GET = do_POST = do_PUT = do_CONNECT = handle_any  # noqa: N815 - named by the library

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: object) -> None:  # a Collector that is killed hangs up
            pass

    server = Server(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
