"""Describe a run: its names, attributes, upstream runs, and waits before its start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from prefect.context import FlowRunContext
from prefect.utilities.urls import url_for

from flowspan import semconv
from flowspan._prefect.objective_watch import watch_for
from flowspan._prefect.states import before_pick_up, nanoseconds
from flowspan._prefect.upstream import names_by_run_id
from flowspan.redaction import redact, redact_parameter
from flowspan.units import NANOSECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.util.types import AttributeValue

    from flowspan._prefect.observer import EngineObserver
    from flowspan._prefect.origin import Origin
    from flowspan._prefect.past import Past
    from flowspan.objectives.watch import Watch

# A run id has milliseconds, and looking at upstream runs takes a fraction of one, even if there is
# nothing to wait for.
SHORTEST_WAIT: Final = 1_000_000
_UUID7: Final = 7
_MILLISECOND: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Description:
    """Describe a run by what its engine and the API know; the base class for flow and task runs."""

    engine: Any
    run: Any
    given: Mapping[str, Any] | None
    past: Past
    observer: EngineObserver
    run_count: int  # how often the run had been running when the engine took it up

    @property
    def time_running(self) -> int:
        """Nanoseconds in Running states before the engine took the run up."""
        if any(state.is_final() for state in self.past.states):
            return 0  # time before an end has been recorded, even if the run was started again
        seconds: float = self.run.total_run_time.total_seconds()
        return round(seconds * NANOSECONDS)

    def attributes(self) -> dict[str, AttributeValue]:
        """Return the attributes that flow and task runs have in common; called at the end.

        Labels and parameters come first: there may be many, and a limit drops what came first.
        """
        run = self.engine.flow_run if hasattr(self.engine, "flow") else self.run
        attributes: dict[str, AttributeValue] = {
            name: redact(value, name)
            for name, value in run.labels.items()
            if not name.startswith("__")
        }
        # By now the engine has replaced futures with their results.
        parameters: Mapping[str, Any] = self.engine.parameters or self.given or {}
        if self.observer.settings.capture_parameters == "values":
            for name, value in parameters.items():
                attributes[semconv.RUN_PARAMETER_PREFIX + name] = redact_parameter(value, name)
        else:
            for name, value in parameters.items():
                attributes[semconv.RUN_PARAMETER_PREFIX + name] = type(value).__name__
        attributes[semconv.RUN_ID] = str(run.id)
        attributes[semconv.RUN_NAME] = run.name
        attributes[semconv.RUN_COUNT] = run.run_count
        attributes[semconv.TAGS] = run.tags
        return attributes


class FlowRunDescription(Description):
    __slots__ = ()
    task_name = None

    @property
    def flow_name(self) -> str:
        name: str = self.engine.flow.name
        return name

    @property
    def deployment_name(self) -> str | None:
        return self.past.deployment.name if self.past.deployment is not None else None

    @property
    def allows_retries(self) -> bool:
        return bool(self.run.empirical_policy.retries or self.engine.flow.retries)

    def attributes(self) -> dict[str, AttributeValue]:
        attributes = Description.attributes(self)
        run = self.engine.flow_run
        described = {
            semconv.FLOW_RUN_ID: str(run.id),
            semconv.PIPELINE_RUN_ID: str(run.id),
            semconv.PIPELINE_RUN_URL: url_for("flow-run", obj_id=run.id),
            semconv.FLOW_ID: run.flow_id and str(run.flow_id),
            semconv.FLOW_VERSION: run.flow_version or self.engine.flow.version,
            semconv.DEPLOYMENT_ID: run.deployment_id and str(run.deployment_id),
            semconv.DEPLOYMENT_NAME: self.deployment_name,
            semconv.WORK_POOL_NAME: run.work_pool_name,
            semconv.WORK_QUEUE_NAME: run.work_queue_name,
        }
        attributes.update({name: value for name, value in described.items() if value is not None})
        return attributes

    def upstream(self, origin: Origin) -> dict[str, list[str]]:
        """Return the upstream runs of a subflow, with the names of the inputs they came in by."""
        if not origin.is_called:
            return {}
        # They cannot be looked up again: Prefect finds a result by its address, which another
        # object may have by now (https://github.com/PrefectHQ/prefect/issues/20558).
        inputs = self.observer.take_inputs(self.run.parent_task_run_id)
        context = FlowRunContext.get()
        caller = context.flow_run.id if context is not None and context.flow_run else None
        return names_by_run_id(inputs, self.observer.subflows_of(caller))

    def identify(self) -> dict[str, AttributeValue]:
        """Return the run's id and name; the name may be set after its start."""
        identity: dict[str, AttributeValue] = {
            semconv.FLOW_NAME: self.flow_name,
            semconv.FLOW_RUN_ID: str(self.run.id),
            semconv.FLOW_RUN_NAME: self.run.name,
        }
        if self.deployment_name is not None:
            identity[semconv.DEPLOYMENT_NAME] = self.deployment_name
        return identity

    def waits_before(self, start: int) -> dict[str, int]:
        states, expected = before_pick_up(self.past.states), self._expected_start()
        if not states or expected is None:
            return {}
        pending = [nanoseconds(s.timestamp) for s in states if s.type.value == "PENDING"]
        first = min(pending, default=start)
        return {semconv.WAIT_LATE: first - expected, semconv.WAIT_INFRASTRUCTURE: start - first}

    def watch(self) -> Watch | None:
        """Return the watch over the run's objectives, if it has any."""
        return watch_for(self.run, self.engine.flow, self.observer.settings)

    def late(self, start: int) -> float | None:
        """Return how many seconds behind schedule the run is when it is first taken up."""
        expected = self._expected_start()
        if self.run_count > 0 or expected is None or not before_pick_up(self.past.states):
            return None
        return max(0, start - expected) / NANOSECONDS

    def _expected_start(self) -> int | None:
        """Return when the run should have started or resumed; the API keeps only the first."""
        expected = self.run.expected_start_time
        for state in before_pick_up(self.past.states):
            if self.run_count > 0 and state.type.value == "SCHEDULED":
                expected = state.state_details.scheduled_time or state.timestamp
        return None if expected is None else nanoseconds(expected)


class TaskRunDescription(Description):
    __slots__ = ()
    deployment_name = None

    def identify(self) -> dict[str, AttributeValue]:
        """Return the ids and names of the run and its flow run; names may be set later."""
        identity: dict[str, AttributeValue] = {
            semconv.TASK_NAME: self.task_name,
            semconv.TASK_RUN_ID: str(self.run.id),
            semconv.TASK_RUN_NAME: self.run.name,
        }
        if self.run.flow_run_id is not None:
            identity[semconv.FLOW_RUN_ID] = str(self.run.flow_run_id)
        context = FlowRunContext.get() or self.past  # process pools get it too
        if context.flow_run is not None and context.flow is not None:
            identity[semconv.FLOW_NAME] = context.flow.name
            identity[semconv.FLOW_RUN_NAME] = context.flow_run.name
        return identity

    def watch(self) -> None:
        """Return nothing: only flow runs have objectives."""

    def late(self, _start: int) -> None:
        """Return nothing: task runs have no schedule."""

    @property
    def flow_name(self) -> str | None:
        context = FlowRunContext.get() or self.past
        return context.flow.name if context.flow is not None else None

    @property
    def task_name(self) -> str:
        name: str = self.engine.task.name
        return name

    @property
    def allows_retries(self) -> bool:
        return bool(self.engine.task.retries)

    def attributes(self) -> dict[str, AttributeValue]:
        attributes = Description.attributes(self)
        run, run_id = self.run, str(self.run.id)
        attributes[semconv.PIPELINE_TASK_NAME] = self.task_name
        attributes[semconv.PIPELINE_TASK_RUN_ID] = run_id
        attributes[semconv.TASK_KEY] = self.engine.task.task_key
        attributes[semconv.TASK_CACHED] = run.state_name == "Cached"
        if run.flow_run_id is not None:
            attributes[semconv.FLOW_RUN_ID] = str(run.flow_run_id)
        if (url := self.observer.url_of_task_run(run_id)) is not None:
            attributes[semconv.PIPELINE_TASK_RUN_URL] = url
        return attributes

    def upstream(self, _origin: Origin) -> dict[str, list[str]]:
        """Return the upstream runs, with the names of the inputs they came in by."""
        subflows = self.observer.subflows_of(self.run.flow_run_id)
        names = names_by_run_id(self.run.task_inputs, subflows)
        for name, run_ids in self.past.note.upstream.items():
            for run_id in run_ids:
                known = names.setdefault(run_id, [])
                if name not in known:
                    known.append(name)
        return names

    def waits_before(self, start: int) -> dict[str, int]:
        return waits_before_task(self.run, self.past, start)


def waits_before_task(run: Any, past: Past, start: int) -> dict[str, int]:
    """Return what a task run waited for before `start`: first upstream runs, then a worker.

    Only task runners in other processes wait for upstream runs before they start a run.
    """
    if run.id.version == _UUID7:
        # RFC 9562, section 5.7: the first 48 bits are milliseconds since the epoch.
        submitted: int | None = (run.id.int >> 80) * _MILLISECOND
    elif past.states:  # a deferred run: the API made its id
        submitted = min(nanoseconds(state.timestamp) for state in past.states)
    else:
        submitted = past.note.submitted
    if submitted is None:
        return {}
    ready = max(submitted, min(past.note.ended, start))
    return {semconv.WAIT_DEPENDENCIES: ready - submitted, semconv.WAIT_QUEUE: start - ready}


def seconds(waits: Mapping[str, int]) -> dict[str, float]:
    return {name: ns / NANOSECONDS for name, ns in waits.items() if ns >= SHORTEST_WAIT}
