"""The spans that tests send to a Collector, their own or a flow's, and those that arrived."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import grpc  # type: ignore[import-untyped]
import httpx
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import programs
from support import context, embedded_spans

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from running import Collector
    from sinks import Sink

FLOW = programs.ROOT / "tests" / "flows" / "lasting.py"


class Flow:
    """A real flow in a separate process: it sends to `endpoint`, and writes to `folder`."""

    def __init__(
        self,
        api: str,
        folder: Path,
        endpoint: str,
        *,
        steps: int = 5,
        seconds: float = 0.1,
        **variables: str,
    ) -> None:
        both = {f"OTEL_{name}_EXPORTER": "embedded,otlp" for name in ("TRACES", "METRICS", "LOGS")}
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, str(FLOW), str(steps), str(seconds)],
            env={
                **os.environ,
                "PREFECT_API_URL": api,
                "FLOWSPAN_DIR": str(folder),
                "NO_PROXY": "127.0.0.1,localhost",
                "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
                "OTEL_BSP_SCHEDULE_DELAY": "200",  # sends while it runs, not only at its end
                **both,
                **variables,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._api = api

    def wait(self, seconds: float = 90) -> str:
        """Check that the flow was not affected; return its stderr."""
        try:
            output, said = self._process.communicate(timeout=seconds)
        finally:
            self._process.kill()
        assert self._process.returncode == 0, said
        run = httpx.get(f"{self._api}/flow_runs/{output.strip()}", timeout=30).json()
        assert run["state"]["type"] == "COMPLETED", run["state"]
        return said

    @property
    def spans(self) -> set[str]:
        """The ids of its spans, from its embedded files."""
        return {f"{context(span).span_id:016x}" for span in embedded_spans(self._folder).all}


def run_flow(api: str, folder: Path, endpoint: str, **arguments: Any) -> tuple[Flow, str]:
    """Run it to its end; return it and its stderr."""
    flow = Flow(api, folder, endpoint, **arguments)
    return flow, flow.wait()


def arrived(spans: Iterable[Span]) -> Counter[str]:
    """Return how often each span arrived, by its id."""
    return Counter(span.span_id.hex() for span in spans)


def wait_for_ids(sink: Sink, ids: set[str], seconds: float = 30) -> Counter[str]:
    """Wait until all of these have arrived and could have arrived twice; return the counts.

    Raises:
        TimeoutError: They did not arrive in time.
    """
    deadline = time.monotonic() + seconds
    while missing := ids - arrived(sink.spans).keys():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(missing)} of {len(ids)} spans did not come")
        time.sleep(0.1)
    time.sleep(1.5)  # a batch waits for 1 s at most
    return arrived(sink.spans)


def request(count: int, first: int = 1, *, size: int = 0) -> ExportTraceServiceRequest:
    """Return spans whose ids count up from `first`, each with an attribute of `size` bytes."""
    message = ExportTraceServiceRequest()
    resource_spans = message.resource_spans.add()
    service = resource_spans.resource.attributes.add(key="service.name")
    service.value.string_value = "made"
    scope = resource_spans.scope_spans.add()
    now = time.time_ns()
    for number in range(first, first + count):
        span = scope.spans.add(
            name="made",
            trace_id=number.to_bytes(16, "big"),
            span_id=number.to_bytes(8, "big"),
            start_time_unix_nano=now - 1_000_000,
            end_time_unix_nano=now,
        )
        if size:
            span.attributes.add(key="padding").value.string_value = "x" * size
    return message


def ids(message: ExportTraceServiceRequest) -> set[str]:
    """Return the ids of a request's spans."""
    scopes = (scope for each in message.resource_spans for scope in each.scope_spans)
    return {span.span_id.hex() for scope in scopes for span in scope.spans}


def send(endpoint: str, message: ExportTraceServiceRequest | bytes) -> grpc.StatusCode:
    """Send a request once, over gRPC without TLS; return the answer's status."""
    # Larger than gRPC's default limit.
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(endpoint.removeprefix("http://"), options=options) as channel:
        return export(channel, message)


def export(
    channel: Any,
    message: ExportTraceServiceRequest | bytes,
    metadata: Sequence[tuple[str, str]] = (),
) -> grpc.StatusCode:
    """Send a request, or bytes that may not be one, once; return the answer's status."""
    data = message if isinstance(message, bytes) else message.SerializeToString()
    call = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
    try:
        call(data, timeout=30, metadata=metadata)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def calls(collector: Collector, name: str) -> float:
    """Return how many spans of this name the span metrics have counted."""
    found = re.findall(
        rf'^traces_span_metrics_calls_total{{.*span_name="{name}".*}} (\S+)',
        collector.prometheus(),
        re.MULTILINE,
    )
    return sum(map(float, found))


def layer(folder: Path, name: str, content: dict[str, Any]) -> str:
    """Write a layer for one test; return the name that `Collector` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return str(folder / name)


QUICK = {
    # The first interval shows zeros.
    "connectors": {"spanmetrics": {"metrics_flush_interval": "1s"}},
    # At first 5 s, later 30 s.
    "exporters": {
        "otlp/jaeger": {"retry_on_failure": {"initial_interval": "500ms", "max_interval": "1s"}}
    },
}
"""A layer for tests that do not wait long."""
