"""The facts about a run: what it is, the states it enters, how it ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from opentelemetry.trace import get_current_span
from opentelemetry.util.types import AttributeValue

from flowspan import semconv
from flowspan.redaction import redact_text

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind

    from flowspan.objectives.watch import Watch

Attributes: TypeAlias = dict[str, AttributeValue]
"""Attributes of a span, a log record or a point of a metric, by name."""


class Outcome(NamedTuple):
    """How a run ended: its state's name, its result, and the type of its error if it had one."""

    state_name: str
    result: str
    error_type: str | None


class State(NamedTuple):
    """A state that a run entered; `time` is the state's own timestamp."""

    type: str
    name: str
    id: str
    message: str | None
    time: int

    @property
    def is_final(self) -> bool:
        """Whether Prefect does not leave it again by itself."""
        return self.type in semconv.FINAL_STATE_TYPES

    @property
    def attributes(self) -> Attributes:
        """The attributes of the event that records a transition into it."""
        return {
            semconv.STATE_TYPE: self.type,
            semconv.STATE_NAME: self.name,
            semconv.STATE_ID: self.id,
            semconv.STATE_MESSAGE: redact_text(self.message or ""),
        }


class States:
    """The states that a run has entered.

    Attributes:
        last: The last one.
        left_as: The one that it will enter only after this process has left it, if known.
    """

    __slots__ = ("_seen", "last", "left_as")

    def __init__(self) -> None:
        self.last: State | None = None
        self.left_as: State | None = None
        self._seen: set[str] = set()

    @property
    def conclusion(self) -> State | None:
        """The state that the run ends with."""
        return self.left_as or self.last

    def enter(self, state: State) -> bool:
        """Make `state` the last one; return False if its id has been seen before."""
        if state.id in self._seen:
            return False
        self._seen.add(state.id)
        self.last = state
        return True


class Details(Protocol):
    """The facts about a run that may change until it ends."""

    def identify(self) -> Attributes:
        """Return the ids and current names of the run and of its flow run."""

    def attributes(self) -> Attributes:
        """Return the attributes of the run's span, if that is recorded: at its end and before."""


@dataclass(frozen=True)
class Run:
    """The facts about a run that are known when the engine takes it up.

    Attributes:
        id: The flow or task run's id.
        flow_name: The name of its flow; None for a task run outside any.
        task_name: The name of its task; None for a flow run.
        kind: The kind of its span.
        start: When the engine took the run up in this process.
        trace_id: The trace of a run without a parent.
        parent: Context with the parent's span, if there is one, here or in another process.
        run_count: How often the run had been running when the engine took it up.
        allows_retries: Whether each attempt gets a span of its own.
        upstream: The ids of the runs that it consumes.
        deployment_name: The name of a flow run's deployment.
        waits_before: Seconds waited before `start`, by attribute name.
        time_running: Nanoseconds in Running states before the engine took it up.
        is_adopted: Whether it was already running when it was taken up.
        watch: The watch over a flow run's objectives, if it has any.
        late: Seconds behind its schedule at `start`, if it has one.
        observed_by: What records it from outside of the process that it ran in; None if nothing.
    """

    id: str
    flow_name: str | None
    task_name: str | None
    kind: SpanKind
    start: int
    trace_id: int
    parent: Context | None
    run_count: int
    allows_retries: bool
    upstream: Collection[str]
    deployment_name: str | None = None
    waits_before: Mapping[str, float] = field(default_factory=dict)
    time_running: int = 0
    is_adopted: bool = False
    watch: Watch | None = None
    late: float | None = None
    observed_by: str | None = None

    @property
    def is_flow(self) -> bool:
        """Whether this is a flow run, not a task run."""
        return self.task_name is None

    @property
    def report(self) -> Attributes:
        """The attributes that identify its span in reports, while that is open."""
        report: Attributes = {
            **self.sampling_attributes,
            semconv.RUN_ID: self.id,
            semconv.RUN_START: self.start,
            semconv.RUN_SPAN_KIND: self.kind.name,
        }
        if self.parent is not None:
            parent = get_current_span(self.parent).get_span_context().span_id
            report[semconv.RUN_PARENT_SPAN_ID] = f"{parent:016x}"
        return report

    @property
    def span_name(self) -> str:
        """The low-cardinality name of its span."""
        return self.task_name or semconv.flow_span_name(self.flow_name or "")

    @property
    def result_attribute(self) -> str:
        """The attribute that says how the run ended."""
        return semconv.PIPELINE_RESULT if self.is_flow else semconv.PIPELINE_TASK_RESULT

    @cached_property
    def names(self) -> Attributes:
        """The names of its flow and task, as on all its metrics."""
        names = {semconv.FLOW_NAME: self.flow_name, semconv.TASK_NAME: self.task_name}
        return {key: name for key, name in names.items() if name is not None}

    @property
    def sampling_attributes(self) -> Attributes:
        """The few attributes that a sampler sees."""
        attributes = dict(self.names)
        attributes[semconv.RUN_TYPE] = "flow" if self.is_flow else "task"
        if self.is_flow:
            attributes[semconv.PIPELINE_NAME] = self.flow_name or ""
        return attributes
