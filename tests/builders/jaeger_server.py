"""A replacement for Jaeger on loopback: the part of its query API that flowspan uses.

It answers in the shape of ``cmd/jaeger/internal/extension/jaegerquery/internal`` of Jaeger 2.20,
from a file of OTLP JSON lines, and records the requests.
"""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from sinks import Certificate

Answer = tuple[int, bytes, dict[str, str]]
"""Status, body and headers."""


@dataclass
class Jaeger:
    """Its traces, its answers and the requests; all may change while it runs.

    Attributes:
        url: Its URL, including the base path.
        file: Its storage: OTLP JSON lines, read at each request.
        has_summaries: Whether it is 2.19 or newer.
        has_search: Whether it respects the time and the limit of a search. Most tests have few
            traces, of another year.
        answer: Replaces every answer, if set.
        asked: Path, query and headers (lower-case names) of each request.
    """

    url: str
    file: Path
    base_path: str = ""
    has_summaries: bool = True
    has_search: bool = False
    answer: Callable[[str], Answer] | None = None
    asked: list[tuple[str, dict[str, str], dict[str, str]]] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        """The paths of all requests, below the API's."""
        return [path.removeprefix(f"{self.base_path}/api/") for path, _, _ in self.asked]

    def respond(self, path: str, query: dict[str, str]) -> Answer:
        """Answer one request."""
        if self.answer is not None:
            return self.answer(path)
        match path.removeprefix(f"{self.base_path}/api/").split("/"):
            case ["v3", "services"]:
                services = {service(resource) for resource, _ in self._spans()}
                return _ok({"services": sorted(services)})
            case ["v3", "traces", trace_id]:
                return self._trace(trace_id)
            case ["v3", "trace-summaries"] if self.has_summaries:
                assert {"query.startTimeMin", "query.startTimeMax"} <= query.keys()
                found = self._matching(query["query.serviceName"], query["query.attributes"])
                times = (query[f"query.startTime{name}"] for name in ("Min", "Max"))
                start, end = (datetime.fromisoformat(time).timestamp() for time in times)
                found = self._newest(found, start, end, query["query.searchDepth"])
                return _ok({"summaries": [*map(self._summary, found)]})
            case ["traces"]:
                assert int(query["start"]) < int(query["end"])
                found = self._matching(query["service"], query["tags"])
                start, end = (int(query[name]) / 1e6 for name in ("start", "end"))
                found = self._newest(found, start, end, query["limit"])
                return _ok({"data": [*map(self._trace_for_ui, found)], "errors": None})
        # Since 2.16 this is 404 below /api/; before, and elsewhere, it is the page of the UI.
        return 200, b"<!DOCTYPE html><title>Jaeger UI</title>", {"Content-Type": "text/html"}

    def _spans(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        for line in self.file.read_text().splitlines() if self.file.exists() else ():
            for owner in json.loads(line)["resourceSpans"]:
                for scope in owner["scopeSpans"]:
                    for span in scope["spans"]:
                        yield owner.get("resource", {}), span

    def _matching(self, wanted_service: str, wanted_attributes: str) -> set[str]:
        wanted = json.loads(wanted_attributes).items()
        return {
            span["traceId"]
            for resource, span in self._spans()
            if service(resource) == wanted_service and wanted <= strings(span).items()
        }

    def _newest(self, ids: set[str], start: float, end: float, limit: str) -> set[str]:
        """Return that many of the traces that started in a time, the last ones."""
        if not self.has_search:
            return ids
        starts: dict[str, float] = {}
        for _, span in self._spans():
            if (trace_id := span["traceId"]) in ids:
                started = int(span["startTimeUnixNano"]) / 1e9
                starts[trace_id] = min(starts.get(trace_id, started), started)
        within = [one for one in starts if start <= starts[one] <= end]
        return {*sorted(within, key=starts.__getitem__)[-int(limit) :]}

    def _trace(self, trace_id: str) -> Answer:
        found = [
            {"resource": resource, "scopeSpans": [{"scope": {}, "spans": [span]}]}
            for resource, span in self._spans()
            if span["traceId"] == trace_id
        ]
        if not found:
            error = {"error": {"httpCode": 404, "message": "No traces found"}}
            return 404, json.dumps(error).encode(), {"Content-Type": "text/plain; charset=utf-8"}
        return _ok({"result": {"resourceSpans": found}})

    def _trace_for_ui(self, trace_id: str) -> dict[str, Any]:
        spans = [span for _, span in self._spans() if span["traceId"] == trace_id]
        return {
            "traceID": trace_id,
            "spans": [
                {
                    "traceID": trace_id,
                    "spanID": span["spanId"],
                    "operationName": span["name"],
                    "references": [{"refType": "CHILD_OF"}] if span.get("parentSpanId") else [],
                    "startTime": (start := int(span["startTimeUnixNano"]) // 1_000),
                    "duration": int(span["endTimeUnixNano"]) // 1_000 - start,
                }
                for span in spans
            ],
        }

    def _summary(self, trace_id: str) -> dict[str, Any]:
        spans = [span for _, span in self._spans() if span["traceId"] == trace_id]
        root = next((span for span in spans if not span.get("parentSpanId")), {})
        return {
            "traceId": trace_id,
            "rootServiceName": "nightly",
            "rootOperationName": root.get("name", ""),
            "minStartTimeUnixNano": min((span["startTimeUnixNano"] for span in spans), key=int),
            "maxEndTimeUnixNano": max((span["endTimeUnixNano"] for span in spans), key=int),
            "spanCount": len(spans),
        }


def service(resource: dict[str, Any]) -> str:
    """Return the name of a resource's service."""
    return strings(resource).get("service.name", "")


def strings(owner: dict[str, Any]) -> dict[str, str]:
    """Return the attributes that are text."""
    items = owner.get("attributes", [])
    return {i["key"]: i["value"]["stringValue"] for i in items if "stringValue" in i["value"]}


def _ok(document: dict[str, Any]) -> Answer:
    return 200, json.dumps(document).encode(), {"Content-Type": "application/json"}


@contextmanager
def jaeger_server(
    file: Path, base_path: str = "", tls: Certificate | None = None
) -> Iterator[Jaeger]:
    """Serve the traces in a file like Jaeger; answers come in chunks."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(url.query).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            jaeger.asked.append((url.path, query, headers))
            status, body, answer_headers = jaeger.respond(url.path, query)
            self.send_response(status)
            for name, value in answer_headers.items():
                self.send_header(name, value)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(body), 1_000):
                chunk = body[start : start + 1_000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme = "https" if tls else "http"
    jaeger = Jaeger(f"{scheme}://127.0.0.1:{server.server_port}{base_path}", file, base_path)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield jaeger
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
