"""Record runs from their histories, with the recorder that processes use, and the same ids.

What only a run's process can know is absent: how long the function ran, rows, what was waited for
inside of it, exceptions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from opentelemetry.trace import Link, SpanKind, TraceFlags
from prefect.utilities.urls import url_for

from flowspan import semconv
from flowspan._prefect.description import SHORTEST_WAIT, seconds
from flowspan._prefect.origin import as_parent, remote_context
from flowspan.identity import derive_span_id
from flowspan.recording.run import Run, State
from flowspan.redaction import redact, redact_parameter
from flowspan.watching.api import nanoseconds
from flowspan.watching.history import submitted, task_name
from flowspan.watching.lineage import caller_of_task, ids_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import SpanContext

    from flowspan.recording.recorder import RunRecorder, RunTracer
    from flowspan.recording.run import Attributes
    from flowspan.settings import Settings
    from flowspan.watching.api import Object
    from flowspan.watching.history import Known, Outline, Stint
    from flowspan.watching.lineage import Lineage

_AWAITING_RETRY: Final = "AwaitingRetry"
LOST: Final = "Lost"
"""The name of the state with which the span of a lost run ends; Prefect has none for it."""
_CANCELLED: Final = frozenset({"CANCELLED", "CANCELLING"})


@dataclass(frozen=True)
class Names:
    """The names of flows and deployments, by their ids."""

    flows: Mapping[str, str]
    deployments: Mapping[str, str]


@dataclass(frozen=True)
class Missing:
    """A span that is missing: a stint of a flow or task run.

    Attributes:
        known: The run.
        stint: The part of its life that the span covers.
    """

    known: Known
    stint: Stint

    @property
    def span_id(self) -> int:
        """The id that the span has."""
        return derive_span_id(self.known.id, self.stint.run_count)


@dataclass(frozen=True)
class FlowHistory:
    """What is known about a flow run of which spans are missing.

    Attributes:
        outline: The flow run and the runs in it.
        flow: The flow run with its states.
        lineage: Where it belongs.
        missing: The spans to record.
        end: How the runs end that the API takes to be open, although their process is gone.
    """

    outline: Outline
    flow: Known
    lineage: Lineage
    missing: Sequence[Missing]
    end: State | None = None

    @property
    def is_lost(self) -> bool:
        """Whether its process has not been heard of for long."""
        return self.end is not None and self.end.name == LOST


@dataclass
class Filler:
    """Records the missing spans of one flow run at a time.

    Attributes:
        tracer: What starts the recorders.
        settings: Whether values of parameters may be shown.
        is_sampled: Decides about a trace that nobody has decided about, by its id.
        late_reason: Returns why a flow run was late, by its id, if that was observed.
    """

    tracer: RunTracer
    settings: Settings
    is_sampled: Callable[[int], bool]
    late_reason: Callable[[str], str | None]
    _recorders: dict[str, RunRecorder] = field(default_factory=dict)

    def fill_in(self, history: FlowHistory, names: Names) -> None:
        """Record the missing spans of a flow run and its task runs; they have ended afterwards."""
        self._recorders.clear()
        flow = _Flow(history, names, self._flags(history.lineage))
        of_flow = [one for one in history.missing if one.known.is_flow]
        of_tasks = [one for one in history.missing if not one.known.is_flow]
        recorders = [(one, self._start_flow(flow, one)) for one in of_flow]
        # The first to start is the first in time, so a caller is there before what it calls.
        begun = sorted(of_tasks, key=lambda one: (one.stint.states[0].time, one.known.id))
        recorders += [(one, self._start_task(flow, one)) for one in begun]
        # The last to start ends first: an error counts for the innermost run.
        for one, recorder in reversed(recorders):
            _replay(recorder, one, flow.end_of(one))

    def _flags(self, lineage: Lineage) -> TraceFlags:
        if lineage.flags is not None:
            return lineage.flags
        return TraceFlags(TraceFlags.SAMPLED if self.is_sampled(lineage.trace_id) else 0)

    def _start_flow(self, flow: _Flow, one: Missing) -> RunRecorder:
        row = one.known.row
        name = flow.names.flows.get(row["flow_id"], "")
        waits, start = _waits_before_flow(one)
        recorder = self.tracer.start(
            Run(
                id=one.known.id,
                flow_name=name,
                task_name=None,
                kind=SpanKind.INTERNAL if _is_called(row) else SpanKind.SERVER,
                start=start,
                trace_id=flow.lineage.trace_id,
                parent=_as_parent(flow.lineage.parent),
                run_count=one.stint.run_count,
                allows_retries=_allows_retries(row, one.known),
                upstream=(),
                deployment_name=flow.names.deployments.get(row["deployment_id"] or ""),
                waits_before=seconds(waits),
                observed_by=semconv.OBSERVED_BY_WATCH,
            ),
            FlowDetails(row, self.settings, flow.names, self.late_reason(row["id"])),
        )
        recorder.link(flow.links(flow.lineage.inputs or {}))
        recorder.link(_previous(flow, one))
        if flow.history.outline.failed_below:
            recorder.tally.note_failure_below()
        self._recorders[one.known.id] = recorder
        return recorder

    def _start_task(self, flow: _Flow, one: Missing) -> RunRecorder:
        row = one.known.row
        caller_id = caller_of_task(row)
        waits, start = _waits_before_task(one)
        recorder = self.tracer.start(
            Run(
                id=one.known.id,
                flow_name=flow.names.flows.get(flow.history.flow.row["flow_id"], ""),
                task_name=task_name(row, one.known.first_name),
                kind=SpanKind.INTERNAL,
                start=start,
                trace_id=flow.lineage.trace_id,
                parent=_as_parent(flow.span_of(caller_id, start)),
                run_count=one.stint.run_count,
                allows_retries=_allows_retries(row, one.known),
                upstream=(),
                waits_before=seconds(waits),
                observed_by=semconv.OBSERVED_BY_WATCH,
            ),
            TaskDetails(row, task_name(row, one.known.first_name)),
            self._recorders.get(caller_id or "") or self._recorders.get(row["flow_run_id"] or ""),
        )
        recorder.link(flow.links(row["task_inputs"]))
        recorder.link(_previous(flow, one))
        self._recorders[one.known.id] = recorder
        return recorder


@dataclass(frozen=True)
class _Flow:
    """What the spans of one flow run have in common."""

    history: FlowHistory
    names: Names
    flags: TraceFlags

    @property
    def lineage(self) -> Lineage:
        """Where it belongs."""
        return self.history.lineage

    def span_of(self, run_id: str | None, moment: int) -> SpanContext | None:
        """Return the span that a run in this flow run had at some moment."""
        if run_id is None:
            return None
        count = 0
        if run_id == self.history.flow.id:
            begun = [s for s in self.history.flow.stints if s.states[0].time <= moment]
            count = begun[-1].run_count if begun else 0
        span_id = derive_span_id(run_id, count)
        return remote_context(self.lineage.trace_id, span_id, self.flags)

    def links(self, inputs: Mapping[str, list[Object]]) -> Iterator[Link]:
        """Yield a link to each upstream run, with the names of the inputs that it came in by."""
        names: dict[str, list[str]] = {}
        subflows = self.history.outline.subflows
        for name, found in inputs.items():
            if name != "__parents__":
                for run_id in ids_in(found):
                    names.setdefault(subflows.get(run_id, run_id), []).append(name)
        for run_id, through in names.items():
            yield Link(
                remote_context(self.lineage.trace_id, derive_span_id(run_id), self.flags),
                {semconv.LINK_TYPE: semconv.LINK_DEPENDENCY, semconv.INPUT_NAME: ",".join(through)},
            )

    def end_of(self, one: Missing) -> State | None:
        """Return the state that a run ends with, if its own states tell no end."""
        is_last = one.stint.states[-1].id == one.known.last.id
        return None if one.known.has_ended or not is_last else self.history.end


def end_below(flow: State) -> State:
    """Return how the runs end that are open although the flow run that called them has ended."""
    if flow.type in _CANCELLED:
        return flow._replace(id="", message="its flow run was cancelled")
    said = f": {flow.message}" if flow.message else ""
    return State("CRASHED", "Crashed", "", f"its flow run ended as {flow.name}{said}", flow.time)


def _replay(recorder: RunRecorder, one: Missing, end: State | None) -> None:
    """Tell a recorder the states, and end its span."""
    states = one.stint.states
    for state in states:
        if state.type == semconv.RUNNING or state.is_final or state.name == _AWAITING_RETRY:
            recorder.end_execution(state.time)
        recorder.enter_state(state)
        if state.type == semconv.RUNNING and not _is_resumed(states, state):
            recorder.begin_attempt(state.time)
    last = states[-1].time
    if end is not None:
        recorder.leave_as(end)
        last = max(last, end.time)
    recorder.finish(last)


def _is_resumed(states: tuple[State, ...], state: State) -> bool:
    """Return whether a Running state only continues an attempt after a pause."""
    before = states.index(state) - 1
    return before >= 0 and states[before].type == "PAUSED"


def _waits_before_flow(one: Missing) -> tuple[dict[str, int], int]:
    """Return what a flow run waited for before its span, and when that starts."""
    states, row = one.stint.states, one.known.row
    end = states[-1].time
    running = one.stint.first_running
    if states[0].type != "SCHEDULED":  # a script's run or a subflow: the process makes it
        return {}, states[0].time
    start = end if running is None else running
    expected = states[0].time
    if one.stint.run_count == 0 and row["expected_start_time"]:
        expected = nanoseconds(row["expected_start_time"])
    pending = min((s.time for s in states if s.type == "PENDING"), default=start)
    waits = {
        semconv.WAIT_LATE: pending - expected,
        semconv.WAIT_INFRASTRUCTURE: start - pending,
    }
    return waits, start


def _waits_before_task(one: Missing) -> tuple[dict[str, int], int]:
    """Return how long a task run waited for a worker, and when its span starts."""
    states = one.stint.states
    # The engine enters Pending as it takes the run up, but a server enters a deferred run.
    taken_up = (s.time for s in states if s.type == "PENDING")
    running = one.stint.first_running
    start = next(taken_up, states[0].time if running is None else running)
    if one.known.is_deferred and running is not None:
        start = running
    since = submitted(one.known.id)
    if since is None:
        since = states[0].time
    waited = start - since
    is_first = one.stint.run_count == 0
    waits = {semconv.WAIT_QUEUE: waited} if is_first and waited >= SHORTEST_WAIT else {}
    return waits, start


def _is_called(row: Object) -> bool:
    """Return whether another flow has called this one, in its own process."""
    return bool(row["parent_task_run_id"]) and not row["deployment_id"]


def _previous(flow: _Flow, one: Missing) -> Iterator[Link]:
    """Yield a link to the span of the process that had the run before."""
    stints = one.known.stints
    place = next(i for i, s in enumerate(stints) if s.run_count == one.stint.run_count)
    if place:
        span_id = derive_span_id(one.known.id, stints[place - 1].run_count)
        context = remote_context(flow.lineage.trace_id, span_id, flow.flags)
        yield Link(context, {semconv.LINK_TYPE: semconv.LINK_PREVIOUS_ATTEMPT})


def _allows_retries(row: Object, known: Known) -> bool:
    """Return whether each attempt has a span; the API does not say so for each kind of run."""
    policy = row.get("empirical_policy") or {}
    return bool(policy.get("retries")) or any(s.name == "Retrying" for s in known.states)


def _as_parent(context: SpanContext | None) -> Context | None:
    return as_parent(context) if context is not None else None


@dataclass(frozen=True)
class FlowDetails:
    """The facts about a flow run that its span has."""

    row: Object
    settings: Settings
    names: Names
    late_reason: str | None

    def identify(self) -> Attributes:
        """Return the ids and names on log records about the run."""
        return {semconv.FLOW_RUN_ID: self.row["id"], semconv.FLOW_RUN_NAME: self.row["name"]}

    def attributes(self) -> Attributes:
        """Return the attributes of its span."""
        row = self.row
        attributes = _attributes(row)
        for name, value in (row["parameters"] or {}).items():
            shown = type(value).__name__
            if self.settings.capture_parameters == "values":
                shown = redact_parameter(value, name)
            attributes[semconv.RUN_PARAMETER_PREFIX + name] = shown
        described = {
            semconv.FLOW_RUN_ID: row["id"],
            semconv.PIPELINE_RUN_ID: row["id"],
            semconv.PIPELINE_RUN_URL: url_for("flow-run", obj_id=row["id"]),
            semconv.FLOW_ID: row["flow_id"],
            semconv.FLOW_VERSION: row["flow_version"],
            semconv.DEPLOYMENT_ID: row["deployment_id"],
            semconv.DEPLOYMENT_NAME: self.names.deployments.get(row["deployment_id"] or ""),
            semconv.WORK_POOL_NAME: row["work_pool_name"],
            semconv.WORK_QUEUE_NAME: row["work_queue_name"],
            semconv.LATE_REASON: self.late_reason,
        }
        attributes.update({name: value for name, value in described.items() if value is not None})
        return attributes


@dataclass(frozen=True)
class TaskDetails:
    """The facts about a task run that its span has."""

    row: Object
    name: str

    def identify(self) -> Attributes:
        """Return the ids and names on log records about the run."""
        return {semconv.TASK_RUN_ID: self.row["id"], semconv.TASK_RUN_NAME: self.row["name"]}

    def attributes(self) -> Attributes:
        """Return the attributes of its span."""
        row = self.row
        attributes = _attributes(row)
        described = {
            semconv.PIPELINE_TASK_NAME: self.name,
            semconv.PIPELINE_TASK_RUN_ID: row["id"],
            semconv.PIPELINE_TASK_RUN_URL: url_for("task-run", obj_id=row["id"]),
            semconv.TASK_KEY: row["task_key"],
            semconv.TASK_CACHED: row["state_name"] == "Cached",
            semconv.FLOW_RUN_ID: row["flow_run_id"],
        }
        attributes.update({name: value for name, value in described.items() if value is not None})
        return attributes


def _attributes(row: Object) -> Attributes:
    labels = row.get("labels") or {}
    attributes = {
        name: redact(value, name) for name, value in labels.items() if not name.startswith("__")
    }
    attributes[semconv.RUN_ID] = row["id"]
    attributes[semconv.RUN_NAME] = row["name"]
    attributes[semconv.RUN_COUNT] = row["run_count"]
    attributes[semconv.TAGS] = row["tags"]
    return attributes
