"""All instruments, in one class that only recorders call.

No metric carries the id or the random name of a run, so the number of series depends only on the
number of flows and tasks. Where they fit, names and units follow OpenTelemetry's conventions for
CI/CD pipelines (https://opentelemetry.io/docs/specs/semconv/cicd/cicd-metrics/).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry.metrics import get_meter

from flowspan import semconv
from flowspan._version import __version__
from flowspan.recording.custom_gauges import CustomGauges
from flowspan.redaction import redact
from flowspan.values import clean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.util.types import AttributeValue

    from flowspan.recording.run import Attributes, Outcome, Run


_MINUTE: Final = 60
_HOUR: Final = 3600
DURATION_BUCKETS: Final = (
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    *(_MINUTE, 2 * _MINUTE, 5 * _MINUTE, 10 * _MINUTE, 30 * _MINUTE),
    *(_HOUR, 2 * _HOUR, 4 * _HOUR, 8 * _HOUR, 12 * _HOUR, 24 * _HOUR),
)
"""Upper bounds in seconds, from 10 ms to 24 h; OpenTelemetry's default ends at 10,000 s."""
ROW_BUCKETS: Final = (0, *(10**power for power in range(11)))
"""Upper bounds in rows: none, then powers of ten."""


class RunMetrics:
    """The instruments, on one meter; durations are in seconds."""

    def __init__(self, provider: MeterProvider | None = None) -> None:
        """Create the instruments on a meter of `provider`, or of the global one if it is None."""
        meter = get_meter("flowspan", __version__, provider)
        self._pipeline_duration = meter.create_histogram(
            semconv.METRIC_PIPELINE_RUN_DURATION,
            unit="s",
            description="Duration of a flow run: its time in Running states, or pending before",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self._pipelines_active = meter.create_up_down_counter(
            semconv.METRIC_PIPELINE_RUN_ACTIVE,
            unit="{run}",
            description="Flow runs that an engine has taken up and not yet left",
        )
        self._pipeline_errors = meter.create_counter(
            semconv.METRIC_PIPELINE_RUN_ERRORS,
            unit="{error}",
            description="Errors in flow runs and their task runs, also those that were retried",
        )
        self._flow_runs = meter.create_counter(
            semconv.METRIC_FLOW_RUNS, unit="{run}", description="Flow runs that have ended"
        )
        self._task_runs = meter.create_counter(
            semconv.METRIC_TASK_RUNS, unit="{run}", description="Task runs that have ended"
        )
        self._task_duration = meter.create_histogram(
            semconv.METRIC_TASK_RUN_DURATION,
            unit="s",
            description="Duration of a task run: its time in Running states",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self._task_wait = meter.create_histogram(
            semconv.METRIC_TASK_RUN_WAIT,
            unit="s",
            description="What a task run waited for, in all",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self._tasks_active = meter.create_up_down_counter(
            semconv.METRIC_TASK_RUN_ACTIVE,
            unit="{run}",
            description="Task runs that an engine has taken up and not yet left",
        )
        self._task_retries = meter.create_counter(
            semconv.METRIC_TASK_RUN_RETRIES,
            unit="{retry}",
            description="Attempts of task runs after the first",
        )
        self._task_rows = meter.create_histogram(
            semconv.METRIC_TASK_ROWS,
            unit="{row}",
            description="Rows that went into a task run or came out of it",
            explicit_bucket_boundaries_advisory=ROW_BUCKETS,
        )
        self._violations = meter.create_counter(
            semconv.METRIC_SLO_VIOLATIONS,
            unit="{violation}",
            description="Objectives that flow runs have broken",
        )
        self._custom = CustomGauges(meter)

    def taken_up(self, run: Run, context: Context) -> None:
        """Record that an engine has taken `run` up."""
        self._count_active(run, 1, context, semconv.PIPELINE_RUN_PENDING)

    def executing(self, run: Run, pending: float | None, context: Context) -> None:
        """Record a flow run's first Running state here, after `pending` seconds if known."""
        self._count_active(run, -1, context, semconv.PIPELINE_RUN_PENDING)
        self._count_active(run, 1, context, semconv.PIPELINE_RUN_EXECUTING)
        if pending is not None:
            attributes = _with_deployment(run, _pipeline(run, semconv.PIPELINE_RUN_PENDING))
            self._pipeline_duration.record(pending, clean(attributes), context)

    def left(self, run: Run, context: Context, *, has_executed: bool) -> None:
        """Record that the engine has left `run`."""
        state = semconv.PIPELINE_RUN_EXECUTING if has_executed else semconv.PIPELINE_RUN_PENDING
        self._count_active(run, -1, context, state)

    def retried(self, run: Run, error_type: str, context: Context) -> None:
        """Record that the engine starts another attempt after one that failed."""
        if not run.is_flow:
            attributes = {**run.names, semconv.ERROR_TYPE: error_type}
            self._task_retries.add(1, clean(attributes), context)

    def error(self, run: Run, error_type: str, context: Context) -> None:
        """Record an error that ended an attempt of a flow or task run, the last one or not."""
        if run.flow_name is not None:  # a task run outside a flow is not part of a pipeline
            attributes = {
                semconv.PIPELINE_NAME: run.flow_name,
                semconv.FLOW_NAME: run.flow_name,
                semconv.ERROR_TYPE: error_type,
            }
            self._pipeline_errors.add(1, clean(attributes), context)

    def waited(self, run: Run, attribute: str, seconds: float, context: Context) -> None:
        """Record the total `seconds` that a task run waited, by the span's attribute."""
        if run.is_flow or attribute not in _TASK_WAITS:
            return
        attributes = {**run.names, semconv.WAIT_TYPE: _TASK_WAITS[attribute]}
        self._task_wait.record(seconds, clean(attributes), context)

    def moved(self, run: Run, attribute: str, rows: int, context: Context) -> None:
        """Record the `rows` of a task run in one direction, by the span's attribute."""
        if not run.is_flow:
            direction = attribute.removeprefix(semconv.ROWS_PREFIX)
            attributes = {**run.names, semconv.ROWS_DIRECTION: direction}
            self._task_rows.record(rows, clean(attributes), context)

    def ended(self, run: Run, outcome: Outcome, duration: float | None, context: Context) -> None:
        """Record the end of a run, after `duration` in Running states if it was in any."""
        attributes: Attributes = {
            **run.names,
            semconv.RUN_STATE_NAME: outcome.state_name,
            run.result_attribute: outcome.result,
        }
        if run.is_flow:
            self._flow_runs.add(1, clean(_with_deployment(run, attributes)), context)
            attributes = _with_deployment(run, _pipeline(run, semconv.PIPELINE_RUN_EXECUTING))
            attributes[semconv.PIPELINE_RESULT] = outcome.result
            duration_of = self._pipeline_duration
        else:
            self._task_runs.add(1, clean(attributes), context)
            attributes = dict(attributes)
            duration_of = self._task_duration
        if outcome.error_type is not None:
            attributes[semconv.ERROR_TYPE] = outcome.error_type
        if duration is not None:
            duration_of.record(duration, clean(attributes), context)

    def violated(self, run: Run, objective: str, context: Context) -> None:
        """Record that a flow run has violated an objective."""
        attributes = {**run.names, semconv.SLO_OBJECTIVE: objective}
        self._violations.add(1, clean(attributes), context)

    def measured(
        self,
        run: Run,
        name: str,
        value: float,
        unit: str,
        attributes: Mapping[str, AttributeValue],
        *,
        context: Context,
    ) -> None:
        """Record a measurement of the user's own in `run`."""
        masked = {key: redact(given, key) for key, given in attributes.items()}
        self._custom.set(name, value, unit, clean({**masked, **run.names}), context)

    def _count_active(self, run: Run, change: int, context: Context, state: str) -> None:
        if run.is_flow:
            self._pipelines_active.add(change, clean(_pipeline(run, state)), context)
        else:
            self._tasks_active.add(change, clean(run.names), context)


_TASK_WAITS: Final = {wait.attribute: wait.name for wait in semconv.WAITS if wait.in_metric}


def _pipeline(run: Run, state: str) -> Attributes:
    name = run.flow_name or ""
    return {
        semconv.PIPELINE_NAME: name,
        semconv.FLOW_NAME: name,  # all other metrics can be selected by it
        semconv.PIPELINE_RUN_STATE: state,
    }


def _with_deployment(run: Run, attributes: Attributes) -> Attributes:
    if run.deployment_name is not None:
        attributes[semconv.DEPLOYMENT_NAME] = run.deployment_name
    return attributes
