"""Failures: data that the Collector has accepted arrives, or its metrics say what is lost.

The flow is never affected. These tests prove the table in docs/collector.md.
"""

from __future__ import annotations

import gzip
import json
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import grpc  # type: ignore[import-untyped]
import pytest

from otlp import (
    QUICK,
    Flow,
    arrived,
    calls,
    ids,
    layer,
    request,
    run_flow,
    send,
    wait_for_ids,
)
from running import Collector, Jaeger, free_ports, read, running, wait_for
from sinks import grpc_sink

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    from sinks import Sink

SMALLEST_QUEUE = 262144  # no smaller than a batch
MIB = 2**20
DROPPED = "Telemetry is being dropped"


def collector_for(port: int, folder: Path, **variables: str) -> Collector:
    """Return a Collector whose backend is, or will be, at this port."""
    layers = "jaeger", layer(folder, "quick", QUICK)
    return Collector(folder / "c", *layers, JAEGER_ENDPOINT=f"127.0.0.1:{port}", **variables)


def port_of(sink: Sink) -> int:
    return int(sink.endpoint.rpartition(":")[2])


def is_once(sink: Sink, expected: set[str], seconds: float = 40) -> bool:
    """Return whether exactly these spans arrive, each once."""
    came = wait_for_ids(sink, expected, seconds)
    return came.keys() == expected and set(came.values()) == {1}


# The backend


def restart(collector: Collector) -> None:
    """Restart the Collector, first like an operator, then after a crash."""
    collector.stop()
    collector.start()
    collector.kill()
    collector.start()


@pytest.mark.parametrize("meanwhile", [Collector.endpoint, restart], ids=["alone", "restart"])
def test_backend_that_is_down(
    meanwhile: Callable[[Collector], object], prefect_server: str, tmp_path: Path
) -> None:
    """Everything arrives once when the backend is up, even if the Collector was restarted."""
    (port,) = free_ports(1)
    collector = collector_for(port, tmp_path)
    with running(collector):
        flow, said = run_flow(prefect_server, tmp_path / "f", collector.endpoint())
        meanwhile(collector)
        with grpc_sink(port=port) as sink:
            assert is_once(sink, flow.spans)
    assert len(flow.spans) == 6
    assert DROPPED not in said


def test_slow_backend(prefect_server: str, tmp_path: Path) -> None:
    """A slow backend gets each span once, and the flow does not wait for it."""
    with grpc_sink() as sink:
        collector = collector_for(port_of(sink), tmp_path)
        with running(collector):
            sink.latency = 7  # more than the 5 s after which the exporter gives up by default
            flow, said = run_flow(prefect_server, tmp_path / "f", collector.endpoint())
            wait_for(lambda: confirmed(collector) == len(flow.spans), 30, "the last answer")
            assert is_once(sink, flow.spans)
    assert DROPPED not in said


def confirmed(collector: Collector) -> float:
    """Return how many spans the backend has confirmed."""
    return collector.own_metrics().get("otelcol_exporter_sent_spans_total", 0)


def test_full_queue(prefect_server: str, tmp_path: Path) -> None:
    """Spans that do not fit the queue are refused and counted; accepted ones arrive once."""
    (port,) = free_ports(1)
    collector = collector_for(port, tmp_path, COLLECTOR_QUEUE_BYTES=str(SMALLEST_QUEUE))
    taken: set[str] = set()
    refused = 0
    with running(collector):
        number = 0
        for size in (40_000, 4_000, 400, 0):
            answer = grpc.StatusCode.OK
            while answer is grpc.StatusCode.OK:
                number += 1
                made = request(1, number, size=size)
                answer = send(collector.endpoint(), made)
                taken |= ids(made) if answer is grpc.StatusCode.OK else set()
            assert answer is grpc.StatusCode.UNAVAILABLE
            refused += 1
        counted = collector.own_metrics(exporter="otlp/jaeger")
        assert counted["otelcol_exporter_enqueue_failed_spans_total"] == refused
        assert collector.own_metrics()["otelcol_receiver_refused_spans_total"] == refused

        _, said = run_flow(prefect_server, tmp_path / "f", collector.endpoint())
        assert said.count("dropped: traces do not reach") == 1
        assert said.count(DROPPED) == 1
        with grpc_sink(port=port) as sink:
            assert is_once(sink, taken)
            again = request(1, 10_000)
            assert send(collector.endpoint(), again) is grpc.StatusCode.OK
            assert is_once(sink, taken | ids(again))
        # Other readers of the same spans got those that did not fit this queue.
        sent = len(taken) + refused + 1
        wait_for(lambda: calls(collector, "made") == sent, 10, f"count of {sent} spans")


# The Collector


def test_killed_while_a_flow_runs(prefect_server: str, tmp_path: Path) -> None:
    """A Collector that is killed and restarted loses nothing; data in flight may come twice."""
    with grpc_sink() as sink:
        collector = collector_for(port_of(sink), tmp_path)
        with running(collector):
            flow = Flow(prefect_server, tmp_path / "f", collector.endpoint(), steps=40)
            wait_for(lambda: len(sink.spans) > 5, 60, "the first spans")
            collector.kill()
            time.sleep(1)
            collector.start()
            said = flow.wait()
            came = wait_for_ids(sink, flow.spans)
    assert came.keys() == flow.spans
    assert len(flow.spans) == 41
    assert max(came.values()) <= 2
    assert DROPPED not in said


def test_killed_while_it_sends(tmp_path: Path) -> None:
    """Data that the backend accepted but did not confirm is sent again: at least once."""
    with grpc_sink() as sink:
        collector = collector_for(port_of(sink), tmp_path)
        sent = request(10)
        with running(collector):
            sink.latency = 3
            assert send(collector.endpoint(), sent) is grpc.StatusCode.OK
            time.sleep(2)  # a batch waits for 1 s
            assert sink.spans == []
            collector.kill()
            wait_for(lambda: sink.spans, 10, "the first copy")
            sink.latency = 0
            collector.start()
            wait_for(lambda: len(sink.spans) > 10, 20, "the second copy")
            came = wait_for_ids(sink, ids(sent))
    assert set(came.values()) == {2}


def test_span_that_comes_twice(tmp_path: Path) -> None:
    """Jaeger shows it once."""
    jaeger = Jaeger(tmp_path)
    twice = request(1)
    (span,) = twice.resource_spans[0].scope_spans[0].spans
    url = f"{jaeger.url}/api/traces/{span.trace_id.hex()}"
    with running(jaeger):
        for _ in range(2):
            assert send(f"http://127.0.0.1:{jaeger.otlp}", twice) is grpc.StatusCode.OK
            time.sleep(1)  # it collects for 200 ms
        (trace,) = wait_for(lambda: json.loads(read(url))["data"], 10, "the trace")
    assert len(trace["spans"]) == 1


def test_collector_that_is_away(prefect_server: str, tmp_path: Path) -> None:
    """The flow ends well and in time, one line says what is lost, and its files have it all."""
    collector = collector_for(1, tmp_path)
    began = time.monotonic()
    flow, said = run_flow(prefect_server, tmp_path / "f", collector.endpoint())
    assert time.monotonic() - began < 60
    for signal in ("traces", "metrics", "logs"):
        assert said.count(f"dropped: {signal} do not reach {collector.endpoint()}") == 1
    assert len(flow.spans) == 6


def test_no_memory_left(tmp_path: Path) -> None:
    """Over its limit the Collector refuses and counts, and keeps nothing that it refuses."""
    with grpc_sink() as sink:
        collector = collector_for(port_of(sink), tmp_path, COLLECTOR_MEMORY_MIB="5")
        with running(collector):
            wait_for(lambda: is_refused(collector, request(1)), 20, "refusal")
            before = collector.own_metrics()["otelcol_receiver_refused_spans_total"]
            late = request(7, 100)
            assert is_refused(collector, late)
            counted = collector.own_metrics()["otelcol_receiver_refused_spans_total"]
            assert counted - before == 7
            time.sleep(1.5)  # a batch waits for 1 s
            assert not ids(late) & arrived(sink.spans).keys()


def is_refused(collector: Collector, message: ExportTraceServiceRequest) -> bool:
    """Return whether a request is refused; the limiter checks the memory once a second."""
    answer = send(collector.endpoint(), message)
    assert answer in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
    return answer is grpc.StatusCode.UNAVAILABLE


# The sender


def post(collector: Collector, body: bytes, **headers: str) -> int:
    """Send a body over HTTP; return the answer's status, or 0 if it was cut off."""
    url = f"{collector.endpoint('http/protobuf')}/v1/traces"
    headers = {"Content-Type": "application/x-protobuf", **headers}
    asked = urllib.request.Request(url, body, headers)  # noqa: S310 - loopback
    try:
        with urllib.request.urlopen(asked, timeout=30) as response:  # noqa: S310 - as above
            status: int = response.status
    except urllib.error.HTTPError as error:
        return error.code
    except urllib.error.URLError:
        return 0
    return status


def test_malformed_request(tmp_path: Path) -> None:
    """The answer says so and is counted, and the next request is accepted."""
    with grpc_sink() as sink:
        collector = collector_for(port_of(sink), tmp_path)
        with running(collector):
            assert send(collector.endpoint(), b"garbage") is grpc.StatusCode.INTERNAL
            assert post(collector, b"garbage") == 400
            good = request(1)
            assert send(collector.endpoint(), good) is grpc.StatusCode.OK
            assert is_once(sink, ids(good))
            assert answers(collector) == (1, 1)


def test_request_of_64_mib(tmp_path: Path) -> None:
    """It is refused, compressed or not, without taking the memory that it would need."""
    big = request(64, size=MIB).SerializeToString()
    with grpc_sink() as sink:
        collector = collector_for(port_of(sink), tmp_path)
        with running(collector):
            code = send(collector.endpoint(), big)
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            # The answer comes before everything is sent, and the connection is closed.
            assert post(collector, big) in (0, 400)
            packed = gzip.compress(big, 1)
            assert len(packed) < MIB
            assert post(collector, packed, **{"Content-Encoding": "gzip"}) == 400
            good = request(1, 1000)
            assert send(collector.endpoint(), good) is grpc.StatusCode.OK
            assert is_once(sink, ids(good))
            assert answers(collector, "8") == (1, 2)
            assert peak_memory(collector) < 256 * MIB


def answers(collector: Collector, code: str = "13") -> tuple[float, float]:
    """Return how many requests the Collector answered with an error, over gRPC and HTTP."""
    over_grpc = collector.own_metrics(rpc_grpc_status_code=code)
    over_http = collector.own_metrics(http_response_status_code="400")
    return (
        over_grpc["rpc_server_duration_milliseconds_count"],
        over_http["http_server_request_duration_seconds_count"],
    )


def peak_memory(collector: Collector) -> int:
    status = Path(f"/proc/{collector.pid}/status").read_text()
    return int(re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)[0]) * 1024
