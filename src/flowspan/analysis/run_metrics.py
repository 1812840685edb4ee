"""Sum up how the runs of each flow and task went.

The success rate is the share of successes among the runs that ended as success, failure, timeout or
error: cancelling a run, or skipping it because its upstream failed, says nothing about the run
itself. Durations are the time in Running states of runs that did any work: cached and skipped runs
would only make the others look fast.
"""

import collections
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from flowspan import semconv
from flowspan.read.distribution import Distribution
from flowspan.read.metric_files import Counter, Gauge, Histogram, Metrics

_IDLE: Final = {
    semconv.RUN_STATE_NAME: "Cached",
    semconv.PIPELINE_RESULT: "skip",
    semconv.PIPELINE_TASK_RESULT: "skip",
}
_UNKNOWN: Final = "unknown"
_NO_UNIT: Final = "1"


@dataclass(slots=True)
class Runs:
    """The runs of one flow or one task.

    Attributes:
        name: The flow's or task's name. None for the flow of tasks that ran outside any flow.
        results: Runs by result.
        states: Runs by the name of their final state.
        duration: Seconds in Running states, for runs that did any work.
        waits: Seconds by kind of wait. Flows have ``pending``, tasks the names of those
            `semconv.WAITS` that are in the metric.
        retries: Attempts after the first, by the type of the error before them.
        rows: Rows by direction, ``output`` or ``input``.
        errors: Errors by type. For a task, the errors that ended a run; for a flow, all errors in
            its runs and its tasks' runs, retried ones included.
    """

    name: str | None
    results: collections.Counter[str] = field(default_factory=collections.Counter)
    states: collections.Counter[str] = field(default_factory=collections.Counter)
    duration: Distribution = field(default_factory=Distribution)
    waits: defaultdict[str, Distribution] = field(default_factory=lambda: defaultdict(Distribution))
    retries: collections.Counter[str] = field(default_factory=collections.Counter)
    rows: collections.Counter[str] = field(default_factory=collections.Counter)
    errors: collections.Counter[str] = field(default_factory=collections.Counter)

    @property
    def count(self) -> int:
        """The number of runs."""
        return sum(self.results.values())

    @property
    def success_rate(self) -> float | None:
        """Share, from 0 to 1, of the runs that succeeded; None if no run counts."""
        judged = sum(self.results[result] for result in semconv.JUDGED_RESULTS)
        return self.results["success"] / judged if judged else None


@dataclass(slots=True)
class FlowRuns(Runs):
    """Results of a flow: its runs, the violations of each objective, and the runs of its tasks.

    `tasks` is by name; tasks with the most total time come first.
    """

    violations: collections.Counter[str] = field(default_factory=collections.Counter)
    tasks: dict[str, Runs] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CustomMetric:
    """The latest value of a custom metric, and its time (ns since the epoch).

    `unit` is a UCUM code, or empty.
    """

    name: str
    flow: str | None
    task: str | None
    attributes: Mapping[str, Any]
    value: float
    unit: str
    time: int


@dataclass(frozen=True, slots=True)
class Report:
    """All flows, those with the most total time first, and the custom metrics.

    `start` and `end`, in nanoseconds since the epoch, span all of it.
    """

    flows: tuple[FlowRuns, ...]
    metrics: tuple[CustomMetric, ...]
    start: int
    end: int

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.flows and not self.metrics

    @property
    def flow_names(self) -> list[str]:
        """Names of all flows, in alphabetical order."""
        names = {flow.name for flow in self.flows} | {metric.flow for metric in self.metrics}
        return sorted(name for name in names if name is not None)


def summarize(metrics: Metrics) -> Report:
    """Sum up the metrics of each flow and each of its tasks."""
    found = _Found()
    for counter in metrics.counters:
        _add_counter(counter, found)
    for histogram in metrics.histograms:
        _add_histogram(histogram, found)
    for flow in found.flows.values():
        flow.tasks = {str(task.name): task for task in _longest_first(flow.tasks.values())}
    custom = sorted(map(_custom_metric, metrics.gauges), key=_place)
    flows = tuple(_longest_first(found.flows.values()))
    return Report(flows, tuple(custom), metrics.start, metrics.end)


def only(report: Report, flow: str) -> Report:
    """Return the part of a report that belongs to one flow."""
    return replace(
        report,
        flows=tuple(runs for runs in report.flows if runs.name == flow),
        metrics=tuple(metric for metric in report.metrics if metric.flow == flow),
    )


class _Found:
    """The flows and tasks found so far."""

    def __init__(self) -> None:
        self.flows: dict[str | None, FlowRuns] = {}

    def flow(self, attributes: Mapping[str, Any]) -> FlowRuns:
        name = _flow_name(attributes)
        return self.flows.setdefault(name, FlowRuns(name))

    def task(self, attributes: Mapping[str, Any]) -> Runs:
        name = str(attributes.get(semconv.TASK_NAME) or "")
        return self.flow(attributes).tasks.setdefault(name, Runs(name))


def _add_counter(counter: Counter, found: _Found) -> None:
    attributes, value = counter.attributes, counter.value
    match counter.name:
        case semconv.METRIC_FLOW_RUNS:
            _add_runs(found.flow(attributes), attributes, semconv.PIPELINE_RESULT, value)
        case semconv.METRIC_TASK_RUNS:
            _add_runs(found.task(attributes), attributes, semconv.PIPELINE_TASK_RESULT, value)
        case semconv.METRIC_TASK_RUN_RETRIES:
            found.task(attributes).retries[_word(attributes, semconv.ERROR_TYPE)] += value
        case semconv.METRIC_PIPELINE_RUN_ERRORS:
            found.flow(attributes).errors[_word(attributes, semconv.ERROR_TYPE)] += value
        case semconv.METRIC_SLO_VIOLATIONS:
            objective = _word(attributes, semconv.SLO_OBJECTIVE)
            found.flow(attributes).violations[objective] += value


def _add_runs(runs: Runs, attributes: Mapping[str, Any], result: str, value: int) -> None:
    runs.results[_word(attributes, result)] += value
    runs.states[_word(attributes, semconv.RUN_STATE_NAME)] += value


def _add_histogram(histogram: Histogram, found: _Found) -> None:
    attributes, values = histogram.attributes, histogram.values
    match histogram.name:
        case semconv.METRIC_PIPELINE_RUN_DURATION:
            state = attributes.get(semconv.PIPELINE_RUN_STATE)
            if state == semconv.PIPELINE_RUN_EXECUTING:
                _add_duration(found.flow(attributes), attributes, values)
            elif state == semconv.PIPELINE_RUN_PENDING:
                found.flow(attributes).waits[semconv.PIPELINE_RUN_PENDING].add(values)
        case semconv.METRIC_TASK_RUN_DURATION:
            task = found.task(attributes)
            _add_duration(task, attributes, values)
            if semconv.ERROR_TYPE in attributes:
                task.errors[_word(attributes, semconv.ERROR_TYPE)] += values.count
        case semconv.METRIC_TASK_RUN_WAIT:
            found.task(attributes).waits[_word(attributes, semconv.WAIT_TYPE)].add(values)
        case semconv.METRIC_TASK_ROWS:
            direction = _word(attributes, semconv.ROWS_DIRECTION)
            found.task(attributes).rows[direction] += round(values.total)


def _add_duration(runs: Runs, attributes: Mapping[str, Any], seconds: Distribution) -> None:
    if not any(attributes.get(name) == idle for name, idle in _IDLE.items()):
        runs.duration.add(seconds)


def _flow_name(attributes: Mapping[str, Any]) -> str | None:
    name = attributes.get(semconv.FLOW_NAME) or attributes.get(semconv.PIPELINE_NAME)
    return str(name) if name else None


def _word(attributes: Mapping[str, Any], name: str) -> str:
    return str(attributes.get(name) or _UNKNOWN)


_AnyRuns = TypeVar("_AnyRuns", bound=Runs)


def _longest_first(runs: Iterable[_AnyRuns]) -> list[_AnyRuns]:
    return sorted(runs, key=lambda each: (-each.duration.total, each.name or ""))


def _custom_metric(gauge: Gauge) -> CustomMetric:
    own = (semconv.FLOW_NAME, semconv.PIPELINE_NAME, semconv.TASK_NAME)
    task = gauge.attributes.get(semconv.TASK_NAME)
    return CustomMetric(
        gauge.name.removeprefix(semconv.METRIC_CUSTOM_PREFIX),
        _flow_name(gauge.attributes),
        str(task) if task else None,
        {name: value for name, value in gauge.attributes.items() if name not in own},
        gauge.value,
        "" if gauge.unit == _NO_UNIT else gauge.unit,
        gauge.time,
    )


def _place(metric: CustomMetric) -> tuple[str, ...]:
    return metric.flow or "", metric.name, metric.task or "", str(sorted(metric.attributes.items()))
