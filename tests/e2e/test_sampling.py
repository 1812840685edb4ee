"""Tail sampling keeps important traces, whatever the share, and everything is counted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import grpc  # type: ignore[import-untyped]
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from flowspan import semconv
from otlp import QUICK, calls, layer, request, send
from running import Collector, running, wait_for
from sinks import Sink, grpc_sink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PLAIN, FAILED, SLOW, VIOLATING, UNFINISHED = range(1, 6)
KEPT = {FAILED, SLOW, VIOLATING, UNFINISHED}


@pytest.fixture
def sink() -> Iterator[Sink]:
    with grpc_sink() as each:
        yield each


def collector_for(sink: Sink, folder: Path, **variables: str) -> Collector:
    return Collector(
        folder,
        *("tail-sampling", "jaeger", layer(folder, "quick", QUICK)),
        JAEGER_ENDPOINT=sink.endpoint.removeprefix("http://"),
        COLLECTOR_SAMPLING_SLOW_MS="60000",
        **variables,
    )


def traces() -> ExportTraceServiceRequest:
    """Return one trace of each kind: a root and a child. Roots are slow, children fail."""
    made = request(10)
    spans = made.resource_spans[0].scope_spans[0].spans
    for root, child in zip(spans[:5], spans[5:], strict=True):
        child.trace_id = root.trace_id
        child.parent_span_id = root.span_id
    spans[5 + FAILED - 1].status.code = Status.STATUS_CODE_ERROR
    spans[SLOW - 1].start_time_unix_nano -= 61 * 10**9
    spans[VIOLATING - 1].events.add(name=semconv.SLO_VIOLATED)
    del spans[UNFINISHED - 1]
    return made


def kept(sink: Sink) -> dict[int, int]:
    """Return how many spans of each trace the backend has."""
    found: dict[int, int] = {}
    for span in sink.spans:
        trace = int.from_bytes(span.trace_id, "big")
        found[trace] = found.get(trace, 0) + 1
    return found


@pytest.mark.parametrize(("percent", "others"), [("0", set()), ("100", {PLAIN})])
def test_what_is_kept(percent: str, others: set[int], sink: Sink, tmp_path: Path) -> None:
    """Failed, slow, violating and unfinished traces are kept whole, and a share of the rest."""
    collector = collector_for(
        sink, tmp_path, COLLECTOR_SAMPLING_PERCENT=percent, COLLECTOR_SAMPLING_WAIT="2s"
    )
    with running(collector):
        assert send(collector.endpoint(), traces()) is grpc.StatusCode.OK
        wait_for(lambda: kept(sink).keys() >= KEPT, 20, "what is kept")
        time.sleep(3)  # longer than all that could still be under way
        counted = calls(collector, "made")
    assert kept(sink) == {**dict.fromkeys(KEPT | others, 2), UNFINISHED: 1}
    assert counted == 9
    marks = [a.key for span in sink.spans for a in span.attributes if a.key.startswith("flowspan.")]
    assert marks == []


def test_collector_that_is_stopped(sink: Sink, tmp_path: Path) -> None:
    """Undecided traces are decided before a Collector ends."""
    collector = collector_for(
        sink, tmp_path, COLLECTOR_SAMPLING_PERCENT="0", COLLECTOR_SAMPLING_WAIT="10m"
    )
    with running(collector):
        assert send(collector.endpoint(), traces()) is grpc.StatusCode.OK
        time.sleep(1.5)
        assert sink.spans == []
        collector.stop()
        collector.start()
        wait_for(lambda: kept(sink).keys() >= KEPT, 20, "what is kept")
        time.sleep(1.5)
    assert kept(sink).keys() == KEPT
