"""The Collector replays flowspan's embedded files as if flows had sent them, once."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from otlp import layer, run_flow, wait_for_ids
from running import Collector, running, wait_for
from sinks import grpc_sink

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from sinks import Sink

ALL_SIGNALS = {
    "traces": "forward/sampled",
    "metrics": "forward/metrics",
    "logs": "forward/logs",
}
Series = tuple[str, tuple[str, ...]]


def collector_to(sink: Sink, folder: Path, *layers: str, **variables: str) -> Collector:
    """Return a Collector with a test layer that sends all signals to the sink."""
    endpoint = sink.endpoint.removeprefix("http://")
    own = {
        "exporters": {"otlp/sink": {"endpoint": endpoint, "tls": {"insecure": True}}},
        "service": {
            "pipelines": {
                f"{signal}/sink": {"receivers": [source], "exporters": ["otlp/sink"]}
                for signal, source in ALL_SIGNALS.items()
            }
        },
    }
    return Collector(folder, *layers, layer(folder, "sink", own), **variables)


def test_same_as_over_otlp(prefect_server: str, tmp_path: Path) -> None:
    """Replayed spans, logs and metrics are those that the same flow sent, once."""
    with grpc_sink() as sent, grpc_sink() as replayed:
        collector = collector_to(sent, tmp_path / "c")
        with running(collector):
            flow, _ = run_flow(prefect_server, tmp_path / "f", collector.endpoint())
            sent_ids = flow.spans
            wait_for_ids(sent, sent_ids)
        # With a memory limit that is always exceeded: refused lines would not be read again.
        variables = {"FLOWSPAN_DIR": str(tmp_path / "late"), "COLLECTOR_MEMORY_MIB": "5"}
        again = collector_to(replayed, tmp_path / "r", "replay", **variables)
        with running(again):
            wait_for(lambda: "Memory usage is above" in again.log.read_text(), 20, "the limit")
            (tmp_path / "f").rename(tmp_path / "late")
            came = wait_for_ids(replayed, sent_ids)
            wait_for(lambda: len(replayed.logs) >= len(sent.logs), 20, "log records")
            wait_for(lambda: totals(replayed).keys() >= totals(sent).keys(), 20, "metrics")
            assert totals(replayed) == totals(sent)
    assert came.keys() == sent_ids
    assert set(came.values()) == {1}
    assert as_set(replayed.spans) == as_set(sent.spans)
    assert as_set(replayed.logs) == as_set(sent.logs)
    assert {name for name, _ in totals(sent)} >= {"prefect.flow.runs", "prefect.task.run.duration"}


def test_files_that_rotate(prefect_server: str, tmp_path: Path) -> None:
    """Everything arrives once, even if files are renamed while the Collector reads or is down."""
    small = {
        "FLOWSPAN_FILE_MAX_BYTES": "6000",
        "FLOWSPAN_FILE_MAX_COUNT": "100",
        "OTEL_TRACES_EXPORTER": "embedded",
        "OTEL_METRICS_EXPORTER": "embedded",
        "OTEL_LOGS_EXPORTER": "embedded",
    }
    files = tmp_path / "f"
    with grpc_sink() as sink:
        collector = collector_to(sink, tmp_path / "c", "replay", FLOWSPAN_DIR=str(files))
        with running(collector):
            flow, _ = run_flow(prefect_server, files, "", steps=12, seconds=0.02, **small)
            assert len(wait_for_ids(sink, flow.spans)) == 13
            collector.stop()
            with (files / "traces.jsonl").open("a") as torn:
                torn.write('{"resourceSpans": [{"res')  # a writer that was killed
            run_flow(prefect_server, files, "", steps=12, seconds=0.02, **small)
            collector.start()
            assert len(wait_for_ids(sink, flow.spans)) == 26
            collector.kill()
            collector.start()
            came = wait_for_ids(sink, flow.spans)
    assert len(list(files.glob("traces-*.jsonl"))) > 2
    assert came.keys() == flow.spans
    assert set(came.values()) == {1}
    assert set(as_set(sink.logs).values()) == {1}


def as_set(messages: Iterable[Any]) -> Counter[bytes]:
    """Return messages for comparison, without their order and that of attributes."""
    found: Counter[bytes] = Counter()
    for message in messages:
        copy = type(message)()
        copy.CopyFrom(message)
        copy.attributes.sort(key=lambda attribute: attribute.key)
        found[copy.SerializeToString(deterministic=True)] += 1
    return found


def totals(sink: Sink) -> dict[Series, tuple[float, int]]:
    """Return the value of each series, from totals or from deltas."""
    found: dict[Series, tuple[float, int]] = defaultdict(lambda: (0, 0))
    for _, metric in sink.metrics:
        kind = metric.WhichOneof("data") or ""
        data = getattr(metric, kind)
        is_delta = (
            kind != "gauge"
            and data.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
        )
        for point in data.data_points:
            attributes = tuple(sorted(f"{a.key}={a.value.string_value}" for a in point.attributes))
            series = metric.name, attributes
            value = value_of(point)
            before = found[series] if is_delta else (0, 0)
            found[series] = (round(before[0] + value[0], 6), before[1] + value[1])
    return dict(found)


def value_of(point: Any) -> tuple[float, int]:
    if hasattr(point, "bucket_counts"):
        return point.sum, point.count
    return getattr(point, point.WhichOneof("value")), 0
