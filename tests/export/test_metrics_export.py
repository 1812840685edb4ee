"""Export of metrics: short-lived processes, several processes, dead endpoints, forks."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import metrics as metrics_api
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource

import flowspan
from clocks import SLACK
from flowspan.export import providers, routes
from flowspan.export.bounded import BoundedMeterProvider, BoundedReader
from flowspan.export.outages import Reporter, ReportingMetricExporter
from flowspan.read import metric_files
from flowspan.settings import Settings
from processes import FLOWS, environment, run_script
from sinks import UNBOUNDED, Sink, grpc_sink, http_sink, refusing_endpoint, silent_endpoint

DELTA, CUMULATIVE = 1, 2
INSTANCE = "service.instance.id"

SINKS: dict[str, Callable[[], AbstractContextManager[Sink]]] = {
    "grpc": grpc_sink,
    "http/protobuf": http_sink,
}


def script(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    finished = run_script(str(FLOWS / "metered.py"), *arguments, env={**os.environ, **env})
    assert finished.returncode == 0, finished.stderr
    return finished


def counts(sink: Sink, name: str) -> dict[str, list[tuple[int, int]]]:
    """Return, by process, temporality and sum of each export of a counter, in order."""
    found: dict[str, list[tuple[int, int]]] = {}
    for resource, metric in sink.metrics:
        if metric.name == name:
            value = sum(point.as_int for point in metric.sum.data_points)
            exports = found.setdefault(resource[INSTANCE], [])
            exports.append((metric.sum.aggregation_temporality, value))
    return found


def test_a_brief_flow_in_a_brief_process_loses_nothing(prefect_server: str, tmp_path: Path) -> None:
    """Two scripts with flows of a few milliseconds leave two runs in the embedded files."""
    for _ in range(2):
        script("1", FLOWSPAN_DIR=str(tmp_path))
    found = metric_files.load(tmp_path)
    assert not found.problems
    runs = [c for c in found.counters if c.name == "prefect.flow.runs"]
    assert sum(counter.value for counter in runs) == 2
    durations = [h for h in found.histograms if h.name == "prefect.task.run.duration"]
    assert sum(histogram.values.count for histogram in durations) == 2


def test_cumulative_series_of_two_processes_are_apart(prefect_server: str) -> None:
    """By default each process exports its own total, as a separate instance."""
    with grpc_sink() as sink:
        for count in ("3", "2"):
            script(count, OTEL_EXPORTER_OTLP_ENDPOINT=sink.endpoint)
        found = counts(sink, "prefect.flow.runs")
    assert [exports[-1] for exports in found.values()] == [(CUMULATIVE, 3), (CUMULATIVE, 2)]


@pytest.mark.parametrize("protocol", list(SINKS))
def test_delta_temporality_adds_up(prefect_server: str, protocol: str) -> None:
    """With the standard variable each export is a delta, and nothing is exported twice."""
    with SINKS[protocol]() as sink:
        for count in ("3", "2"):
            script(
                count,
                OTEL_EXPORTER_OTLP_ENDPOINT=sink.endpoint,
                OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
                OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
            )
        found = counts(sink, "prefect.flow.runs")
        exported = list(found.values())
        assert [sum(value for _, value in exports) for exports in exported] == [3, 2]
        assert {temporality for exports in exported for temporality, _ in exports} == {DELTA}
        durations = [m for _, m in sink.metrics if m.name == "prefect.task.run.duration"]
        assert sum(p.count for metric in durations for p in metric.histogram.data_points) == 5


def test_embedded_files_take_the_standard_temporality(prefect_server: str, tmp_path: Path) -> None:
    """Deltas in the embedded files add up to the same as cumulative counts."""
    variable = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
    for temporality in ("delta", "cumulative"):
        folder = tmp_path / temporality
        script("3", FLOWSPAN_DIR=str(folder), **{variable: temporality})
        runs = [c for c in metric_files.load(folder).counters if c.name == "prefect.flow.runs"]
        assert sum(counter.value for counter in runs) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_counts_from_zero(prefect_server: str) -> None:
    """A child only exports its own counts, as a separate instance."""
    with http_sink() as sink:
        script(
            "2",
            "fork",
            OTEL_EXPORTER_OTLP_ENDPOINT=sink.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        )
        of_child = counts(sink, "in.the.child")
        of_parent = counts(sink, "prefect.flow.runs")
    assert len(of_child) == len(of_parent) == 1
    assert of_child.keys() != of_parent.keys()
    assert [exports[-1][1] for exports in (*of_child.values(), *of_parent.values())] == [1, 2]


def test_an_error_in_a_process_pool_counts_once(prefect_server: str, tmp_path: Path) -> None:
    """Only the process that ran the task counts its error; the flow's process does not."""
    finished = run_script("pooled.py", "pooled_failing", env=environment(tmp_path))
    assert "ValueError" in finished.stderr
    errors = [
        c for c in metric_files.load(tmp_path).counters if c.name == "cicd.pipeline.run.errors"
    ]
    assert [(c.attributes["error.type"], c.value) for c in errors] == [("ValueError", 1)]


@pytest.mark.parametrize("dead", [refusing_endpoint, silent_endpoint])
def test_a_dead_endpoint_costs_a_bounded_time(prefect_server: str, dead: Any) -> None:
    """Without all signals the process ends in time, with one line for each signal."""
    with dead() as endpoint:
        finished = script(  # for no longer than its patience
            "1",
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            OTEL_EXPORTER_OTLP_TIMEOUT=str(UNBOUNDED),
            FLOWSPAN_FLUSH_TIMEOUT="2",
        )
    lines = [line for line in finished.stderr.splitlines() if "being dropped" in line]
    assert len(lines) == 3, finished.stderr
    assert {"traces do not" in line for line in lines} == {True, False}


def test_metrics_can_be_switched_off(prefect_server: str, tmp_path: Path) -> None:
    """OTEL_METRICS_EXPORTER=none does not affect spans, and reports of open runs."""
    script("1", FLOWSPAN_DIR=str(tmp_path), OTEL_METRICS_EXPORTER="none")
    assert {path.name for path in tmp_path.glob("*.jsonl")} == {"logs.jsonl", "traces.jsonl"}


@pytest.mark.parametrize("interval", ["0", "-5"])
def test_a_bad_interval_is_refused(monkeypatch: pytest.MonkeyPatch, interval: str) -> None:
    """If the SDK rejects a value, the error names the variable."""
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", interval)
    with pytest.raises(providers.ConfigurationError, match="OTEL_METRIC_EXPORT_INTERVAL"):
        providers.build_meter_provider(Settings())


def test_an_unknown_exporter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable and the known exporters."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "pigeon")
    with pytest.raises(
        providers.ConfigurationError, match=r"OTEL_METRICS_EXPORTER.*pigeon.*embedded"
    ):
        providers.build_meter_provider(Settings())


def test_what_is_no_meter_provider_is_refused() -> None:
    """A wrong argument raises at instrument() and leaves nothing behind."""
    with pytest.raises(TypeError, match="meter_provider must be an OpenTelemetry MeterProvider"):
        flowspan.instrument(meter_provider="prometheus")  # type: ignore[arg-type]


def test_a_reader_whose_port_is_taken_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """Each pool process creates a reader like Prometheus's, but only one gets the port."""

    class Asked(MetricReader):
        def __init__(self) -> None:
            super().__init__()
            raise OSError(98, "Address already in use")

        def _receive_metrics(self, *_: Any, **__: Any) -> None: ...
        def shutdown(self, *_: Any, **__: Any) -> None: ...

    route = routes.SignalRoute("metrics", "prometheus", "somewhere")
    assert providers._make_asked_reader(route, Asked) is None
    (record,) = [record for record in caplog.records if record.name == "flowspan"]
    assert "Address already in use" in record.getMessage()


def test_both_signals_or_none() -> None:
    """A bad variable of one signal sets no global provider for the other."""
    code = (
        "import flowspan, os\n"
        "from opentelemetry import trace\n"
        "try:\n    flowspan.instrument()\n"
        "except ValueError:\n    print(type(trace.get_tracer_provider()).__name__)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OTEL_METRICS_EXPORTER": "pigeon"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert finished.stdout.strip() == "ProxyTracerProvider"


def test_a_provider_is_shut_down_in_equal_shares() -> None:
    """A reader that uses its whole time leaves the next one its own share."""
    with silent_endpoint() as dead, http_sink() as alive:

        def reader(endpoint: str) -> BoundedReader:
            url = f"{endpoint}/v1/metrics"
            make = partial(OTLPMetricExporter, endpoint=url, timeout=UNBOUNDED)
            return BoundedReader(ReportingMetricExporter(Reporter("metrics", endpoint, make)))

        provider = BoundedMeterProvider([reader(dead), reader(alive.endpoint)], Resource({}), 6)
        provider.get_meter("test").create_counter("hits").add(1)
        start = time.monotonic()
        providers.shutdown([provider], 6)
        assert time.monotonic() - start < 6 + SLACK
        assert [metric.name for _, metric in alive.metrics] == ["hits"]


def test_the_applications_meter_provider_is_used(prefect_server: str) -> None:
    """A global provider is used unchanged."""
    code = (
        "import flowspan\n"
        "from opentelemetry import metrics\n"
        "from opentelemetry.sdk.metrics import MeterProvider\n"
        "from opentelemetry.sdk.metrics.export import InMemoryMetricReader\n"
        "reader = InMemoryMetricReader()\n"
        "metrics.set_meter_provider(MeterProvider([reader]))\n"
        "flowspan.instrument()\n"
        "from prefect import flow\n"
        "flow(name='main')(lambda: 1)()\n"
        "data = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics\n"
        "print(sorted(metric.name for metric in data)[-1])\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert finished.stdout.strip() == "prefect.flow.runs"


def test_nothing_global_is_set_by_these_tests() -> None:
    """Tests build their own providers."""
    assert not isinstance(metrics_api.get_meter_provider(), MeterProvider)
