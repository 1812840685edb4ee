"""Prometheus has the demo and short processes, and the dashboard shows them."""

from __future__ import annotations

import json
import math
import time
from bisect import bisect
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from prometheus_client.parser import text_string_to_metric_families

from compose import (
    COUNTERS,
    DASHBOARD,
    DATA_SOURCES,
    MACROS,
    METRICS,
    NEW,
    PANELS,
    SPAN_METRICS,
    escaped,
    prometheus_name,
)
from flowspan.read.otlp_json import any_value
from flowspan.recording.instruments import DURATION_BUCKETS
from processes import environment, run_script
from running import Collector, Jaeger, Prometheus, free_ports, run_demo, running, wait_for
from running import read as fetch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from concurrent.futures import Future
    from pathlib import Path

# The demo is slow on a busy machine. All tests check what it sent, so they stay on its worker.
pytestmark = [pytest.mark.timeout(400), pytest.mark.xdist_group("prometheus")]

SHORT = (1, 2, 1)
"""How often the flow `brief` runs in each of the short processes."""

STEP = 60
"""Seconds; the shortest step of the dashboard's graphs."""

RATE = STEP + 15
"""Seconds over which Grafana computes rates: a step and a scrape."""

ACTIVE = ("cicd_pipeline_run_active", "prefect_task_run_active")
"""The gauges of active runs."""

EXEMPLAR = DATA_SOURCES["prometheus"]["jsonData"]["exemplarTraceIdDestinations"][0]["name"]
"""The label by which Grafana finds an exemplar's trace."""

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""Values by name and labels."""


@dataclass(frozen=True)
class Stack:
    """The default backends of docker-compose.yml, after the demo and short processes."""

    collector: Collector
    jaeger: Jaeger
    prometheus: Prometheus
    files: Path
    begun: float
    active: Mapping[tuple[str, str], float]
    """The most runs of the demo at one time, by metric and by flow or task."""

    def lines(self, signal: str) -> list[dict[str, Any]]:
        """The demo's embedded file of a signal."""
        return [*map(json.loads, (self.files / f"{signal}.jsonl").read_text().splitlines())]

    def query(self, expression: str) -> list[tuple[Mapping[str, str], float]]:
        """Return the current result of an expression: labels and values."""
        found = self.prometheus.ask("query", query=fill_in(expression, self.range))["result"]
        return [(series["metric"], float(series["value"][1])) for series in found]

    def graph(self, expression: str) -> list[float]:
        """Return an expression since the beginning: all values of all series."""
        found = self.prometheus.ask(
            "query_range",
            query=fill_in(expression, self.range),
            start=self.begun,
            end=time.time() + STEP,
            step=STEP,
        )["result"]
        return [float(value) for series in found for _, value in series["values"]]

    @property
    def range(self) -> int:
        """Seconds since before the beginning."""
        return math.ceil(time.time() - self.begun) + 60

    def ask_jaeger(self, path: str) -> Any:
        """Return an answer of Jaeger's API."""
        return json.loads(fetch(f"{self.jaeger.url}/api/{path}"))


def fill_in(expression: str, seconds: int) -> str:
    """Replace Grafana's variables by values."""
    given = MACROS | {
        "$__range": f"{seconds}s",
        "$__interval": f"{STEP}s",
        "$__rate_interval": f"{RATE}s",
    }
    for macro, value in given.items():
        expression = expression.replace(macro, value)
    assert "$" not in expression
    return expression


@pytest.fixture(scope="module")
def stack(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    (port,) = free_ports(1)
    jaeger = Jaeger(folder / "jaeger", on_disk=True, prometheus=f"http://127.0.0.1:{port}")
    layers = ("jaeger", "prometheus")
    collector = Collector(folder, *layers, JAEGER_ENDPOINT=f"127.0.0.1:{jaeger.otlp}")
    prometheus = Prometheus(folder / "prometheus", port, collector)
    begun = time.time()

    def brief(runs: int) -> None:
        env = environment(folder, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint())
        done = run_script("metered.py", str(runs), env=env)
        assert done.returncode == 0, done.stderr

    with running(prometheus, jaeger, collector):
        brief(SHORT[0])
        with ThreadPoolExecutor(1) as pool:
            files, often = folder / "embedded", "1000"  # milliseconds
            run = partial(run_demo, OTEL_METRIC_EXPORT_INTERVAL=often)
            demo = pool.submit(run, prefect_server, files, collector.endpoint())
            active = most_active(collector, demo)
            demo.result()
        stack = Stack(collector, jaeger, prometheus, files, begun, active)
        # Span metrics are the Collector's own series: the first value in Prometheus is no growth.
        first = 'traces_span_metrics_calls_total{span_name="RUN brief"}'
        wait_for(lambda: stack.query(first), 60, "the first span metrics")
        for runs in SHORT[1:]:
            brief(runs)
        yield stack


def most_active(collector: Collector, demo: Future[None]) -> dict[tuple[str, str], float]:
    """Watch the gauges of active runs until the demo ends."""
    most: dict[tuple[str, str], float] = defaultdict(float)
    while not demo.done():
        for name, family in families(collector).items():
            for sample in family.samples if name in ACTIVE else ():
                of = sample.labels.get("prefect_task_name", sample.labels["prefect_flow_name"])
                most[name, of] = max(most[name, of], sample.value)
        time.sleep(0.5)
    return most


@pytest.fixture(scope="module")
def settled(stack: Stack) -> Stack:
    """Return the same stack, once Prometheus's rule has counted the last process."""
    wait_for(lambda: counted(stack, "brief") >= sum(SHORT), 90, "the sum of all processes")
    return stack


def counted(stack: Stack, flow: str) -> float:
    """Return the runs of a flow by the rule."""
    selector = f'{NEW}{{counter="prefect_flow_runs_total",prefect_flow_name="{flow}"}}'
    return sum(value for _, value in stack.query(f"sum(sum_over_time({selector}[$__range]))"))


# The Collector's series


def families(collector: Collector) -> dict[str, Any]:
    text = collector.prometheus()
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_the_exporter_has_every_family(stack: Stack) -> None:
    """One for each instrument of flowspan, those of spans, and those about processes."""

    def family(name: str) -> str:
        return name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")

    of_spans = {"traces_span_metrics_calls_total", *SPAN_METRICS}
    wait_for(lambda: any(name.startswith("traces_") for name in families(stack.collector)), 30)
    expected = {family(name).removesuffix("_total") for name in METRICS | of_spans}
    found = families(stack.collector)
    assert found.keys() == expected | {"target_info"}
    for name, one in found.items():
        if f"{name}_total" in METRICS | of_spans:
            assert one.type == "counter"
        elif f"{name}_bucket" in METRICS | of_spans:
            assert one.type == "histogram"
        else:
            assert one.type == "gauge"


def embedded(stack: Stack) -> Series:
    """Return the series of the demo's embedded file, with the names of the exporter."""
    found: Series = {}
    for line in stack.lines("metrics"):  # cumulative, so the last one holds
        for owner in line["resourceMetrics"]:
            resource = attributes(owner["resource"])
            process = {"job": resource["service_name"], "instance": resource["service_instance_id"]}
            for scope in owner["scopeMetrics"]:
                for metric in scope["metrics"]:
                    found |= as_exported(metric, process)
    return found


def attributes(holder: dict[str, Any]) -> dict[str, str]:
    return {escaped(item["key"]): str(any_value(item["value"])) for item in holder["attributes"]}


def as_exported(metric: dict[str, Any], process: dict[str, str]) -> Series:
    found: Series = {}
    name = prometheus_name(metric["name"], metric["unit"])
    for point in metric.get("histogram", {}).get("dataPoints", ()):
        labels = process | attributes(point)
        upto = accumulate(map(int, point["bucketCounts"]))
        for bound, count in zip((*point["explicitBounds"], math.inf), upto, strict=True):
            found[key(f"{name}_bucket", labels | {"le": str(bound)})] = count
        found[key(f"{name}_count", labels)] = int(point["count"])
        found[key(f"{name}_sum", labels)] = point["sum"]
    summed = metric.get("sum", {})
    for point in summed.get("dataPoints", ()):
        full_name = f"{name}_total" if summed.get("isMonotonic") else name
        found[key(full_name, process | attributes(point))] = int(point["asInt"])
    return found


def key(name: str, labels: Mapping[str, str]) -> tuple[str, frozenset[tuple[str, str]]]:
    """Return the key of a series; bounds have several spellings."""
    bound = {"le": str(float(labels["le"]))} if "le" in labels else {}
    return name, frozenset({**labels, **bound}.items())


def exported(stack: Stack, process: str) -> Series:
    """Return the Collector's series of one process."""
    return {
        key(sample.name, sample.labels): sample.value
        for family in families(stack.collector).values()
        for sample in family.samples
        if sample.labels.get("instance") == process and family.name != "target_info"
    }


def test_values_are_those_of_the_embedded_files(stack: Stack) -> None:
    """Every series of the demo's process is there, with the same labels and the same value."""
    expected = embedded(stack)
    (process,) = {dict(labels)["instance"] for _, labels in expected}
    found = exported(stack, process)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected)


def total(series: Series, name: str, *labels: tuple[str, str]) -> float:
    """Return the sum of all series of a metric with these labels."""
    return sum(value for (one, has), value in series.items() if one == name and has >= {*labels})


OUTPUT = ("prefect_rows_direction", "output")


def test_active_runs_are_seen(stack: Stack) -> None:
    """While the demo ran, and no longer."""
    flow_runs, task_runs = ACTIVE
    assert stack.active[flow_runs, "nyc-flights"] == 1
    assert stack.active[task_runs, "validate"] == 1
    series = embedded(stack)
    assert [total(series, name) for name in ACTIVE] == [0, 0]


def test_the_demo_is_what_it_was(stack: Stack) -> None:
    """29 runs, including two of flows, with one retry, one timeout and one violated objective."""
    series = embedded(stack)
    assert total(series, "prefect_flow_runs_total") == 2
    assert total(series, "prefect_task_runs_total") == 27
    assert total(series, "prefect_task_run_retries_total") == 1
    assert total(series, "prefect_slo_violations_total") == 1
    assert total(series, "cicd_pipeline_run_errors_total") == 2
    rows = 336_776 + 16 + 3 * 327_345 + 26_115 + 3_322
    assert total(series, "prefect_task_rows_sum", OUTPUT) == rows


def spans(stack: Stack) -> list[dict[str, Any]]:
    return [
        span
        for line in stack.lines("traces")
        for owner in line["resourceSpans"]
        for scope in owner["scopeSpans"]
        for span in scope["spans"]
    ]


def test_span_metrics_count_every_span(stack: Stack) -> None:
    """By name, kind and status; one series for the demo and the short processes together."""
    kinds = {1: "SPAN_KIND_INTERNAL", 2: "SPAN_KIND_SERVER"}
    codes = {None: "STATUS_CODE_UNSET", 2: "STATUS_CODE_ERROR"}
    expected = Counter(
        (span["name"], kinds[span["kind"]], codes[span["status"].get("code")])
        for span in spans(stack)
    )
    expected["RUN brief", kinds[2], codes[None]] = sum(SHORT)
    expected["extract", kinds[1], codes[None]] += sum(SHORT)
    seconds: dict[str, float] = defaultdict(float)
    for span in spans(stack):
        seconds[span["name"]] += int(span["endTimeUnixNano"]) / 1e9
        seconds[span["name"]] -= int(span["startTimeUnixNano"]) / 1e9

    def counted() -> Counter[tuple[str, ...]]:
        found: Counter[tuple[str, ...]] = Counter()
        for sample in families(stack.collector)["traces_span_metrics_calls"].samples:
            assert sample.labels.keys().isdisjoint({"instance", "service_instance_id"})
            names = ("span_name", "span_kind", "status_code")
            found[tuple(sample.labels[name] for name in names)] += int(sample.value)
        return found

    wait_for(lambda: counted().total() >= expected.total(), 30, "the last span metrics")
    assert counted() == expected
    lasted: dict[str, float] = defaultdict(float)
    for sample in families(stack.collector)["traces_span_metrics_duration_seconds"].samples:
        if sample.name.endswith("_sum"):
            lasted[sample.labels["span_name"]] += sample.value
    for name in seconds.keys() - {"extract"}:  # which the short processes have, too
        assert lasted[name] == pytest.approx(seconds[name], abs=1e-5), name


# Prometheus


def test_prometheus_is_content(settled: Stack) -> None:
    """It reaches both targets, and its rule has no errors."""
    up = {labels["job"]: value for labels, value in settled.query("up")}
    assert up == {"flowspan": 1, "collector": 1}
    (group,) = settled.prometheus.ask("rules")["groups"]
    assert [(rule["name"], rule["health"]) for rule in group["rules"]] == [(NEW, "ok")]


def test_runs_of_short_processes_are_all_counted(settled: Stack) -> None:
    """Each process ended before it was scraped twice; no run is missed or counted twice."""
    assert counted(settled, "brief") == sum(SHORT)
    each = 'last_over_time(prefect_flow_runs_total{prefect_flow_name="brief"}[$__range])'
    found = settled.query(each)
    assert sorted(value for _, value in found) == sorted(SHORT)
    assert len({labels["instance"] for labels, _ in found}) == len(SHORT)


def test_every_counter_adds_up(settled: Stack) -> None:
    """By the rule, each counter of the demo grew by exactly what its process counted."""
    expected: Series = {}
    for (name, labels), value in embedded(settled).items():
        if name in COUNTERS:
            kept = {label: text for label, text in labels if label != "instance"}
            expected[key(NEW, kept | {"counter": name})] = value
    demo = f'{NEW}{{prefect_flow_name=~"nyc-flights|enrich"}}'
    grown = settled.query(f"sum_over_time({demo}[$__range])")
    found = {key(NEW, labels): value for labels, value in grown}
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected)


# The dashboard


TARGETS = {
    (panel["title"], target["refId"]): target
    for panel in PANELS.values()
    for target in panel.get("targets", ())
    if panel["datasource"]["type"] == "prometheus"
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=[" ".join(title) for title in TARGETS])
def test_the_dashboard_shows_something(settled: Stack, target: dict[str, Any]) -> None:
    """Every expression has a value on real data."""

    def numbers() -> list[float]:
        if target.get("instant"):
            found = [value for _, value in settled.query(target["expr"])]
        else:
            found = settled.graph(target["expr"])
        return [value for value in found if not math.isnan(value)]

    assert wait_for(numbers, 45, target["expr"])  # the Collector exports span metrics every 15 s


def test_the_dashboard_shows_what_was(settled: Stack) -> None:
    """The figures at the top are those of the demo and the short processes together."""
    series = embedded(settled)

    def shown(title: str) -> float:
        ((_, value),) = settled.query(TARGETS[title, "A"]["expr"])
        return value

    assert shown("Flow runs") == 2 + sum(SHORT)
    assert shown("Success rate") == 1
    assert shown("Active") == 0
    assert shown("Retries") == 1
    assert shown("Violated objectives") == 1
    rows_of_brief = sum(SHORT)
    assert shown("Rows out") == total(series, "prefect_task_rows_sum", OUTPUT) + rows_of_brief
    # Quantiles are estimated from the bounds of a run's bucket.
    name, flow = "cicd_pipeline_run_duration_seconds_sum", ("prefect_flow_name", "nyc-flights")
    longest = total(series, name, flow, ("cicd_pipeline_run_state", "executing"))
    bounds = [0, *DURATION_BUCKETS]
    above = bisect(bounds, longest)
    assert bounds[above - 1] < shown("Duration, p95") <= bounds[above]
    assert 0 < shown("Duration, p50") < 5


def test_the_dashboard_ranks_tasks(settled: Stack) -> None:
    """Each task of the demo has the time that its process measured."""
    name = "prefect_task_run_duration_seconds_sum"
    tasks: dict[tuple[str, str], float] = defaultdict(float)
    for (one, labels), value in embedded(settled).items():
        if one == name:
            of = dict(labels)
            tasks[of["prefect_flow_name"], of["prefect_task_name"]] += value
    found = {
        (labels["prefect_flow_name"], labels["prefect_task_name"]): value
        for labels, value in settled.query(TARGETS["Slowest tasks", "A"]["expr"])
    }
    assert found.pop(("brief", "extract")) > 0
    assert found == pytest.approx(tasks)


def test_the_dashboard_can_choose(settled: Stack) -> None:
    """The variables list the service and all flows."""
    chosen = {}
    for variable in DASHBOARD["templating"]["list"]:
        selector, label = variable["definition"].removeprefix("label_values(")[:-1].rsplit(", ", 1)
        chosen[variable["name"]] = settled.prometheus.ask(
            f"label/{label}/values", **{"match[]": fill_in(selector, settled.range)}
        )
    assert chosen == {"service": ["prefect"], "flow": ["brief", "enrich", "nyc-flights"]}


# From a metric to a trace


def test_exemplars_lead_to_traces(stack: Stack) -> None:
    """Each names a span in Jaeger with the measured duration."""

    def exemplars() -> list[dict[str, Any]]:
        found = stack.prometheus.ask(
            "query_exemplars",
            query="traces_span_metrics_duration_seconds_bucket",
            start=stack.begun,
            end=time.time() + STEP,
        )
        return [
            {**exemplar, "span_name": one["seriesLabels"]["span_name"]}
            for one in found
            for exemplar in one["exemplars"]
        ]

    def enough() -> list[dict[str, Any]]:
        found = exemplars()
        names = {exemplar["span_name"] for exemplar in found}
        return found if {"RUN nyc-flights", "RUN brief", "validate"} <= names else []

    known: dict[str, dict[str, Any]] = {}
    for exemplar in wait_for(enough, 45, "exemplars"):
        trace_id = exemplar["labels"][EXEMPLAR]
        if trace_id not in known:
            (trace,) = stack.ask_jaeger(f"traces/{trace_id}")["data"]
            known[trace_id] = {span["spanID"]: span for span in trace["spans"]}
        span = known[trace_id][exemplar["labels"]["span_id"]]
        assert span["operationName"] == exemplar["span_name"]
        assert float(exemplar["value"]) == pytest.approx(span["duration"] / 1e6, abs=2e-6)
    (trace_of_demo,) = {span["traceId"] for span in spans(stack)}
    assert trace_of_demo in known


def monitor(stack: Stack, what: str, **more: str) -> dict[str, list[float]]:
    """Return the values of Jaeger's Monitor tab, by operation, without NaN."""
    query = {
        "service": "prefect",
        "groupByOperation": "true",
        "endTs": str(int(time.time() * 1000)),
        "lookback": str(stack.range * 1000),
        "step": "15000",
        "ratePer": "60000",
        "spanKind": "server",
        **more,
    }
    answer = stack.ask_jaeger(f"metrics/{what}?{urlencode(query)}")
    found = {}
    for metric in answer["metrics"]:
        (name,) = (one["value"] for one in metric["labels"] if one["name"] == "operation")
        values = (point["gaugeValue"]["doubleValue"] for point in metric["metricPoints"])
        found[name] = [value for value in map(float, values) if not math.isnan(value)]
    return found


def test_jaegers_monitor_tab_knows_the_flows(stack: Stack) -> None:
    """It finds calls and latencies by the names of the spans.

    An operation appears once Prometheus has two values of it.
    """

    def shown(what: str, *names: str, **more: str) -> dict[str, list[float]]:
        def complete() -> dict[str, list[float]] | None:
            found = monitor(stack, what, **more)
            return found if found.keys() >= {*names} else None

        return wait_for(complete, 60, f"{names} among the {what} of Jaeger's Monitor tab")

    def grown(what: str, **more: str) -> bool:
        return any(monitor(stack, what, **more).get("RUN brief", ()))

    calls = shown("calls", "RUN nyc-flights", "RUN brief")
    assert calls.keys() == {"RUN nyc-flights", "RUN brief"}
    assert wait_for(lambda: grown("calls"), 60, "calls of the short processes")
    assert wait_for(lambda: grown("latencies", quantile="0.95"), 60, "their latencies")
    shown("errors", "geocode", "attempt 1", spanKind="internal")
