"""All that touches a private detail of Prefect: the patches, and what they tell the recorder.

Prefect's run engines hand each start, state change and end of a run to a telemetry object. An
`EngineTelemetry` takes its place, so Prefect's own spans are replaced rather than doubled, and a
few methods around it tell what that object does not hear: when the engine is entered and left, when
the user's function is, and what is waited for. `PATCHES` is the list of all of them; the seams have
had the same shape from Prefect 3.6.0 on.
"""

from __future__ import annotations

import asyncio
import os
import sys
import weakref
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

from opentelemetry import context as context_api
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    NoOpTracer,
    SpanContext,
    SpanKind,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import TerminationSignal
from prefect.flow_engine import AsyncFlowRunEngine, FlowRunEngine
from prefect.futures import PrefectFuture
from prefect.logging.loggers import flow_run_logger
from prefect.task_engine import AsyncTaskRunEngine, SyncTaskRunEngine
from prefect.telemetry.run_telemetry import LABELS_TRACEPARENT_KEY, RunTelemetry
from prefect.transactions import TransactionState
from prefect.utilities.urls import url_for

from flowspan import semconv
from flowspan._containment import Containment
from flowspan.identity import derive_span_id, derive_trace_id
from flowspan.recorder import Run, RunTracer, State, current_recorder
from flowspan.redaction import redact
from flowspan.rows import count_rows

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Mapping
    from datetime import datetime
    from types import TracebackType

    from opentelemetry.context import Context
    from opentelemetry.util.types import AttributeValue
    from prefect.client.orchestration import PrefectClient, SyncPrefectClient
    from prefect.client.schemas.objects import State as PrefectState
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.types import KeyValueLabels

    from flowspan.recorder import RunRecorder
    from flowspan.settings import Settings

    Inputs = Mapping[str, Iterable[Any]]
    Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]

# Beside Prefect's own label, and hidden from users like it by its prefix: the remote parent that a
# run had before its own trace parent took that label's place. A later process needs it.
_PARENT_LABEL: Final = "__FLOWSPAN_PARENT"
_ENGINES: Final = (SyncTaskRunEngine, AsyncTaskRunEngine, FlowRunEngine, AsyncFlowRunEngine)
_UUID7: Final = 7
_MILLISECOND: Final = 1_000_000
_NANOSECONDS: Final = 1_000_000_000
# What waiting for upstream runs and for a slot costs when there is nothing to wait for.
_SHORTEST_WAIT: Final = _MILLISECOND
_FUTURES_SEARCHED: Final = 1000
_REMEMBERED: Final = 1000

K = TypeVar("K")
V = TypeVar("V")

_propagator = TraceContextTextMapPropagator()
_contained = Containment("engine")


class _Recent(dict[K, V]):
    """A dict that forgets its oldest entries."""

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        if len(self) > _REMEMBERED:
            self.pop(next(iter(self)), None)


class EngineObserver:
    """Watches all engines of this process on behalf of one `RunTracer`."""

    def __init__(self, tracer: RunTracer, settings: Settings, flush: Callable[[], object]) -> None:
        """Record on `tracer`; `flush` is called when a top-level flow run ends."""
        self.tracer = tracer
        self.settings = settings
        self.flush = flush
        self._subflows: dict[str, dict[str, str]] = {}
        self._foreign_trace_ids = _Recent[str, int]()
        self._inputs = _Recent[str, "Inputs"]()

    def subflows_of(self, flow_run_id: object) -> Mapping[str, str]:
        """Return a flow run's subflows by the task runs that stand for them in Prefect's API."""
        return self._subflows.get(str(flow_run_id), {})

    def remember_subflow(self, run: FlowRun) -> None:
        """Note which task run stands for a subflow, until the flow that calls it is left."""
        context = FlowRunContext.get()
        caller = str(context.flow_run.id) if context and context.flow_run else None
        if caller in self.tracer.active:
            self._subflows.setdefault(caller, {})[str(run.parent_task_run_id)] = str(run.id)

    def remember_inputs(self, run: TaskRun) -> None:
        """Keep the inputs of a task run that the API made: it may come to stand for a subflow."""
        self._inputs[str(run.id)] = run.task_inputs

    def take_inputs(self, task_run_id: object) -> Inputs:
        """Return the inputs of the task run that stands for a subflow, and forget them."""
        return self._inputs.pop(str(task_run_id), {})

    def remember_trace_id(self, flow_run_id: str, trace_id: int) -> None:
        """Keep the trace id of a flow run if it does not follow from the run's own id."""
        if trace_id != derive_trace_id(flow_run_id):
            self._foreign_trace_ids[flow_run_id] = trace_id

    def forget(self, flow_run_id: str) -> None:
        """Drop what only the runs of a flow run that has ended needed."""
        self._subflows.pop(flow_run_id, None)

    def trace_id_of(self, flow_run_id: str) -> int:
        """Return the trace id of a flow run, by its id if this process knows no better."""
        return self._foreign_trace_ids.get(flow_run_id) or derive_trace_id(flow_run_id)

    @cached_property
    def task_url(self) -> str:
        """The URL of a task run, with `_ANY_ID` for its id; empty if there is no UI."""
        # Prefect reads several settings to make one; that is too slow for every task run.
        return url_for("task-run", obj_id=_ANY_ID) or ""

    def adopt_running(self) -> None:
        """Take up the runs whose engines called the code that is running now."""
        frame, engines = sys._getframe(), []  # noqa: SLF001 - the only way to reach the engines
        while frame is not None:
            engine = frame.f_locals.get("engine") if "engine" in frame.f_code.co_varnames else None
            if isinstance(engine, _ENGINES):
                engines.append(engine)
            frame = frame.f_back  # type: ignore[assignment]
        caller: RunRecorder | None = None
        for engine in reversed(engines):
            with _contained:
                telemetry = engine._telemetry  # noqa: SLF001
                if not isinstance(telemetry, EngineTelemetry):
                    telemetry = EngineTelemetry(self, engine)
                    telemetry.adopt(caller)
                caller = telemetry.recorder


class EngineTelemetry(RunTelemetry):
    """Stands where Prefect's engines keep their telemetry object and tells a recorder instead.

    Prefect's own fields stay inert (`span` is None and `_enabled` False), so that whatever a later
    release adds to the base class does nothing.
    """

    def __init__(self, observer: EngineObserver, engine: Any) -> None:
        """Take over `engine`, which takes its run up now."""
        self._tracer = _NO_TRACER
        self.span = None
        self._enabled = False
        self._observer = observer
        # The engine holds this object. A cycle would keep the arguments and results of every task
        # in memory until Python's garbage collector runs.
        self._engine_ref = weakref.ref(engine)
        self._start = time_ns()
        self.outer = context_api.get_current()
        self._is_flow = hasattr(engine, "flow")
        # Once the run has begun, the context of a task run is its own.
        self._calling_task = TaskRunContext.get()
        # A run that the engine does not create itself has a past, which the API knows.
        self._has_past = self._run is not None
        self._replaced: RunTelemetry = engine._telemetry  # noqa: SLF001
        self._is_adopted = False
        self._adopted_caller: RunRecorder | None = None
        self._is_terminated = False
        self.recorder: RunRecorder | None = None
        self.transaction: Any = None
        self._told_state: PrefectState | None = None
        self.has_upstream = False
        engine._telemetry = self  # noqa: SLF001

    @property
    def _engine(self) -> Any:
        return self._engine_ref()

    @property
    def _run(self) -> FlowRun | TaskRun | None:
        engine = self._engine
        run: FlowRun | TaskRun | None = engine.flow_run if self._is_flow else engine.task_run
        return run

    # What Prefect's engines call

    def start_span(
        self,
        run: FlowRun | TaskRun,
        client: SyncPrefectClient,
        parameters: dict[str, Any] | None = None,
    ) -> None:
        """Begin to record `run`; asks and tells the API what it must, as Prefect's own would."""
        past = _Past()
        with _contained:
            if self._has_past and isinstance(run, FlowRun):
                past.states = client.read_flow_run_states(run.id)
                if run.deployment_id is not None:
                    past.deployment = client.read_deployment(run.deployment_id)
            elif self._has_past:
                past.states = client.read_task_run_states(run.id)
        with _contained:
            labels = self._begin(run, parameters, past)
            if labels and isinstance(run, FlowRun):
                client.update_flow_run_labels(run.id, labels)

    async def async_start_span(
        self,
        run: FlowRun | TaskRun,
        client: PrefectClient,
        parameters: dict[str, Any] | None = None,
    ) -> None:
        """Begin to record `run`, as `start_span` does."""
        past = _Past()
        with _contained:
            if self._has_past and isinstance(run, FlowRun):
                past.states = await client.read_flow_run_states(run.id)
                if run.deployment_id is not None:
                    past.deployment = await client.read_deployment(run.deployment_id)
            elif self._has_past:
                past.states = await client.read_task_run_states(run.id)
        with _contained:
            labels = self._begin(run, parameters, past)
            if labels and isinstance(run, FlowRun):
                await client.update_flow_run_labels(run.id, labels)

    def update_state(self, new_state: PrefectState) -> None:
        """Record a state transition."""
        with _contained:
            if self.recorder is not None:
                self._told_state = new_state
                self.recorder.enter_state(_as_state(new_state))
                if self._is_adopted and self.recorder.state_is_final:
                    # Its engine was entered before it could be wrapped: there is no later sign.
                    self.leave()

    def record_exception(self, exc: BaseException) -> None:
        """Record the exception that ended an attempt, if nothing has told of it before."""
        with _contained:
            if self.recorder is not None:
                self.recorder.fail(exc, time_ns())

    def end_span_on_success(self) -> None:
        """Do nothing: the run ends when its engine leaves it."""

    def end_span_on_failure(self, terminal_message: str | None = None) -> None:
        """Leave a run that is being terminated, for nothing may come after this."""
        with _contained:
            if self._is_terminated and self.recorder is not None:
                if not self.recorder.state_is_final:
                    # Only a cancellation by Prefect's runner ends without a state of its own: the
                    # runner sets Cancelled once this process is gone.
                    self.recorder.leave_as(
                        State("CANCELLED", "Cancelled", "", terminal_message, time_ns())
                    )
                # Prefect sends itself the signal again, which kills the process inside the engine.
                self.leave()

    # What the patches below call

    def adopt(self, caller: RunRecorder | None) -> None:
        """Begin to record a run whose user function is already running, called by `caller`."""
        run = self._run
        if run is None:
            return
        self._is_adopted, self._adopted_caller = True, caller
        entered = run.state.timestamp if run.state is not None else None
        started = run.start_time if run.run_count <= 1 else entered
        if started is not None:
            self._start = _nanoseconds(started)
        labels = self._begin(run, self._engine.parameters, _Past())
        if self.recorder is None:
            return
        self.recorder.begin_attempt(self._start)
        self.recorder.begin_execution(self._start)
        context_api.attach(self.recorder.as_context())
        if labels and isinstance(run, FlowRun):
            # Once in a run, and of a client of our own: the engine's may be asynchronous.
            with get_client(sync_client=True) as client:
                client.update_flow_run_labels(run.id, labels)

    def count_input(self) -> None:
        """Count the rows that a task's function is about to get."""
        if self.recorder is not None and self._engine.parameters:
            counts = [count_rows(value) for value in self._engine.parameters.values()]
            known = [count for count in counts if count is not None]
            self.recorder.rows.count(semconv.ROWS_INPUT, sum(known) if known else None)

    def terminate(self) -> None:
        """Note that a signal ends the process; leave the run if its engine has no more to say."""
        self._is_terminated = True
        if self.recorder is not None and self.recorder.state_is_final:
            self.leave()

    def leave(self) -> Callable[[], object] | None:
        """End the run's span, as the engine leaves the run; return what is left to do, if anything.

        That is the flush at the end of a top-level flow run, which may take its time. It is done at
        once where the process is about to die.
        """
        context_api.attach(self.outer)
        recorder, run = self.recorder, self._run
        if recorder is None or recorder.is_finished:
            return None
        if run is not None and run.state is not None and run.state is not self._told_state:
            recorder.enter_state(_as_state(run.state))
        self._told_state = None
        own_transaction, self.transaction = self.transaction, None  # its hooks hold the engine
        if _may_be_rolled_back(own_transaction):
            recorder.awaits_rollback = True
            own_transaction.on_commit_hooks.append(_commit_hook(recorder))
            return None
        recorder.finish()
        if not self._is_flow:
            return None
        self._observer.forget(recorder.run.id)
        self._observer.tracer.finish_descendants(recorder, everything=self._is_terminated)
        if recorder.run.parent_recorder is not None:
            return None
        if self._is_terminated or self._is_adopted:
            self._observer.flush()
            return None
        return self._observer.flush

    def roll_back(self) -> None:
        """Record that a transaction rolled the task run back, maybe long after its end."""
        event = self._engine._last_event  # noqa: SLF001
        if self.recorder is None or event is None:
            return
        state = event.payload["validated_state"]
        moment = _nanoseconds(event.occurred)
        self.recorder.enter_state(
            State(state["type"], state["name"], str(event.id), state["message"], moment)
        )
        if self.recorder.awaits_rollback:
            self.recorder.finish()

    def _begin(
        self, run: FlowRun | TaskRun, parameters: Mapping[str, Any] | None, past: _Past
    ) -> KeyValueLabels:
        """Start the recorder and return the labels that let other processes join the trace."""
        origin: _Origin
        description: _Description
        if isinstance(run, FlowRun):
            origin = self._origin_of_flow_run(run)
            if origin.is_called:
                self._observer.remember_subflow(run)
            if run.state is not None and run.state.is_final():
                return {}  # a retried flow reads the result of a subflow that ended before
            if not origin.is_called and run.state is not None:
                # The engine may have had to start a server before it could create the run.
                created = _nanoseconds(run.state.timestamp)
                self._start = max(self._start, min(created, time_ns()))
            description = _FlowRunDescription(self._engine, run, parameters, past, self._observer)
        else:
            origin = self._origin_of_task_run(run)
            description = _TaskRunDescription(self._engine, run, parameters, past, self._observer)
        upstream = description.upstream(origin)
        self.has_upstream = bool(upstream)
        recorder = self._observer.tracer.start(
            Run(
                id=str(run.id),
                span_name=description.span_name,
                kind=SpanKind.SERVER
                if isinstance(run, FlowRun) and not origin.is_called
                else SpanKind.INTERNAL,
                start=self._start,
                trace_id=origin.trace_id,
                parent=origin.parent,
                parent_recorder=origin.recorder,
                # An adopted run has been counted already.
                run_count=max(0, run.run_count - 1) if self._is_adopted else run.run_count,
                allows_retries=description.allows_retries,
                result_attribute=description.result_attribute,
                upstream=upstream.keys(),
                sampling_attributes=description.sampling_attributes(),
                waits_before=_seconds(description.waits_before(self._start)),
            ),
            description.attributes,
        )
        self.recorder = recorder
        recorder.link(_links(origin, upstream, recorder.span_context.trace_flags))
        for state in _before_pick_up(past.states) or ([run.state] if run.state else []):
            recorder.enter_state(_as_state(state))
        context_api.attach(recorder.as_context())
        context = recorder.span_context
        if not context.is_valid:  # the provider is none that makes spans
            return {}
        labels: KeyValueLabels = {LABELS_TRACEPARENT_KEY: _traceparent(context)}
        if origin.keep is not None:
            labels[_PARENT_LABEL] = origin.keep
        run.labels.update(labels)
        if isinstance(run, FlowRun):
            self._observer.remember_trace_id(str(run.id), context.trace_id)
            if not origin.is_called:
                self._log_trace_url(run, context.trace_id)
        return labels

    def _log_trace_url(self, run: FlowRun, trace_id: int) -> None:
        if (url := self._observer.settings.url_of(trace_id)) is not None:
            flow_run_logger(run, self._engine.flow).info("Trace: %s", url)

    def _origin_of_flow_run(self, run: FlowRun) -> _Origin:
        if self._is_adopted:  # the context is its own already
            if run.parent_task_run_id is not None and self._adopted_caller is not None:
                return self._origin_below(self._adopted_caller.run.id, None)
            return _origin_of_root(run, self._replaced)
        caller = self._parent_run()
        if caller is not None:
            return self._origin_below(str(caller.id), caller.labels.get(LABELS_TRACEPARENT_KEY))
        return _origin_of_root(run, self._replaced)

    def _origin_of_task_run(self, run: TaskRun) -> _Origin:
        flow_context = FlowRunContext.get()
        flow_run = flow_context.flow_run if flow_context is not None else None
        label = flow_run.labels.get(LABELS_TRACEPARENT_KEY) if flow_run is not None else None
        if (caller_id := self._calling_task_run(run)) is not None:
            return self._origin_below(caller_id, label, is_task=True)
        if run.flow_run_id is not None:
            return self._origin_below(str(run.flow_run_id), label)
        return _origin_of_root(run, self._replaced)

    def _calling_task_run(self, run: TaskRun) -> str | None:
        """Return the task run that called this one, if it was not the flow itself."""
        parents: Iterable[Any] = run.task_inputs.get("__parents__", ())
        candidates = {str(parent.id) for parent in parents}
        caller = str(self._calling_task.task_run.id) if self._calling_task is not None else None
        if caller in candidates:
            return caller
        # Prefect also takes an upstream run that is still running for a parent. In a process pool
        # the calling context comes over only now, so there the caller is what else is listed.
        upstream = _names_by_run_id(run.task_inputs, {})
        return next(iter(candidates - upstream.keys()), None)

    def _origin_below(
        self, caller_id: str, label: object | None, *, is_task: bool = False
    ) -> _Origin:
        """Find the span of the calling run: here, or else by what its process wrote into a label.

        The label is that of the calling flow run. A calling task run's span id is derived.
        """
        recorder = self._observer.tracer.active.get(caller_id)
        if recorder is not None:
            parent = set_span_in_context(recorder.span)
            return _Origin(recorder.span_context.trace_id, parent, recorder, is_called=True)
        remote = _extract(label)
        if remote is None:
            return _Origin(derive_trace_id(caller_id), is_called=True)
        if is_task:
            remote = _remote(remote.trace_id, derive_span_id(caller_id), remote.trace_flags)
        return _Origin(remote.trace_id, _as_parent(remote), is_called=True)


# Where a run comes from


@dataclass(slots=True)
class _Past:
    """What the API knows of a run from before the engine took it up."""

    states: list[PrefectState] = field(default_factory=list)
    deployment: DeploymentResponse | None = None


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a run comes from: its trace, its parent's span, an earlier process of its own.

    `keep` is the trace parent to remember in a label for a later process of the same run.
    """

    trace_id: int
    parent: Context | None = None
    recorder: RunRecorder | None = None
    previous: SpanContext | None = None
    keep: str | None = None
    is_called: bool = False


def _origin_of_root(run: FlowRun | TaskRun, replaced: RunTelemetry) -> _Origin:
    """Find the remote parent of a run that no run of this process or its pool called, if any."""
    run_id = str(run.id)
    # A run that is adopted may have a span of Prefect's own, which ours replaces. It is the current
    # one, and its ids are in the label.
    is_begun = replaced.span is not None
    remote = _extract(run.labels.get(LABELS_TRACEPARENT_KEY))
    if is_begun:
        remote = getattr(replaced.span, "parent", None)
    own_ids = {derive_span_id(run_id, count) for count in range(run.run_count + 1)}
    if remote is not None and remote.span_id in own_ids:
        # An earlier process of this run wrote the label over the one of its parent.
        kept = run.labels.get(_PARENT_LABEL)
        parent = _extract(kept)
        return _Origin(
            remote.trace_id,
            _as_parent(parent) if parent else None,
            previous=remote,
            keep=str(kept) if kept else None,
        )
    if remote is not None:
        return _Origin(remote.trace_id, _as_parent(remote), keep=_traceparent(remote))
    current = get_current_span().get_span_context()
    if current.is_valid and not is_begun:
        return _Origin(current.trace_id, context_api.get_current(), keep=_traceparent(current))
    if (inherited := _extract(os.environ.get("TRACEPARENT"))) is not None:
        keep = _traceparent(inherited)
        return _Origin(inherited.trace_id, _as_parent(inherited), keep=keep)
    return _Origin(derive_trace_id(run_id))


def _links(origin: _Origin, upstream: Mapping[str, list[str]], flags: TraceFlags) -> Iterator[Link]:
    for run_id, names in upstream.items():
        yield Link(
            _remote(origin.trace_id, derive_span_id(run_id), flags),
            {semconv.LINK_TYPE: semconv.LINK_DEPENDENCY, semconv.INPUT_NAME: ",".join(names)},
        )
    if origin.previous is not None:
        yield Link(origin.previous, {semconv.LINK_TYPE: semconv.LINK_PREVIOUS_ATTEMPT})


def _traceparent(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _extract(traceparent: object | None) -> SpanContext | None:
    if not isinstance(traceparent, str):
        return None
    extracted = _propagator.extract({"traceparent": traceparent}, context=context_api.Context())
    context = get_current_span(extracted).get_span_context()
    return context if context.is_valid else None


def _remote(trace_id: int, span_id: int, flags: TraceFlags) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags)


def _as_parent(context: SpanContext) -> Context:
    return set_span_in_context(NonRecordingSpan(context))


# What a run is


@dataclass(frozen=True, slots=True)
class _Description:
    """What is said of a run, from its engine and what the API told; the base of both kinds."""

    engine: Any
    run: Any
    given: Mapping[str, Any] | None
    past: _Past
    observer: EngineObserver

    def attributes(self) -> dict[str, AttributeValue]:
        """Describe the run at its end; what flow and task runs have in common."""
        run = self.engine.flow_run if hasattr(self.engine, "flow") else self.run
        attributes: dict[str, AttributeValue] = {
            name: value for name, value in run.labels.items() if not name.startswith("__")
        }
        attributes[semconv.RUN_ID] = str(run.id)
        attributes[semconv.RUN_NAME] = run.name
        attributes[semconv.RUN_COUNT] = run.run_count
        attributes[semconv.TAGS] = run.tags
        # By now the engine has replaced futures by their results.
        parameters: Mapping[str, Any] = self.engine.parameters or self.given or {}
        if self.observer.settings.capture_parameters == "values":
            for name, value in parameters.items():
                attributes[semconv.RUN_PARAMETER_PREFIX + name] = redact(value, name)
        else:
            for name, value in parameters.items():
                attributes[semconv.RUN_PARAMETER_PREFIX + name] = type(value).__name__
        return attributes


class _FlowRunDescription(_Description):
    __slots__ = ()
    result_attribute = semconv.PIPELINE_RESULT

    @property
    def span_name(self) -> str:
        return semconv.flow_span_name(self.engine.flow.name)

    @property
    def allows_retries(self) -> bool:
        return bool(self.run.empirical_policy.retries or self.engine.flow.retries)

    def sampling_attributes(self) -> dict[str, AttributeValue]:
        name = self.engine.flow.name
        return {semconv.RUN_TYPE: "flow", semconv.FLOW_NAME: name, semconv.PIPELINE_NAME: name}

    def attributes(self) -> dict[str, AttributeValue]:
        attributes = _Description.attributes(self)
        run, deployment = self.engine.flow_run, self.past.deployment
        described = {
            semconv.FLOW_RUN_ID: str(run.id),
            semconv.PIPELINE_RUN_ID: str(run.id),
            semconv.PIPELINE_RUN_URL: url_for("flow-run", obj_id=run.id),
            semconv.FLOW_ID: run.flow_id and str(run.flow_id),
            semconv.FLOW_VERSION: run.flow_version or self.engine.flow.version,
            semconv.DEPLOYMENT_ID: run.deployment_id and str(run.deployment_id),
            semconv.DEPLOYMENT_NAME: deployment and deployment.name,
            semconv.WORK_POOL_NAME: run.work_pool_name,
            semconv.WORK_QUEUE_NAME: run.work_queue_name,
        }
        attributes.update({name: value for name, value in described.items() if value is not None})
        return attributes

    def upstream(self, origin: _Origin) -> dict[str, list[str]]:
        """Return the upstream runs of a subflow with the names of the inputs they came by."""
        if not origin.is_called:
            return {}
        # Finding them once more would not do: Prefect knows a result by its address, which may
        # belong to another object by now (https://github.com/PrefectHQ/prefect/issues/20558).
        inputs = self.observer.take_inputs(self.run.parent_task_run_id)
        context = FlowRunContext.get()
        caller = context.flow_run.id if context is not None and context.flow_run else None
        return _names_by_run_id(inputs, self.observer.subflows_of(caller))

    def waits_before(self, start: int) -> dict[str, int]:
        pending = [s for s in _before_pick_up(self.past.states) if s.type.value == "PENDING"]
        if not pending or self.run.expected_start_time is None:
            return {}
        first = _nanoseconds(pending[0].timestamp)
        return {
            semconv.WAIT_LATE: first - _nanoseconds(self.run.expected_start_time),
            semconv.WAIT_INFRASTRUCTURE: start - first,
        }


class _TaskRunDescription(_Description):
    __slots__ = ()
    result_attribute = semconv.PIPELINE_TASK_RESULT

    @property
    def span_name(self) -> str:
        name: str = self.engine.task.name
        return name

    @property
    def allows_retries(self) -> bool:
        return bool(self.engine.task.retries)

    def sampling_attributes(self) -> dict[str, AttributeValue]:
        context = FlowRunContext.get()
        attributes = {semconv.RUN_TYPE: "task", semconv.TASK_NAME: self.engine.task.name}
        if context is not None and context.flow is not None:
            attributes[semconv.FLOW_NAME] = context.flow.name
        return attributes

    def attributes(self) -> dict[str, AttributeValue]:
        attributes = _Description.attributes(self)
        run, run_id = self.run, str(self.run.id)
        attributes[semconv.PIPELINE_TASK_NAME] = self.engine.task.name
        attributes[semconv.PIPELINE_TASK_RUN_ID] = run_id
        attributes[semconv.TASK_KEY] = self.engine.task.task_key
        attributes[semconv.TASK_CACHED] = run.state_name == "Cached"
        if run.flow_run_id is not None:
            attributes[semconv.FLOW_RUN_ID] = str(run.flow_run_id)
        if url := self.observer.task_url:
            attributes[semconv.PIPELINE_TASK_RUN_URL] = url.replace(str(_ANY_ID), run_id)
        return attributes

    def upstream(self, _origin: _Origin) -> dict[str, list[str]]:
        """Return the upstream runs with the names of the inputs they came by."""
        subflows = self.observer.subflows_of(self.run.flow_run_id)
        return _names_by_run_id(self.run.task_inputs, subflows)

    def waits_before(self, start: int) -> dict[str, int]:
        if self.run.id.version == _UUID7:
            # RFC 9562, section 5.7: the first 48 bits are milliseconds since the epoch.
            return {semconv.WAIT_QUEUE: start - (self.run.id.int >> 80) * _MILLISECOND}
        if self.past.states:  # a deferred run: the API made its id
            submitted = min(_nanoseconds(state.timestamp) for state in self.past.states)
            return {semconv.WAIT_QUEUE: start - submitted}
        return {}


_ANY_ID: Final = UUID(int=0)
_NO_TRACER: Final = NoOpTracer()


def _as_state(state: PrefectState) -> State:
    return State(
        state.type.value,
        state.name or state.type.value,
        str(state.id),
        state.message,
        _nanoseconds(state.timestamp),
    )


def _nanoseconds(moment: datetime) -> int:
    # A float holds microseconds of our age exactly once they are rounded.
    return round(moment.timestamp() * 1_000_000) * 1000


def _seconds(waits: Mapping[str, int]) -> dict[str, float]:
    return {name: ns / _NANOSECONDS for name, ns in waits.items() if ns >= _SHORTEST_WAIT}


def _before_pick_up(history: Iterable[PrefectState]) -> list[PrefectState]:
    """Return the states after the last one that an earlier process of the run has recorded."""
    states: list[PrefectState] = []
    for state in sorted(history, key=lambda state: state.timestamp):
        states = [*states, state] if state.type.value in {"SCHEDULED", "PENDING"} else []
    return states


def _names_by_run_id(inputs: Inputs, subflows: Mapping[str, str]) -> dict[str, list[str]]:
    """Turn Prefect's upstream runs by input name into the names by upstream run.

    A subflow takes the place of the task run that stands for it in its parent.
    """
    names: dict[str, list[str]] = {}
    for name, upstreams in inputs.items():
        if name != "__parents__":
            for upstream in upstreams:
                if (run_id := getattr(upstream, "id", None)) is not None:
                    upstream_id = subflows.get(str(run_id), str(run_id))
                    names.setdefault(upstream_id, []).append(name)
    return names


def _may_be_rolled_back(transaction: Any) -> bool:
    """Whether a transaction around a task run's own, still open, can change the run's state."""
    if transaction is None or transaction.state != TransactionState.STAGED:
        return False
    around = type(transaction).get_active()
    ended = {TransactionState.COMMITTED, TransactionState.ROLLED_BACK}
    return around is not None and around.state not in ended


def _commit_hook(recorder: RunRecorder) -> Callable[[Any], None]:
    def finish(_transaction: Any) -> None:
        with _contained:
            recorder.finish()

    finish.log_on_run = False  # type: ignore[attr-defined] # Prefect logs the user's hooks only
    return finish


def _holds_future(value: object) -> bool:
    """Whether a future is among the first thousand items of `value`, as deep as they nest."""
    pending = [value]
    for _ in range(_FUTURES_SEARCHED):
        if not pending:
            return False
        item = pending.pop()
        if isinstance(item, PrefectFuture):
            return True
        if isinstance(item, dict):
            pending.extend(islice(item.values(), _FUTURES_SEARCHED))
        elif isinstance(item, (list, tuple, set)):  # annotations such as allow_failure() are tuples
            pending.extend(islice(item, _FUTURES_SEARCHED))
    return False


# The patches


class _Bracket:
    """Wraps what an engine's context manager returns; a subclass says what lies around it.

    Serves ``with`` and ``async with`` alike, since both pairs of methods only delegate.
    """

    def __init__(self, manager: Any, telemetry: EngineTelemetry) -> None:
        self._manager: Any = manager
        self._telemetry = telemetry

    def _before(self) -> None: ...
    def _entered(self, value: Any) -> None: ...
    def _leaving(self, error: BaseException | None) -> None: ...
    def _left(self) -> None: ...

    def __enter__(self) -> Any:
        with _contained:
            self._before()
        try:
            value = self._manager.__enter__()
        except BaseException:
            with _contained:
                self._left()
            raise
        with _contained:
            self._entered(value)
        return value

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        with _contained:
            self._leaving(error)
        try:
            return self._manager.__exit__(kind, error, traceback)
        finally:
            with _contained:
                self._left()

    async def __aenter__(self) -> Any:
        with _contained:
            self._before()
        try:
            value = await self._manager.__aenter__()
        except BaseException:
            # Such as a cancellation; it takes __aexit__ with it.
            with _contained:
                self._left()
            raise
        with _contained:
            self._entered(value)
        return value

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        with _contained:
            self._leaving(error)
        try:
            return await self._manager.__aexit__(kind, error, traceback)
        finally:
            with _contained:
                self._left()


class _WholeRun(_Bracket):
    """Around ``initialize_run``: from the engine taking the run up to the engine leaving it."""

    _remaining: Callable[[], object] | None = None

    def _leaving(self, error: BaseException | None) -> None:
        if isinstance(error, TerminationSignal):
            self._telemetry.terminate()

    def _left(self) -> None:
        self._remaining = self._telemetry.leave()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        try:
            return super().__exit__(kind, error, traceback)
        finally:
            if self._remaining is not None:
                self._remaining()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        try:
            return await super().__aexit__(kind, error, traceback)
        finally:
            if self._remaining is not None:
                # Other flows may run in this event loop.
                await asyncio.to_thread(self._remaining)


class _Attempt(_Bracket):
    """Around ``run_context``, which an engine enters once for each attempt."""

    def _before(self) -> None:
        self._outer = context_api.get_current()
        recorder = self._telemetry.recorder
        if recorder is not None:
            recorder.begin_attempt(time_ns())
            if recorder.run.allows_retries or current_recorder() is not recorder:
                context_api.attach(recorder.as_context())

    def _entered(self, value: Any) -> None:
        # A task's function is entered later, in its transaction.
        recorder = self._telemetry.recorder
        if recorder is not None and hasattr(value, "flow"):
            recorder.begin_execution(time_ns())

    def _leaving(self, error: BaseException | None) -> None:  # noqa: ARG002
        if self._telemetry.recorder is not None:
            self._telemetry.recorder.end_execution(time_ns())

    def _left(self) -> None:
        recorder = self._telemetry.recorder
        # An adopted run has ended by now, and its context with it.
        is_over = recorder is not None and recorder.is_finished
        context_api.attach(self._telemetry.outer if is_over else self._outer)


class _TaskTransaction(_Bracket):
    """Around ``transaction_context``, inside which a task's function is called."""

    def _entered(self, value: Any) -> None:
        self._telemetry.transaction = value
        recorder = self._telemetry.recorder
        if recorder is not None and not value.is_committed():
            self._telemetry.count_input()
            recorder.begin_execution(time_ns())

    def _leaving(self, error: BaseException | None) -> None:  # noqa: ARG002
        if self._telemetry.recorder is not None:
            self._telemetry.recorder.end_execution(time_ns())


def _take_over(observer: EngineObserver) -> Wrapper:
    def initialize_run(wrapped: Any, engine: Any, args: Any, kwargs: Any) -> Any:
        telemetry = None
        with _contained:
            telemetry = EngineTelemetry(observer, engine)
        manager = wrapped(*args, **kwargs)
        return manager if telemetry is None else _WholeRun(manager, telemetry)

    return initialize_run


def _bracket(kind: type[_Bracket]) -> Callable[[EngineObserver], Wrapper]:
    def wrapper(_observer: EngineObserver) -> Wrapper:
        def context_manager(wrapped: Any, engine: Any, args: Any, kwargs: Any) -> Any:
            telemetry, manager = engine._telemetry, wrapped(*args, **kwargs)  # noqa: SLF001
            return kind(manager, telemetry) if isinstance(telemetry, EngineTelemetry) else manager

        return context_manager

    return wrapper


def _function_returned(_observer: EngineObserver) -> Wrapper:
    def handle_success(wrapped: Any, engine: Any, args: Any, kwargs: Any) -> Any:
        with _contained:
            recorder = getattr(engine._telemetry, "recorder", None)  # noqa: SLF001
            if recorder and recorder.end_execution(time_ns()) and hasattr(engine, "task"):
                result = args[0] if args else kwargs["result"]
                recorder.rows.count(semconv.ROWS_OUTPUT, count_rows(result))
        return wrapped(*args, **kwargs)

    return handle_success


def _function_raised(_observer: EngineObserver) -> Wrapper:
    def handle_exception(wrapped: Any, engine: Any, args: Any, kwargs: Any) -> Any:
        with _contained:
            if recorder := getattr(engine._telemetry, "recorder", None):  # noqa: SLF001
                recorder.fail(args[0] if args else kwargs["exc"], time_ns())
        return wrapped(*args, **kwargs)

    return handle_exception


def _rolled_back(_observer: EngineObserver) -> Wrapper:
    def handle_rollback(wrapped: Any, engine: Any, args: Any, kwargs: Any) -> Any:
        result = wrapped(*args, **kwargs)
        with _contained:
            if isinstance(engine._telemetry, EngineTelemetry):  # noqa: SLF001
                engine._telemetry.roll_back()  # noqa: SLF001
        return result

    return handle_rollback


def _waits_for(inputs: str) -> Callable[[EngineObserver], Wrapper]:
    """Wrap a method that waits for the futures in the engine's attribute `inputs`."""

    def wrapper(_observer: EngineObserver) -> Wrapper:
        def resolve(wrapped: Any, engine: Any, args: Any, kwargs: Any) -> Any:
            telemetry = engine._telemetry  # noqa: SLF001
            if not isinstance(telemetry, EngineTelemetry) or not telemetry.has_upstream:
                return wrapped(*args, **kwargs)
            waits = False
            with _contained:
                waits = _holds_future(getattr(engine, inputs))
            outer, start = context_api.get_current(), time_ns()
            if telemetry.recorder is not None:
                # Prefect links upstream runs to the current span. Ours has those links already, so
                # it is represented by one that records nothing.
                span = NonRecordingSpan(telemetry.recorder.span_context)
                context_api.attach(set_span_in_context(span))
            try:
                return wrapped(*args, **kwargs)
            finally:
                context_api.attach(outer)
                with _contained:
                    waited = time_ns() - start
                    if waits and waited >= _SHORTEST_WAIT and telemetry.recorder is not None:
                        telemetry.recorder.wait(semconv.WAIT_DEPENDENCIES, start, start + waited)

        return resolve

    return wrapper


def _slot_acquired(start: int, response: Any) -> None:
    """Account the wait for a concurrency slot, unless the answer was that there is no limit."""
    with _contained:
        recorder, has_limits = current_recorder(), getattr(response, "limits", response)
        if recorder is not None and (response is None or has_limits):
            recorder.wait(semconv.WAIT_CONCURRENCY, start, time_ns())


def _acquires_slots(_observer: EngineObserver) -> Wrapper:
    def acquire(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        start, response = time_ns(), None
        try:
            response = wrapped(*args, **kwargs)
            return response
        finally:
            _slot_acquired(start, response)

    return acquire


def _acquires_slots_async(_observer: EngineObserver) -> Wrapper:
    async def acquire(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        start, response = time_ns(), None
        try:
            response = await wrapped(*args, **kwargs)
            return response
        finally:
            _slot_acquired(start, response)

    return acquire


def _saw_state(observer: EngineObserver, flow_run_id: Any, state: PrefectState | None) -> None:
    """Record a transition into or out of Paused, which the engine itself is not told of."""
    with _contained:
        recorder = observer.tracer.active.get(str(flow_run_id))
        if recorder is None or recorder.state is None or state is None:
            return
        if recorder.state.name == "Paused" or (state.name == "Paused" and state.is_paused()):
            recorder.enter_state(_as_state(state))


def _proposes_state(observer: EngineObserver) -> Wrapper:
    def propose_state(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        state = wrapped(*args, **kwargs)
        _saw_state(observer, kwargs.get("flow_run_id"), state)
        return state

    return propose_state


def _proposes_state_async(observer: EngineObserver) -> Wrapper:
    async def propose_state(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        state = await wrapped(*args, **kwargs)
        _saw_state(observer, kwargs.get("flow_run_id"), state)
        return state

    return propose_state


def _reads_flow_run(observer: EngineObserver) -> Wrapper:
    def read_flow_run(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        flow_run = wrapped(*args, **kwargs)
        _saw_state(observer, flow_run.id, flow_run.state)
        return flow_run

    return read_flow_run


def _reads_flow_run_async(observer: EngineObserver) -> Wrapper:
    async def read_flow_run(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        flow_run = await wrapped(*args, **kwargs)
        _saw_state(observer, flow_run.id, flow_run.state)
        return flow_run

    return read_flow_run


def _creates_run_async(observer: EngineObserver) -> Wrapper:
    async def create_run(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        task_run = await wrapped(*args, **kwargs)
        with _contained:
            observer.remember_inputs(task_run)
        return task_run

    return create_run


def _gives_no_tracer(_observer: EngineObserver) -> Wrapper:
    # Each engine asks for a tracer when it is made, before its telemetry can be replaced.
    return lambda _wrapped, _instance, _args, _kwargs: _NO_TRACER


def _runs_generator(_observer: EngineObserver) -> Wrapper:
    def run_generator(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        return _in_own_context(wrapped(*args, **kwargs))

    return run_generator


def _runs_generator_async(_observer: EngineObserver) -> Wrapper:
    def run_generator(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        return _in_own_context_async(wrapped(*args, **kwargs))

    return run_generator


def _in_own_context(generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Run `generator` with a current span of its own, which its consumer does not see.

    Python runs a generator in the context of whoever resumes it (PEP 568 was not accepted).
    """
    context = context_api.get_current()
    resume: Callable[[], Any] = lambda: next(generator)  # noqa: E731
    while True:
        outer = context_api.get_current()
        context_api.attach(context)
        try:
            item = resume()
        except StopIteration as stop:
            return stop.value
        finally:
            context = context_api.get_current()
            context_api.attach(outer)
        try:
            sent = yield item
        except BaseException as error:  # noqa: BLE001 - all of it belongs to the generator
            resume = _throwing(generator, error)
        else:
            resume = _sending(generator, sent)


def _throwing(generator: Generator[Any, Any, Any], error: BaseException) -> Callable[[], Any]:
    return lambda: generator.throw(error)


def _sending(generator: Generator[Any, Any, Any], value: Any) -> Callable[[], Any]:
    return lambda: generator.send(value)


async def _in_own_context_async(generator: AsyncGenerator[Any, Any]) -> AsyncGenerator[Any, Any]:
    """Run an asynchronous `generator` as `_in_own_context` runs one."""
    context = context_api.get_current()
    step: Any = generator.__anext__
    arguments: tuple[Any, ...] = ()
    while True:
        outer = context_api.get_current()
        context_api.attach(context)
        try:
            item = await step(*arguments)
        except StopAsyncIteration:
            return
        finally:
            context = context_api.get_current()
            context_api.attach(outer)
        try:
            sent = yield item
        except BaseException as error:  # noqa: BLE001 - all of it belongs to the generator
            step, arguments = generator.athrow, (error,)
        else:
            step, arguments = generator.asend, (sent,)


@dataclass(frozen=True, slots=True)
class Patch:
    """One function of Prefect that is wrapped: `name` of the class or module `owner`."""

    module: str
    owner: str | None
    name: str
    wrapper: Callable[[EngineObserver], Wrapper]
    since: str = "3.6.0"

    @property
    def target(self) -> str:
        """What is wrapped, as a dotted name."""
        return ".".join(part for part in (self.module, self.owner, self.name) if part)


def _engine_patches(module: str, owner: str) -> list[Patch]:
    return [
        Patch(module, owner, "initialize_run", _take_over),
        Patch(module, owner, "run_context", _bracket(_Attempt)),
        Patch(module, owner, "handle_success", _function_returned),
        Patch(module, owner, "handle_exception", _function_raised),
        Patch(module, owner, "handle_timeout", _function_raised),
        Patch(module, owner, "handle_crash", _function_raised),
    ]


_TASK_ENGINE: Final = "prefect.task_engine"
_FLOW_ENGINE: Final = "prefect.flow_engine"
_CLIENT: Final = "prefect.client.orchestration._flow_runs.client"

PATCHES: Final = (
    *_engine_patches(_TASK_ENGINE, "SyncTaskRunEngine"),
    *_engine_patches(_TASK_ENGINE, "AsyncTaskRunEngine"),
    *_engine_patches(_FLOW_ENGINE, "FlowRunEngine"),
    *_engine_patches(_FLOW_ENGINE, "AsyncFlowRunEngine"),
    Patch(_TASK_ENGINE, "SyncTaskRunEngine", "transaction_context", _bracket(_TaskTransaction)),
    Patch(_TASK_ENGINE, "AsyncTaskRunEngine", "transaction_context", _bracket(_TaskTransaction)),
    Patch(_TASK_ENGINE, "BaseTaskRunEngine", "handle_rollback", _rolled_back),
    Patch(_TASK_ENGINE, "BaseTaskRunEngine", "_resolve_parameters", _waits_for("parameters")),
    Patch(_TASK_ENGINE, "BaseTaskRunEngine", "_wait_for_dependencies", _waits_for("wait_for")),
    Patch(_FLOW_ENGINE, "FlowRunEngine", "_resolve_parameters", _waits_for("parameters")),
    Patch(_FLOW_ENGINE, "FlowRunEngine", "_wait_for_dependencies", _waits_for("wait_for")),
    Patch(_FLOW_ENGINE, "AsyncFlowRunEngine", "_resolve_parameters", _waits_for("parameters")),
    Patch(_FLOW_ENGINE, "AsyncFlowRunEngine", "_wait_for_dependencies", _waits_for("wait_for")),
    Patch(_TASK_ENGINE, None, "run_generator_task_sync", _runs_generator),
    Patch(_TASK_ENGINE, None, "run_generator_task_async", _runs_generator_async),
    Patch(_FLOW_ENGINE, None, "run_generator_flow_sync", _runs_generator),
    Patch(_FLOW_ENGINE, None, "run_generator_flow_async", _runs_generator_async),
    Patch("prefect.telemetry.run_telemetry", None, "get_tracer", _gives_no_tracer),
    Patch("prefect.tasks", "Task", "create_run", _creates_run_async),
    Patch(
        "prefect.concurrency._sync", None, "acquire_concurrency_slots_with_lease", _acquires_slots
    ),
    Patch(
        "prefect.concurrency._asyncio",
        None,
        "aacquire_concurrency_slots_with_lease",
        _acquires_slots_async,
    ),
    Patch("prefect.concurrency.sync", None, "_acquire_concurrency_slots", _acquires_slots),
    Patch("prefect.concurrency.asyncio", None, "aacquire_concurrency_slots", _acquires_slots_async),
    Patch("prefect.flow_runs", None, "propose_state", _proposes_state_async),
    Patch("prefect.flow_runs", None, "propose_state_sync", _proposes_state, since="3.6.11"),
    Patch(_CLIENT, "FlowRunClient", "read_flow_run", _reads_flow_run),
    Patch(_CLIENT, "FlowRunAsyncClient", "read_flow_run", _reads_flow_run_async),
)
