"""AWS gets the demo's telemetry, by its older services and by its OTLP endpoints.

moto replaces X-Ray and CloudWatch Logs, and a recorder the OTLP endpoints. AWS is down while the
flow runs, so everything found afterwards has waited in the Collector's queues.
"""

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from google.protobuf.json_format import MessageToJson  # type: ignore[import-untyped]
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from flowspan.read import log_files, metric_files
from running import Collector, Running, free_ports, run_demo, running, wait_for
from sinks import Request, Sink, http_sink
from support import RecordedSpans, attributes, context, embedded_spans

REGION = "eu-west-1"
KEY_ID, SECRET = "AKIDEXAMPLE", "no-secret-at-all"
VARIABLES = {
    "AWS_ACCESS_KEY_ID": KEY_ID,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_REGION": REGION,
    "AWS_SECRET_ACCESS_KEY": SECRET,
}
LOGS, METRICS = "/flowspan/prefect", "/flowspan/prefect/metrics"
GROUP, STREAM = "/flowspan/otlp", "here"

# Attributes for X-Ray's filter expressions.
INDEXED = {
    "cicd.pipeline.result",
    "cicd.pipeline.task.run.result",
    "error.type",
    "prefect.flow.name",
    "prefect.flow_run.id",
    "prefect.run.type",
    "prefect.task.name",
}
UNITS = {"Seconds", "Count"}  # those of CloudWatch's that flowspan's own metrics have

# Metrics and dimensions for alarms.
RUN = ["flow", "flow result"]
TASK = ["flow", "flow task", "flow result", "flow task result"]
DIMENSIONS = {
    "cicd.pipeline.run.duration": ["flow state", "flow state result"],
    "cicd.pipeline.run.errors": ["flow", "flow error"],
    "prefect.flow.runs": RUN,
    "prefect.slo.violations": ["flow", "flow objective"],
    "prefect.task.rows": ["flow direction", "flow task direction"],
    "prefect.task.run.duration": TASK,
    "prefect.task.run.retries": ["flow", "flow task"],
    "prefect.task.run.wait": ["flow wait", "flow task wait"],
    "prefect.task.runs": TASK,
}
MAY_BE_MISSING = {"prefect.slo.violations"}  # on a machine where all is equally slow
SOURCES = {
    "direction": ["prefect.rows.direction"],
    "error": ["error.type"],
    "flow": ["prefect.flow.name", "cicd.pipeline.name"],
    "objective": ["prefect.slo.objective"],
    "result": ["cicd.pipeline.result", "cicd.pipeline.task.run.result"],
    "state": ["cicd.pipeline.run.state"],
    "task": ["prefect.task.name"],
    "wait": ["prefect.wait.type"],
}

# The Collector's own count of dropped data.
LEFT_OUT = [
    "otelcol_processor_filter_datapoints_filtered_total",
    "otelcol_processor_filter_logs_filtered_total",
]

# The first test runs the demo; the others check what it sent, so they stay on its worker.
pytestmark = [pytest.mark.timeout(400), pytest.mark.xdist_group("cloudwatch")]


class Aws(Running):
    """moto's server, which keeps everything it receives; any credentials work."""

    def __init__(self, folder: Path) -> None:
        [port] = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        super().__init__(
            [sys.executable, "-m", "moto.server", "-p", str(port)],
            folder / "moto.log",
            f"{self.url}/moto-api/",
        )

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            REGION,
            endpoint_url=self.url,
            aws_access_key_id=KEY_ID,
            aws_secret_access_key=SECRET,
        )

    def segments(self, trace_id: str) -> list[dict[str, Any]]:
        """All segments of a trace, by our own trace id."""
        wanted = f"1-{trace_id[:8]}-{trace_id[8:]}"
        found = self.client("xray").batch_get_traces(TraceIds=[wanted])["Traces"]
        return [json.loads(one["Document"]) for trace in found for one in trace["Segments"]]

    def groups(self) -> dict[str, int | None]:
        """The log groups, with their retention in days."""
        found = self.client("logs").describe_log_groups()["logGroups"]
        return {group["logGroupName"]: group.get("retentionInDays") for group in found}

    def events(self, group: str) -> list[dict[str, Any]]:
        """All events of a log group, with decoded messages; none if there is no such group."""
        if group not in self.groups():
            return []
        pages = self.client("logs").get_paginator("filter_log_events").paginate(logGroupName=group)
        found = [event for page in pages for event in page["events"]]
        return [{**event, "message": json.loads(event["message"])} for event in found]


@dataclass(frozen=True)
class Delivered:
    """The running programs, after the demo, and the embedded files of the same flow."""

    aws: Aws
    sink: Sink
    collector: Collector
    embedded: Path

    @property
    def spans(self) -> RecordedSpans:
        return embedded_spans(self.embedded)

    @property
    def logs(self) -> list[log_files.Log]:
        files = log_files.find_files(self.embedded)
        traces = (None, f"{context(self.spans.all[0]).trace_id:032x}")
        return [
            log for trace in traces for log in log_files.load_trace(files, trace, events=True).logs
        ]

    def wait(self) -> None:
        """Wait until the Collector has sent everything; the amount may differ."""
        wait_for(
            lambda: self.collector.own_metrics()["otelcol_exporter_queue_size"] == 0,
            what="the end of the queues",
        )

    def send(self, signal: str, resources: list[dict[str, Any]]) -> None:
        """Send OTLP that our flows do not send, or not on demand."""
        answer = httpx.post(
            f"{self.collector.endpoint('http')}/v1/{signal}",
            json={f"resource{signal.capitalize()}": resources},
            trust_env=False,
        )
        answer.raise_for_status()


@pytest.fixture(scope="module")
def delivered(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Delivered]:
    folder = tmp_path_factory.mktemp("cloudwatch")
    aws = Aws(folder)
    with http_sink() as sink:
        collector = Collector(
            folder / "collector",
            "cloudwatch",
            "cloudwatch-otlp",
            **VARIABLES,
            AWS_ENDPOINT_URL=aws.url,
            CLOUDWATCH_TRACES_URL=f"{sink.endpoint}/v1/traces",
            CLOUDWATCH_METRICS_URL=f"{sink.endpoint}/v1/metrics",
            CLOUDWATCH_LOGS_URL=f"{sink.endpoint}/v1/logs",
            CLOUDWATCH_LOG_GROUP=GROUP,
            CLOUDWATCH_LOG_STREAM=STREAM,
        )
        found = Delivered(aws, sink, collector, folder / "embedded")
        with running(collector):
            run_demo(
                prefect_server,
                found.embedded,
                collector.endpoint(),
                PREFECT_LOGGING_LEVEL="INFO",
            )
            wait_for(lambda: failed(collector) >= {"awsxray", "awsemf", "awscloudwatchlogs"})
            with running(aws):
                found.wait()
                yield found


def failed(collector: Collector) -> set[str]:
    """Return the exporters that have failed."""
    log = collector.log.read_text()
    return set(re.findall(r'Exporting failed.*?"otelcol\.component\.id": "(\w+)"', log))


# X-Ray


def test_every_span_is_a_segment_once(delivered: Delivered) -> None:
    """Same ids, parents, times and names; X-Ray names a segment after its service."""
    spans = delivered.spans.all
    segments = segments_of(delivered)
    assert len(segments) == len(spans) > 25
    root = spans[0]
    assert root.parent is None
    for span in spans:
        segment = segments[f"{context(span).span_id:016x}"]
        assert segment["name"] == ("prefect" if span is root else span.name)
        assert segment.get("parent_id") == (f"{span.parent.span_id:016x}" if span.parent else None)
        assert segment.get("type") == (None if span is root else "subsegment")
        times = [segment["start_time"], segment["end_time"]]
        assert times == pytest.approx([(t or 0) / 1e9 for t in (span.start_time, span.end_time)])


def segments_of(delivered: Delivered) -> dict[str, dict[str, Any]]:
    """The flow's segments by their ids."""
    found = delivered.aws.segments(f"{context(delivered.spans.all[0]).trace_id:032x}")
    assert [n for n in Counter(segment["id"] for segment in found).values() if n > 1] == []
    return {segment["id"]: segment for segment in found}


def test_what_can_be_searched_for_is_an_annotation_and_all_else_metadata(
    delivered: Delivered,
) -> None:
    """Nothing is missing; the root also has the resource."""
    segments = segments_of(delivered)
    for span in delivered.spans.all:
        segment = segments[f"{context(span).span_id:016x}"]
        own = {key: plain(value) for key, value in attributes(span).items()}
        if "host.name" in own:
            own["prefect.host.name"] = own.pop("host.name")  # the exporter would drop it
        resource = {
            f"otel.resource.{key}": plain(value)
            for key, value in {**span.resource.attributes, "aws.log.group.names": [LOGS]}.items()
            if span.parent is None
        }
        indexed = {key: value for key, value in own.items() if key in INDEXED}
        rest = {key: value for key, value in own.items() if key not in INDEXED}
        assert segment.get("annotations", {}) == indexed
        assert segment.get("metadata", {}).get("default", {}) == rest | resource
        assert segment["aws"]["cloudwatch_logs"] == [{"log_group": LOGS}]


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def test_what_failed_is_a_fault_with_its_exception(delivered: Delivered) -> None:
    """A retried attempt is not a fault of its task; no fault is counted as HTTP's."""
    segments = segments_of(delivered)
    faults = set()
    for span in delivered.spans.all:
        segment = segments[f"{context(span).span_id:016x}"]
        assert segment["fault"] is (span.status.status_code.name == "ERROR")
        assert (segment["error"], segment["throttle"]) == (False, False)
        raised = [(e.attributes or {}) for e in span.events if e.name == "exception"]
        causes = segment.get("cause", {}).get("exceptions", [])
        told = [(cause["type"], cause["message"]) for cause in causes if cause.get("type")]
        assert told == [(e["exception.type"], e["exception.message"]) for e in raised]
        if segment["fault"]:
            faults.add(segment["name"])
            assert causes != []
    assert faults == {"geocode", "attempt 1"}


def test_segments_link_to_what_their_run_waited_for(delivered: Delivered) -> None:
    """By ids in X-Ray's form, with the input's name."""
    segments = segments_of(delivered)
    for span in delivered.spans.all:
        links = segments[f"{context(span).span_id:016x}"].get("links", [])
        assert links == [
            {"trace_id": xray_id(link.context), "id": f"{link.context.span_id:016x}"}
            | {"attributes": dict(link.attributes or {})}
            for link in span.links
        ]
    assert any(span.links for span in delivered.spans.all)


def xray_id(of: Any) -> str:
    whole = f"{of.trace_id:032x}"
    return f"1-{whole[:8]}-{whole[8:]}"


# Metrics


@pytest.fixture(scope="module")
def records(delivered: Delivered) -> list[dict[str, Any]]:
    """Return the records of the group that CloudWatch turns into metrics."""
    found = [event["message"] for event in delivered.aws.events(METRICS)]
    assert found != []
    return [record for record in found if "_aws" in record]


def test_records_are_of_the_embedded_metric_format(records: list[dict[str, Any]]) -> None:
    """CloudWatch silently ignores records that break its rules."""
    now = time.time() * 1000
    for record in records:
        assert now - 600_000 < record["_aws"]["Timestamp"] < now
        for directive in record["_aws"]["CloudWatchMetrics"]:
            assert directive["Namespace"] == "DataPipelines"
            names = {name for dimensions in directive["Dimensions"] for name in dimensions}
            assert all(isinstance(record[name], str) for name in names)
            assert 0 < len(directive["Metrics"]) <= 100
            for metric in directive["Metrics"]:
                assert metric["Unit"] in UNITS
                value = record[metric["Name"]]
                if isinstance(value, dict):
                    assert value.keys() == {"Min", "Max", "Count", "Sum"}
                    assert value["Count"] > 0
                else:
                    assert isinstance(value, (int, float))


def test_metrics_add_up_to_those_of_the_flow(
    delivered: Delivered, records: list[dict[str, Any]]
) -> None:
    """Every counter and histogram of flowspan, each series once, though it exported twice."""
    embedded = metric_files.load(delivered.embedded)
    expected: dict[Any, Any] = {}
    for counter in embedded.counters:
        expected[series(counter.name, counter.attributes)] = (0, counter.value)
    for one in embedded.histograms:
        key = series(one.name, one.attributes)
        expected[key] = (one.values.count, pytest.approx(one.values.total))
    found: dict[Any, Any] = {}
    for record in records:
        for name, (count, total) in values(record).items():
            key = series(name, {k: v for k, v in record.items() if "." in k and k != name})
            if not name.endswith(".active"):  # a level, which does not add up
                before = found.get(key, (0, 0))
                found[key] = (before[0] + count, before[1] + total)
    assert found == expected
    assert len(expected) > 40


def series(name: str, labels: Mapping[str, Any]) -> tuple[str, frozenset[tuple[str, str]]]:
    """Return the key of a series; the process is not part of it."""
    return name, frozenset((k, str(v)) for k, v in labels.items() if k != "service.instance.id")


def values(record: Mapping[str, Any]) -> dict[str, tuple[int, float]]:
    """Return count and sum of each metric in a record; the count is None if not a histogram."""
    names = {m["Name"] for each in record["_aws"]["CloudWatchMetrics"] for m in each["Metrics"]}
    found = {name: record[name] for name in names}
    return {
        name: (value["Count"], value["Sum"]) if isinstance(value, dict) else (0, value)
        for name, value in found.items()
    }


def statistics(records: list[dict[str, Any]], metric: str, **dimensions: str) -> tuple[int, float]:
    """Return SampleCount and Sum that CloudWatch has for an alarm on exactly these dimensions."""
    count, total = 0, 0.0
    for record in records:
        offered = [
            set(names)
            for directive in record["_aws"]["CloudWatchMetrics"]
            if metric in [each["Name"] for each in directive["Metrics"]]
            for names in directive["Dimensions"]
        ]
        wanted = all(record.get(name) == value for name, value in dimensions.items())
        if wanted and set(dimensions) in offered:
            more = values(record)[metric]
            count, total = count + more[0], total + more[1]
    return count, total


def test_an_alarm_can_be_set_on_every_declared_combination(
    delivered: Delivered, records: list[dict[str, Any]]
) -> None:
    """It sees count and sum of all series with these dimensions."""
    embedded = metric_files.load(delivered.embedded)
    expected: dict[Any, tuple[int, float]] = {}
    for name, labels, count, total in [
        *((c.name, c.attributes, 0, c.value) for c in embedded.counters),
        *((h.name, h.attributes, h.values.count, h.values.total) for h in embedded.histograms),
    ]:
        for combination in DIMENSIONS[name]:
            agreed = {key: dimension(labels, key) for key in combination.split()}
            if None not in agreed.values():
                key = name, frozenset(agreed.items())
                before = expected.get(key, (0, 0))
                expected[key] = before[0] + count, before[1] + total
    for (name, agreed), numbers in expected.items():
        assert statistics(records, name, **dict(agreed)) == pytest.approx(numbers)
    assert {name for name, _ in expected} >= DIMENSIONS.keys() - MAY_BE_MISSING


def dimension(labels: Mapping[str, Any], name: str) -> str | None:
    return next((str(labels[key]) for key in SOURCES[name] if key in labels), None)


@pytest.mark.parametrize(
    ("metric", "dimensions", "expected"),
    [
        ("prefect.flow.runs", {"flow": "enrich"}, 1),
        ("prefect.flow.runs", {"flow": "nyc-flights", "result": "success"}, 1),
        ("prefect.task.runs", {"flow": "enrich", "task": "extract"}, 2),
        ("prefect.task.runs", {"flow": "nyc-flights", "result": "timeout"}, 1),
        ("prefect.task.run.retries", {"flow": "nyc-flights", "task": "fetch_reference"}, 1),
        ("cicd.pipeline.run.errors", {"flow": "nyc-flights", "error": "ConnectionError"}, 1),
        ("prefect.task.rows", {"flow": "nyc-flights", "direction": "output"}, 664_137),
    ],
    ids=str,
)
def test_alarms_on_what_the_demo_always_does(
    records: list[dict[str, Any]], metric: str, dimensions: dict[str, str], expected: int
) -> None:
    """A counter's sum is the total, however many exports there were."""
    assert statistics(records, metric, **dimensions)[1] == expected


# Logs


def test_logs_are_in_the_group_of_their_service(delivered: Delivered) -> None:
    """All of them, once, with body, time, severity, run and trace; a stream per process."""
    expected = [
        {
            "time": log.time // 1_000_000,
            "body": log.body,
            "severity": log.severity,
            "attributes": dict(log.attributes),
            "trace_id": log.trace_id,
            "span_id": log.span_id,
            "stream": log.resource["service.instance.id"],
        }
        for log in delivered.logs
    ]
    found = [
        {
            "time": event["timestamp"],
            "body": event["message"]["body"],
            "severity": event["message"]["severity_number"],
            "attributes": event["message"].get("attributes", {}),
            "trace_id": event["message"].get("trace_id"),
            "span_id": event["message"].get("span_id"),
            "stream": event["logStreamName"],
        }
        for event in delivered.aws.events(LOGS)
    ]
    # Not by their text: CloudWatch sorts the attributes.
    order = itemgetter("time", "body", "span_id")
    assert sorted(found, key=order) == sorted(expected, key=order)
    in_runs = [log for log in found if "prefect.flow_run.id" in log["attributes"]]
    ids = {f"{context(span).span_id:016x}" for span in delivered.spans.all}
    assert len(in_runs) > 20
    assert {log["span_id"] for log in in_runs} <= ids


def test_groups_do_not_keep_logs_forever(delivered: Delivered) -> None:
    """The default of AWS would keep them forever."""
    assert {name: delivered.aws.groups().get(name) for name in (LOGS, METRICS)} == {
        LOGS: 30,
        METRICS: 30,
    }


# Data that only other applications send, or only by chance


def process(service: str, instance: str) -> dict[str, Any]:
    """Return a resource in OTLP."""
    names = {"service.name": service, "service.instance.id": instance}
    return {"resource": {"attributes": pairs(names)}}


def pairs(names: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"stringValue": value}} for key, value in names.items()]


def point(seconds_ago: float = 0, task: str = "", **value: Any) -> dict[str, Any]:
    """Return a data point of a flow or of one of its tasks."""
    now = time.time_ns() - int(seconds_ago * 1e9)
    times = {"startTimeUnixNano": str(now - 10**9), "timeUnixNano": str(now)}
    names = {"prefect.flow.name": "craft"} | ({"prefect.task.name": task} if task else {})
    return {"attributes": pairs(names), **times, **value}


def runs(*points: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a counter of the change since the last export."""
    data = {"aggregationTemporality": 1, "isMonotonic": True, "dataPoints": points}
    return [{"metrics": [{"name": "prefect.flow.runs", "unit": "{run}", "sum": data}]}]


def lines(*bodies: str, seconds_ago: float = 0) -> list[dict[str, Any]]:
    """Return log records in OTLP."""
    moment = str(time.time_ns() - int(seconds_ago * 1e9))
    logs = [{"timeUnixNano": moment, "body": {"stringValue": body}} for body in bodies]
    return [{"logRecords": logs}]


def test_processes_may_measure_in_the_same_millisecond(delivered: Delivered) -> None:
    """For example, processes of a pool that end together."""
    same = runs(point(asInt="1"))
    processes = [process("pool", str(number)) for number in range(8)]
    delivered.send("metrics", [{**each, "scopeMetrics": same} for each in processes])
    delivered.wait()
    found = [event["message"] for event in delivered.aws.events("/flowspan/pool/metrics")]
    assert statistics(found, "prefect.flow.runs", flow="craft")[1] == 8


def test_deltas_of_histograms_have_a_minimum_and_a_maximum(delivered: Delivered) -> None:
    """Cumulative ones have none; without measurements there is no record."""
    duration = {"name": "cicd.pipeline.run.duration", "unit": "s"}
    buckets: dict[str, Any] = {"explicitBounds": [10], "bucketCounts": ["2", "1"]}
    nothing = point(2, count="0", sum=0, explicitBounds=[10], bucketCounts=["0", "0"])
    points = [nothing, point(1, count="3", sum=26, min=2, max=20, **buckets)]
    histogram = {"aggregationTemporality": 1, "dataPoints": points}
    scope = {"metrics": [{**duration, "histogram": histogram}]}
    delivered.send("metrics", [{**process("delta", "1"), "scopeMetrics": [scope]}])
    delivered.wait()
    found = [event["message"] for event in delivered.aws.events("/flowspan/delta/metrics")]
    assert [record["cicd.pipeline.run.duration"] for record in found] == [
        {"Count": 3, "Sum": 26, "Min": 2, "Max": 20}
    ]


def test_levels_are_sent_as_they_are(delivered: Delivered) -> None:
    """Their value, not their change; even zero."""
    points = [point(3 - number, asInt=value) for number, value in enumerate(["2", "5", "0"])]
    level = {"aggregationTemporality": 2, "isMonotonic": False, "dataPoints": points}
    scope = {"metrics": [{"name": "prefect.task.run.active", "unit": "{run}", "sum": level}]}
    delivered.send("metrics", [{**process("level", "1"), "scopeMetrics": [scope]}])
    delivered.wait()
    found = delivered.aws.events("/flowspan/level/metrics")
    in_order = sorted(found, key=lambda event: event["timestamp"])
    assert [event["message"]["prefect.task.run.active"] for event in in_order] == [2, 5, 0]


def test_metrics_of_a_users_own_have_a_unit_of_cloudwatchs(delivered: Delivered) -> None:
    """The nearest, or none: CloudWatch would reject any other."""
    expected = {
        "s": "Seconds",
        "By": "Bytes",
        "%": "Percent",
        "{row}": "Count",
        "{row}/s": "None",
        "1": "None",
        "EUR": "None",
        "": "None",
    }
    gauge = {"dataPoints": [point(task="buy", asDouble=0.5)]}
    metrics = [
        {"name": f"prefect.metric.{number}", "unit": unit, "gauge": gauge}
        for number, unit in enumerate(expected)
    ]
    delivered.send("metrics", [{**process("own", "1"), "scopeMetrics": [{"metrics": metrics}]}])
    delivered.wait()
    found = {
        metric["Name"]: metric["Unit"]
        for event in delivered.aws.events("/flowspan/own/metrics")
        for directive in event["message"]["_aws"]["CloudWatchMetrics"]
        for metric in directive["Metrics"]
        if directive["Dimensions"] == [["flow"], ["flow", "task"]]
    }
    assert found == {
        f"prefect.metric.{number}": unit for number, unit in enumerate(expected.values())
    }


def test_flowspans_own_errors_have_no_dimensions(delivered: Delivered) -> None:
    """An alarm on them covers all flows."""
    [scope] = runs(point(asInt="4"))
    scope["metrics"][0]["name"] = "flowspan.internal.errors"
    delivered.send("metrics", [{**process("internal", "1"), "scopeMetrics": [scope]}])
    delivered.wait()
    found = [event["message"] for event in delivered.aws.events("/flowspan/internal/metrics")]
    [directive] = found[0]["_aws"]["CloudWatchMetrics"]
    assert directive["Dimensions"] == [[]]
    assert statistics(found, "flowspan.internal.errors")[1] == 4


def test_nothing_that_aws_refuses_holds_up_the_rest(delivered: Delivered) -> None:
    """Names are adapted. Data that is too old or in the future is dropped and counted."""
    day = 86_400
    before = delivered.collector.own_metrics()
    odd = process("Nightly ETL: Zürich", "host:8080")
    delivered.send("logs", [{**odd, "scopeLogs": lines("oddly named")}])
    delivered.send("metrics", [{**odd, "scopeMetrics": runs(point(asInt="2"))}])
    for age in (20 * day, -3 * 3600):
        unfit = process("unfit", "1")
        delivered.send("logs", [{**unfit, "scopeLogs": lines("untimely", seconds_ago=age)}])
        delivered.send("metrics", [{**unfit, "scopeMetrics": runs(point(age, asInt="1"))}])
    normal = process("normal", "1")
    delivered.send("logs", [{**normal, "scopeLogs": lines("timely", "too")}])
    delivered.send("metrics", [{**normal, "scopeMetrics": runs(point(asInt="3"))}])
    delivered.wait()
    groups = {
        "/flowspan/Nightly-ETL-Z-rich": ["oddly named"],
        "/flowspan/normal": ["timely", "too"],
        "/flowspan/unfit": [],
    }
    counts = {"/flowspan/Nightly-ETL-Z-rich": 2, "/flowspan/normal": 3, "/flowspan/unfit": 0}
    for group, bodies in groups.items():
        events = delivered.aws.events(group)
        assert [event["message"]["body"] for event in events] == bodies
        records = [event["message"] for event in delivered.aws.events(f"{group}/metrics")]
        assert sum(record["prefect.flow.runs"] for record in records) == counts[group]
    after = delivered.collector.own_metrics()
    for name in LEFT_OUT:
        assert after[name] - before.get(name, 0) == 2


def test_what_is_sent_anew_after_an_outage_is_not_counted_twice(tmp_path: Path) -> None:
    """Although it does not fit one request."""
    aws = Aws(tmp_path)
    collector = Collector(tmp_path, "cloudwatch", **VARIABLES, AWS_ENDPOINT_URL=aws.url)
    outage = Delivered(aws, Sink(), collector, tmp_path)
    names = {f"task {number}" for number in range(2000)}
    points = [point(task=name, asInt="1") for name in names]
    with running(collector):
        outage.send("metrics", [{**process("bulk", "1"), "scopeMetrics": runs(*points)}])
        wait_for(lambda: failed(collector))
        with running(aws):
            outage.wait()
            found = [event["message"] for event in aws.events("/flowspan/bulk/metrics")]
    assert sum(len(json.dumps(record)) for record in found) > 2 * 256 * 1024
    assert Counter(record["prefect.task.name"] for record in found) == Counter(names)


# The OTLP endpoints


@pytest.mark.parametrize(
    ("signal", "service"), [("traces", "xray"), ("metrics", "monitoring"), ("logs", "logs")]
)
def test_requests_are_signed(delivered: Delivered, signal: str, service: str) -> None:
    """For their service and region; botocore computes the same signature."""
    sent = requests_of(delivered.sink, signal)
    assert sent != []
    for request in sent:
        form = "AWS4-HMAC-SHA256 Credential=(.+), SignedHeaders=(.+), Signature=([0-9a-f]{64})"
        found = re.fullmatch(form, request.headers["authorization"])
        assert found is not None
        credential, signed, signature = found.groups()
        date = request.headers["x-amz-date"]
        assert credential == f"{KEY_ID}/{date[:8]}/{REGION}/{service}/aws4_request"
        assert {"content-type", "host", "x-amz-date"} <= set(signed.split(";"))
        headers = {name: request.headers[name] for name in signed.split(";")}
        again = AWSRequest("POST", delivered.sink.endpoint + request.path, headers, request.body)
        again.context["timestamp"] = date
        signer = SigV4Auth(Credentials(KEY_ID, SECRET), service, REGION)
        text = signer.string_to_sign(again, signer.canonical_request(again))
        assert signer.signature(text, again) == signature


def requests_of(sink: Sink, signal: str) -> list[Request]:
    every = (*sink.requests, *sink.metric_requests, *sink.log_requests)
    return [request for request in every if request.path == f"/v1/{signal}"]


def test_only_logs_name_a_group_and_a_stream(delivered: Delivered) -> None:
    """The group and stream of the variables."""
    for signal, expected in (("traces", None), ("metrics", None), ("logs", (GROUP, STREAM))):
        for request in requests_of(delivered.sink, signal):
            named = [request.headers.get(f"x-aws-log-{name}") for name in ("group", "stream")]
            assert named == list(expected or (None, None))


def test_otlp_endpoints_get_every_span_and_log_record_once(delivered: Delivered) -> None:
    """The same as in the embedded files."""
    ids = [span.span_id.hex() for span in delivered.sink.spans]
    assert sorted(ids) == sorted(f"{context(span).span_id:016x}" for span in delivered.spans.all)
    logs = [
        (record.time_unix_nano, record.body.string_value)
        for request in delivered.sink.log_requests
        for group in request.message.resource_logs
        if is_of_the_flow(group)
        for scope in group.scope_logs
        for record in scope.log_records
    ]
    assert sorted(logs) == sorted((log.time, log.body) for log in delivered.logs)


def test_otlp_endpoints_get_every_metric(delivered: Delivered, tmp_path: Path) -> None:
    """The same as in the embedded files, including buckets, by flowspan's own reader."""
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for request in delivered.sink.metric_requests:
            groups = [one for one in request.message.resource_metrics if is_of_the_flow(one)]
            message = ExportMetricsServiceRequest(resource_metrics=groups)
            file.write(MessageToJson(message, indent=None) + "\n" if groups else "")
    sent, embedded = metric_files.load(tmp_path), metric_files.load(delivered.embedded)
    assert sent.problems == ()
    assert sorted(sent.counters, key=str) == sorted(embedded.counters, key=str)
    assert sorted(sent.histograms, key=str) == sorted(embedded.histograms, key=str)
    assert len(sent.histograms) > 10


def is_of_the_flow(group: Any) -> bool:
    return any(item.value.string_value == "prefect" for item in group.resource.attributes)
