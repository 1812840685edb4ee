"""Datadog gets the traces, trace metrics, metrics and logs of real flows, in its own formats.

A recorder replaces its intake. Everything in the flows' embedded files must arrive.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml
from opentelemetry.trace import StatusCode

import programs
from datadog_intake import (
    LOGS,
    SERIES,
    SKETCHES,
    STATS,
    TRACES,
    VALIDATE,
    Intake,
    intake,
)
from flowspan import semconv
from flowspan.recording.instruments import DURATION_BUCKETS
from running import LAYERS, Collector, run_demo, running, wait_for
from support import RecordedSpans, attributes, context, embedded_spans

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan

# All tests check what the first one sent, so they stay on its worker.
pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("datadog")]

KEY = secrets.token_hex(16)
HOST = "flowhost"
SERVICE = "flights"
RESOURCE = "deployment.environment.name=e2e,service.version=1.2.3,team=data"
ENDS = programs.ROOT / "tests" / "flows" / "ends.py"

TRIES = 4  # of Datadog's client, for traces and trace metrics

OF_FLOWS = f"service:{SERVICE}"

# Metrics of a flow of twenty hours and of a quick one, under a separate service.
MADE = "made"
SECONDS = {"RUN made-long": 20 * 3600.0, "RUN made-short": 0.015}


@dataclass
class Backend:
    """A Collector, the intake it sends to, and the embedded files of its flow."""

    collector: Collector
    intake: Intake
    folder: Path

    @property
    def spans(self) -> RecordedSpans:
        return embedded_spans(self.folder)

    @property
    def runs(self) -> Counter[tuple[str, str]]:
        """Return the number of run spans, by operation and resource."""
        return Counter(map(measured, self.spans.runs))

    @property
    def logs(self) -> Counter[tuple[str, str, str, str]]:
        """Return text, severity and the two ids of each log record."""
        found: Counter[tuple[str, str, str, str]] = Counter()
        for line in (self.folder / "logs.jsonl").read_text().splitlines():
            for resource in json.loads(line)["resourceLogs"]:
                for scope in resource["scopeLogs"]:
                    for record in scope["logRecords"]:
                        text, severity = record["body"]["stringValue"], record["severityText"]
                        # Prefect's own threads may log, which belongs to no trace.
                        ids = record.get("traceId", ""), record.get("spanId", "")
                        found[(text, severity, *ids)] += 1
        return found

    def has_all(self) -> bool:
        """Return whether everything has arrived; with sampling, the failed trace."""
        spans, runs = self.spans.all, self.runs
        flows = sum(n for (operation, _), n in runs.items() if operation == "prefect.flow")
        tasks = runs.total() - flows
        metrics = {
            "prefect.flow.runs": flows,
            "prefect.task.runs": tasks,
            "prefect.task.run.duration": tasks,
            "traces.span.metrics.calls": len(spans),
            "traces.span.metrics.duration": len(spans),
        }
        return (
            len(self.intake.spans) >= len(kept(spans))
            and len(self.intake.logs) >= self.logs.total()
            and self.intake.trace_metrics("Hits", SERVICE).total() >= runs.total()
            and all(counts(self.intake, name).total() >= n for name, n in metrics.items())
        )


def counts(recorder: Intake, metric: str, *keys: str) -> Counter[tuple[str, ...]]:
    """Return a counter's value, or the number of a distribution's values, by these tags."""
    found: Counter[tuple[str, ...]] = Counter()
    for m in recorder.find(metric, OF_FLOWS):
        tags = dict(tag.split(":", 1) for tag in m.tags)
        add = m.value if m.kind == "count" else m.count
        found[tuple(tags.get(key, "") for key in keys)] += int(add)
    return +found


def measured(span: ReadableSpan) -> tuple[str, str]:
    return (f"prefect.{attributes(span)[semconv.RUN_TYPE]}", span.name)


def failed(span: ReadableSpan) -> bool:
    return span.status.status_code is StatusCode.ERROR


def kept(spans: list[ReadableSpan]) -> list[ReadableSpan]:
    """Return the spans of traces with a failure."""
    traces = {context(span).trace_id for span in spans if failed(span)}
    return [span for span in spans if context(span).trace_id in traces]


def collector(folder: Path, recorder: Intake, *layers: str, **variables: str) -> Collector:
    return Collector(
        folder,
        "datadog",
        *layers,
        AWS_EC2_METADATA_DISABLED="true",
        DD_API_KEY=recorder.key,
        DD_API_URL=recorder.url,
        DD_HOSTNAME=HOST,
        DD_LOGS_URL=recorder.url,
        DD_TRACES_URL=recorder.url,
        HTTPS_PROXY=recorder.url,  # catches requests to Datadog itself
        **variables,
    )


def make_spans(endpoint: str) -> None:
    now = time.time_ns()
    spans = [
        {
            "traceId": secrets.token_hex(16),
            "spanId": secrets.token_hex(8),
            "name": name,
            "kind": 2,
            "startTimeUnixNano": str(now - int(seconds * 1e9)),
            "endTimeUnixNano": str(now),
            "attributes": [{"key": "prefect.run.type", "value": {"stringValue": "flow"}}],
        }
        for name, seconds in SECONDS.items()
    ]
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": MADE}}]}
    request = {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]}
    httpx.post(f"{endpoint}/v1/traces", json=request).raise_for_status()


def run_flow(api: str, backend: Backend, script: Path | None = None) -> None:
    """Run the demo or another script, and wait for its data."""
    run_demo(
        api,
        backend.folder,
        backend.collector.endpoint(),
        *([script] if script else []),
        OTEL_RESOURCE_ATTRIBUTES=RESOURCE,
        OTEL_SERVICE_NAME=SERVICE,
        PREFECT_LOGGING_LEVEL="INFO",
    )
    with suppress(TimeoutError):  # the tests report what is missing
        wait_for(backend.has_all, 90)


@pytest.fixture(scope="module")
def backends(
    prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Backend, Backend]]:
    """Start two: one gets all of the demo; the other samples, and refuses at first."""
    folder = tmp_path_factory.mktemp("datadog")
    with intake(KEY) as plain, intake(KEY) as poor:
        plain.refusing = {TRACES: TRIES}
        poor.refusing = dict.fromkeys((TRACES, STATS, LOGS, SERIES, SKETCHES), 2)
        demo = Backend(collector(folder / "plain", plain), plain, folder / "demo")
        ends = Backend(
            collector(
                folder / "poor",
                poor,
                "tail-sampling",
                COLLECTOR_SAMPLING_PERCENT="0",
                COLLECTOR_SAMPLING_WAIT="15s",
                DD_HOST_METADATA="false",
            ),
            poor,
            folder / "ends",
        )
        with running(demo.collector, ends.collector), ThreadPoolExecutor(2) as pool:
            second = pool.submit(run_flow, prefect_server, ends, ENDS)
            make_spans(demo.collector.endpoint("http"))
            wait_for(lambda: not plain.refusing[TRACES], what="the last try")
            run_flow(prefect_server, demo)
            second.result()
            yield demo, ends


@pytest.fixture
def demo(backends: tuple[Backend, Backend]) -> Backend:
    return backends[0]


@pytest.fixture
def ends(backends: tuple[Backend, Backend]) -> Backend:
    return backends[1]


def test_every_span_has_its_place(demo: Backend) -> None:
    """Each arrived once, with its name, times and parent, under both forms of the trace id."""
    expected = [
        (
            span.name,
            context(span).trace_id % 2**64,
            f"{context(span).trace_id:032x}",
            context(span).span_id,
            span.parent.span_id if span.parent else 0,
            span.start_time,
            (span.end_time or 0) - (span.start_time or 0),
        )
        for span in demo.spans.all
    ]
    assert len(expected) > 30
    found = [
        (s.resource, s.traceID, s.meta["otel.trace_id"], s.spanID, s.parentID, s.start, s.duration)
        for s in demo.intake.spans
    ]
    assert sorted(found) == sorted(expected)


def pairs(demo: Backend) -> list[tuple[Any, ReadableSpan]]:
    """Return each received span with the original."""
    came = {span.spanID: span for span in demo.intake.spans}
    return [(came[context(span).span_id], span) for span in demo.spans.all]


def test_resource(demo: Backend) -> None:
    """Service, environment, version and host are where Datadog looks for them."""
    assert {(p.env, p.appVersion, p.hostname) for p in demo.intake.payloads} == {
        ("e2e", "1.2.3", HOST)
    }
    # Datadog drops anything less than one.
    assert {chunk.priority for p in demo.intake.payloads for chunk in p.chunks} == {1}
    for came, _ in pairs(demo):
        assert came.service == SERVICE
        assert (came.meta["env"], came.meta["version"], came.meta["team"]) == (
            "e2e",
            "1.2.3",
            "data",
        )


def test_operations(demo: Backend) -> None:
    """Flow runs, task runs and attempts are operations; runs have trace metrics of their own."""
    for came, span in pairs(demo):
        if semconv.RUN_TYPE in attributes(span):
            assert (came.name, came.resource) == measured(span)
            assert came.metrics["_dd.measured"] == 1
        else:
            assert came.name == "prefect.attempt"
            assert "_dd.measured" not in came.metrics


def test_errors(demo: Backend) -> None:
    """Failures and timeouts are errors with their reason, and nothing else is."""
    errors = Counter(came.resource for came, _ in pairs(demo) if came.error)
    assert errors == {"geocode": 1, "attempt 1": 1}
    for came, span in pairs(demo):
        assert came.error == int(failed(span))
        if failed(span):
            assert came.meta["error.type"] == attributes(span)["error.type"]
            assert came.meta["otel.status_description"] == span.status.description
            messages = [
                (event.attributes or {})["exception.message"]
                for event in span.events
                if event.name == "exception"
            ]
            assert came.meta["error.msg"] == messages[-1]
            assert "Traceback" in came.meta["error.stack"]


def test_attributes(demo: Backend) -> None:
    """Texts are tags, numbers are measures; events and links are there."""
    for came, span in pairs(demo):
        for key, value in attributes(span).items():
            if isinstance(value, str):
                assert came.meta[key] == value
            elif type(value) in (int, float):
                assert came.metrics[key] == pytest.approx(value)
        assert [e["name"] for e in json.loads(came.meta.get("events", "[]"))] == [
            event.name for event in span.events
        ]
        assert [e["span_id"] for e in json.loads(came.meta.get("_dd.span_links", "[]"))] == [
            f"{link.context.span_id:016x}" for link in span.links
        ]


def test_trace_metrics(demo: Backend) -> None:
    """Hits, errors and time are those of the run spans."""
    stats = demo.intake
    assert stats.trace_metrics("Hits", SERVICE) == demo.runs
    assert +stats.trace_metrics("Errors", SERVICE) == {("prefect.task", "geocode"): 1}
    spent: Counter[tuple[str, str]] = Counter()
    for span in demo.spans.runs:
        spent[measured(span)] += (span.end_time or 0) - (span.start_time or 0)
    # Datadog rounds its sums.
    assert stats.trace_metrics("Duration", SERVICE) == pytest.approx(spent, rel=0.01)
    of_flows = [p for p in stats.stats if p["Env"] == "e2e"]
    assert {payload["Version"] for payload in of_flows} == {"1.2.3"}


def kinds(recorder: Intake, metric: str) -> set[str]:
    return {m.kind for m in recorder.find(metric, OF_FLOWS)}


def test_metrics(demo: Backend) -> None:
    """Each has its name, kind and tags, and a value that matches the spans."""
    came = demo.intake
    spans = [(attributes(span), span) for span in demo.spans.runs]
    tasks = [a for a, _ in spans if a[semconv.RUN_TYPE] == "task"]
    flows = [a for a, _ in spans if a[semconv.RUN_TYPE] == "flow"]

    keys = (semconv.FLOW_NAME, semconv.TASK_NAME, semconv.RUN_STATE_NAME)
    of_tasks = Counter(tuple(a[key] for key in keys) for a in tasks)
    assert counts(came, "prefect.task.runs", *keys) == of_tasks
    assert counts(came, "prefect.task.run.duration", *keys) == of_tasks
    assert counts(came, "prefect.flow.runs", semconv.FLOW_NAME) == Counter(
        (a[semconv.FLOW_NAME],) for a in flows
    )
    result = (semconv.FLOW_NAME, semconv.PIPELINE_RUN_STATE, semconv.PIPELINE_RESULT)
    assert counts(came, "cicd.pipeline.run.duration", *result) == Counter(
        key
        for a in flows
        for key in [
            (a[semconv.FLOW_NAME], "pending", ""),
            (a[semconv.FLOW_NAME], "executing", "success"),
        ]
    )
    assert counts(came, "prefect.task.run.retries", "error.type") == {("ConnectionError",): 1}

    # A distribution has the sum, and values as precise as the buckets.
    rows = came.find("prefect.task.rows", "prefect.task.name:load")
    assert sum(m.value for m in rows) == sum(
        a[semconv.ROWS_INPUT] for a in tasks if a[semconv.TASK_NAME] == "load"
    )
    assert kinds(came, "prefect.task.runs") == {"count"}
    assert kinds(came, "prefect.task.run.duration") == {"distribution"}
    assert kinds(came, "prefect.task.run.active") == {"gauge"}

    mine = [m for m in came.measured if OF_FLOWS in m.tags]
    assert {m.host for m in mine} == {HOST}
    assert all(abs(m.seconds - time.time()) < 600 for m in mine)
    assert all("env:e2e" in m.tags for m in mine)
    assert not [
        tag
        for m in mine
        for tag in m.tags
        if tag.startswith(("prefect.run.id", "prefect.run.name"))
    ]


def test_span_metrics(demo: Backend) -> None:
    """Calls and durations count every span."""
    by_name = Counter((span.name,) for span in demo.spans.all)
    assert counts(demo.intake, "traces.span.metrics.calls", "span.name") == by_name
    assert counts(demo.intake, "traces.span.metrics.duration", "span.name") == by_name
    took = sum((s.end_time or 0) - (s.start_time or 0) for s in demo.spans.named("summarize")) / 1e9
    sums = demo.intake.find("traces.span.metrics.duration", OF_FLOWS, "span.name:summarize")
    assert sum(m.value for m in sums) == pytest.approx(took)


@pytest.mark.parametrize("name", SECONDS)
def test_durations_from_milliseconds_to_a_day(demo: Backend, name: str) -> None:
    """Span metrics put a long flow and a short one in buckets of their size."""
    [came] = demo.intake.find(
        "traces.span.metrics.duration", f"service:{MADE}", f"span.name:{name}"
    )
    above = next(bound for bound in DURATION_BUCKETS if bound > SECONDS[name])
    below = max(bound for bound in DURATION_BUCKETS if bound <= SECONDS[name])
    assert len(came.values) == 1
    assert below * 0.99 <= came.values[0] <= above * 1.01
    assert came.value == pytest.approx(SECONDS[name])


def test_what_datadogs_client_gives_up_is_named(demo: Backend) -> None:
    """After four refusals it drops traces; trace metrics were accepted and still count them."""
    assert demo.intake.trace_metrics("Hits", MADE) == {("prefect.flow", n): 1 for n in SECONDS}
    assert MADE not in {span.service for span in demo.intake.spans}
    assert demo.collector.own_metrics()["datadog_trace_agent_trace_writer_dropped_total"] == 1


def told(log: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Return text, severity and the two ids of a log record that came."""
    ids = log.get("otel.trace_id", ""), log.get("otel.span_id", "")
    return (log["message"], log["status"], *ids)


def test_logs(demo: Backend) -> None:
    """Each arrived once, with its text, severity, service and time, and links to its span."""
    came = demo.intake.logs
    found = Counter(map(told, came))
    assert found == demo.logs
    assert len(found) > 10
    places = {(str(span.traceID), str(span.spanID)) for span in demo.intake.spans}
    traced = [log for log in came if "otel.trace_id" in log]
    assert {(log["dd.trace_id"], log["dd.span_id"]) for log in traced} <= places
    assert {(log["service"], log["hostname"]) for log in came} == {(SERVICE, HOST)}
    for log in came:
        assert {"env:e2e", "version:1.2.3", OF_FLOWS} <= set(log["ddtags"].split(","))
        assert abs(int(log["otel.timestamp"]) / 1e9 - time.time()) < 600


def test_refused_requests_come_again(ends: Backend) -> None:
    """After everything was refused twice, everything is there once."""
    assert set(ends.intake.refusing.values()) == {0}
    assert counts(ends.intake, "prefect.flow.runs", semconv.FLOW_NAME) == {
        ("good",): 3,
        ("bad",): 1,
    }
    found = Counter(map(told, ends.intake.logs))
    assert found == ends.logs
    assert len(found) > 10


def test_sampling_drops_traces_and_counts_them(ends: Backend) -> None:
    """With a share of 0 % only the failed trace arrives, and both kinds of metrics count all."""
    bad = kept(ends.spans.all)
    assert {span.name for span in bad} == {"RUN bad", "step"}
    assert sorted(came.spanID for came in ends.intake.spans) == sorted(
        context(span).span_id for span in bad
    )
    assert ends.intake.trace_metrics("Hits", SERVICE) == {
        ("prefect.flow", "RUN good"): 3,
        ("prefect.flow", "RUN bad"): 1,
        ("prefect.task", "step"): 4,
    }
    assert +ends.intake.trace_metrics("Errors", SERVICE) == {
        ("prefect.flow", "RUN bad"): 1,
        ("prefect.task", "step"): 1,
    }
    assert counts(ends.intake, "traces.span.metrics.calls", "span.name") == {
        ("RUN good",): 3,
        ("RUN bad",): 1,
        ("step",): 4,
    }


def test_every_request_has_the_key(demo: Backend, ends: Backend) -> None:
    """None went elsewhere; all five kinds arrived, and the key was validated."""
    for backend in (demo, ends):
        assert backend.intake.strange == []
        assert {TRACES, STATS, LOGS, SERIES, SKETCHES, VALIDATE} <= set(backend.intake.paths)


def test_what_is_told_of_the_host(demo: Backend, ends: Backend) -> None:
    """Its name and more, unless turned off."""
    assert {host["internalHostname"] for host in demo.intake.hosts} == {HOST}
    assert ends.intake.hosts == []


def test_no_key_in_a_file(demo: Backend) -> None:
    """The layer reads it from the environment; the Collector never writes it."""
    layer = yaml.safe_load((LAYERS / "datadog.yaml").read_text())
    assert layer["exporters"]["datadog"]["api"]["key"] == "${env:DD_API_KEY}"
    delivered = [*LAYERS.iterdir(), *(programs.ROOT / "compose").rglob("*")]
    delivered.append(programs.ROOT / "docker-compose.yml")
    for path in (path for path in delivered if path.is_file()):
        assert not re.search(rb"\b[0-9a-f]{32}\b", path.read_bytes()), path
    for path in demo.collector.log.parent.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path
