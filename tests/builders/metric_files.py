"""Write files of metrics for tests, with the real SDK and the real file exporter."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.json.file import FileMetricExporter
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import Aggregation, ExponentialBucketHistogramAggregation
from opentelemetry.sdk.resources import Resource

from flowspan import semconv

EPOCH = 1_700_000_000_000_000_000
"""Time of all points here, in nanoseconds since the epoch."""

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 14400, 86400)
"""Boundaries of durations, similar to flowspan's."""

ROWS = (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)


class Process:
    """A process whose runs are recorded; each `export` writes a line."""

    def __init__(
        self,
        file: Path,
        *,
        instance: str = "1",
        delta: bool = False,
        exponential: bool = False,
        bounds: Sequence[float] = SECONDS,
    ) -> None:
        temporality = AggregationTemporality.DELTA if delta else AggregationTemporality.CUMULATIVE
        aggregation: dict[type, Aggregation] = {}
        if exponential:
            aggregation[Histogram] = ExponentialBucketHistogramAggregation()
        file.parent.mkdir(parents=True, exist_ok=True)
        exporter = FileMetricExporter(
            file,
            preferred_temporality={Counter: temporality, Histogram: temporality},
            preferred_aggregation=aggregation,
        )
        reader = PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)
        resource = Resource({"service.name": "prefect", "service.instance.id": instance})
        self._provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        meter = self._provider.get_meter("flowspan", "1")
        self.flow_runs = meter.create_counter(semconv.METRIC_FLOW_RUNS, "{run}")
        self.flow_errors = meter.create_counter(semconv.METRIC_PIPELINE_RUN_ERRORS, "{error}")
        self.violations = meter.create_counter(semconv.METRIC_SLO_VIOLATIONS, "{violation}")
        self.task_runs = meter.create_counter(semconv.METRIC_TASK_RUNS, "{run}")
        self.retries = meter.create_counter(semconv.METRIC_TASK_RUN_RETRIES, "{retry}")
        self.flow_seconds, self.task_seconds, self.waits = (
            meter.create_histogram(name, "s", explicit_bucket_boundaries_advisory=bounds)
            for name in (
                semconv.METRIC_PIPELINE_RUN_DURATION,
                semconv.METRIC_TASK_RUN_DURATION,
                semconv.METRIC_TASK_RUN_WAIT,
            )
        )
        self.rows = meter.create_histogram(
            semconv.METRIC_TASK_ROWS, "{row}", explicit_bucket_boundaries_advisory=ROWS
        )
        self._meter = meter

    def close(self) -> None:
        """Export once more, like a process that ends."""
        self.export()  # a reader without an interval does not do that when it is shut down
        self._provider.shutdown()

    def export(self) -> None:
        """Write everything that is pending."""
        self._provider.force_flush()

    def flow(
        self,
        name: str,
        seconds: float,
        *,
        result: str = "success",
        state: str = "Completed",
        error: str | None = None,
        pending: float | None = None,
        violated: Sequence[str] = (),
    ) -> None:
        """Record a run of a flow."""
        end = {semconv.PIPELINE_RESULT: result}
        if error:
            end[semconv.ERROR_TYPE] = error
            self.flow_errors.add(1, {semconv.PIPELINE_NAME: name, semconv.ERROR_TYPE: error})
        self.flow_runs.add(
            1,
            {
                semconv.FLOW_NAME: name,
                semconv.RUN_STATE_NAME: state,
                semconv.PIPELINE_RESULT: result,
            },
        )
        lasted = {semconv.PIPELINE_RUN_EXECUTING: seconds, semconv.PIPELINE_RUN_PENDING: pending}
        for phase, length in lasted.items():
            if length is not None:
                attributes = {semconv.PIPELINE_NAME: name, semconv.PIPELINE_RUN_STATE: phase} | end
                self.flow_seconds.record(length, attributes)
        for objective in violated:
            attributes = {semconv.FLOW_NAME: name, semconv.SLO_OBJECTIVE: objective}
            self.violations.add(1, attributes)

    def task(
        self,
        flow: str | None,
        name: str,
        seconds: float,
        *,
        result: str = "success",
        state: str = "Completed",
        error: str | None = None,
        retried: Sequence[str] = (),
        rows: Mapping[str, int] | None = None,
        waits: Mapping[str, float] | None = None,
    ) -> None:
        """Record a run of a task; `rows` are by direction, `waits` by type of wait.

        `retried` are the errors of its earlier attempts.
        """
        where = {semconv.TASK_NAME: name} | ({semconv.FLOW_NAME: flow} if flow else {})
        end = where | {semconv.RUN_STATE_NAME: state, semconv.PIPELINE_TASK_RESULT: result}
        self.task_runs.add(1, end)
        failed = {semconv.ERROR_TYPE: error} if error else {}
        self.task_seconds.record(seconds, end | failed)
        for earlier in retried:
            self.retries.add(1, where | {semconv.ERROR_TYPE: earlier})
        for direction, count in (rows or {}).items():
            self.rows.record(count, where | {semconv.ROWS_DIRECTION: direction})
        for kind, length in (waits or {}).items():
            self.waits.record(length, where | {semconv.WAIT_TYPE: kind})

    def metric(self, name: str, value: float, unit: str = "1", **attributes: str) -> None:
        """Set a custom metric; the attributes `flow` and `task` name the run."""
        own = {"flow": semconv.FLOW_NAME, "task": semconv.TASK_NAME}
        gauge = self._meter.create_gauge(semconv.METRIC_CUSTOM_PREFIX + name, unit)
        gauge.set(value, {own.get(key, key): text for key, text in attributes.items()})


def raw_line(*metrics: Mapping[str, Any], resource: str = "") -> str:
    """Return a line of metrics."""
    attributes = [{"key": "service.instance.id", "value": {"stringValue": resource}}]
    scope_metrics = [{"scope": {"name": "flowspan"}, "metrics": list(metrics)}]
    one = {"resource": {"attributes": attributes}, "scopeMetrics": scope_metrics}
    return json.dumps({"resourceMetrics": [one]}) + "\n"


def raw_attributes(**attributes: str) -> list[dict[str, Any]]:
    """Return the attributes of a point; underscores stand for dots."""
    return [
        {"key": key.replace("_", "."), "value": {"stringValue": value}}
        for key, value in attributes.items()
    ]
