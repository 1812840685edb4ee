"""The functions of Prefect that are wrapped, and their wrappers."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from itertools import chain
from time import time_ns
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as context_api
from opentelemetry.trace import NonRecordingSpan, set_span_in_context
from packaging.version import Version
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.telemetry.run_telemetry import LABELS_TRACEPARENT_KEY

from flowspan import semconv
from flowspan._prefect.brackets import Attempt, Bracket, MortalAttempt, TaskTransaction, WholeRun
from flowspan._prefect.generators import in_own_context, in_own_context_async
from flowspan._prefect.observer import contained
from flowspan._prefect.origin import format_traceparent
from flowspan._prefect.states import as_state
from flowspan._prefect.telemetry import NO_TRACER, EngineTelemetry
from flowspan._prefect.upstream import found_in, submitted_now, with_note
from flowspan.recording.recorder import current_recorder
from flowspan.recording.rows import count_rows

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from prefect.client.schemas.objects import State as PrefectState

    from flowspan._prefect.observer import EngineObserver

    Look = Callable[[EngineObserver, Any, dict[str, Any]], None]
    Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]


def _take_over(observer: EngineObserver) -> Wrapper:
    def initialize_run(wrapped: Any, engine: Any, args: Any, kwargs: Any) -> Any:
        telemetry = None
        with contained:
            telemetry = EngineTelemetry(observer, engine)
        manager = wrapped(*args, **kwargs)
        return manager if telemetry is None else WholeRun(manager, telemetry)

    return initialize_run


def _bracket(kind: type[Bracket]) -> Callable[[EngineObserver], Wrapper]:
    def wrapper(_observer: EngineObserver) -> Wrapper:
        def context_manager(wrapped: Any, engine: Any, args: Any, kwargs: Any) -> Any:
            telemetry, manager = engine._telemetry, wrapped(*args, **kwargs)  # noqa: SLF001
            return kind(manager, telemetry) if isinstance(telemetry, EngineTelemetry) else manager

        return context_manager

    return wrapper


def _function_returned(_observer: EngineObserver) -> Wrapper:
    def handle_success(wrapped: Any, engine: Any, args: Any, kwargs: Any) -> Any:
        with contained:
            recorder = getattr(engine._telemetry, "recorder", None)  # noqa: SLF001
            if recorder and recorder.end_execution(time_ns()) and hasattr(engine, "task"):
                result = args[0] if args else kwargs["result"]
                recorder.rows.count(semconv.ROWS_OUTPUT, count_rows(result))
        return wrapped(*args, **kwargs)

    return handle_success


def _function_raised(_observer: EngineObserver) -> Wrapper:
    def handle_exception(wrapped: Any, engine: Any, args: Any, kwargs: Any) -> Any:
        with contained:
            if recorder := getattr(engine._telemetry, "recorder", None):  # noqa: SLF001
                recorder.fail(args[0] if args else kwargs["exc"], time_ns())
        return wrapped(*args, **kwargs)

    return handle_exception


def _rolled_back(_observer: EngineObserver) -> Wrapper:
    def handle_rollback(wrapped: Any, engine: Any, args: Any, kwargs: Any) -> Any:
        result = wrapped(*args, **kwargs)
        with contained:
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
            future, others = None, iter(())
            with contained:
                others = found_in(getattr(engine, inputs), PrefectFuture)
                future = next(others, None)
            outer, start = context_api.get_current(), time_ns()
            if telemetry.recorder is not None:
                telemetry.recorder.begin_wait(semconv.WAIT_DEPENDENCIES, start)
                # Prefect links upstream runs to the current span. Ours already has these links, so
                # a span that records nothing takes its place.
                span = NonRecordingSpan(telemetry.recorder.span_context)
                context_api.attach(set_span_in_context(span))
            try:
                return wrapped(*args, **kwargs)
            finally:
                context_api.attach(outer)
                with contained:
                    if telemetry.recorder is not None:
                        telemetry.recorder.end_wait(semconv.WAIT_DEPENDENCIES, start)
                    if future is not None:
                        telemetry.wait_for(chain((future,), others), start, time_ns())

        return resolve

    return wrapper


def _acquires_slots(_observer: EngineObserver) -> Wrapper:
    """Record the wait for a concurrency slot, unless the response says that there is no limit."""

    def acquire(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        recorder, start = current_recorder(), time_ns()

        def acquired(response: Any) -> None:
            if recorder is not None:
                with contained:
                    recorder.end_wait(semconv.WAIT_CONCURRENCY, start)
                    if response is None or getattr(response, "limits", response):
                        recorder.wait(semconv.WAIT_CONCURRENCY, start, time_ns())

        if recorder is not None:
            recorder.begin_wait(semconv.WAIT_CONCURRENCY, start)
        return _observed(wrapped, args, kwargs, acquired)

    return acquire


def _saw_state(observer: EngineObserver, flow_run_id: Any, state: PrefectState | None) -> None:
    """Record a transition into or out of Paused, which the engine does not report."""
    recorder = observer.tracer.active.get(str(flow_run_id))
    if recorder is None or recorder.state is None or state is None:
        return
    if recorder.state.name == "Paused" or (state.name == "Paused" and state.is_paused()):
        recorder.enter_state(as_state(state))


def _saw_proposed_state(observer: EngineObserver, result: Any, arguments: dict[str, Any]) -> None:
    _saw_state(observer, arguments.get("flow_run_id"), result)


def _saw_flow_run(observer: EngineObserver, result: Any, _arguments: dict[str, Any]) -> None:
    _saw_state(observer, result.id, result.state)


def _saw_new_task_run(observer: EngineObserver, result: Any, _arguments: dict[str, Any]) -> None:
    observer.remember_inputs(result)


def _looks_at(look: Look) -> Callable[[EngineObserver], Wrapper]:
    """Wrap a function, and pass its result and keyword arguments to `look`."""

    def wrapper(observer: EngineObserver) -> Wrapper:
        def looked_at(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
            def tell(result: Any) -> None:
                if result is not None:
                    with contained:
                        look(observer, result, kwargs)

            return _observed(wrapped, args, kwargs, tell)

        return looked_at

    return wrapper


def _observed(
    wrapped: Callable[..., Any], args: Any, kwargs: Any, tell: Callable[[Any], None]
) -> Any:
    """Call a function and `tell` its result, or None if it raises; it may be asynchronous."""
    result = None
    try:
        result = wrapped(*args, **kwargs)
    finally:
        is_asynchronous = inspect.isawaitable(result)
        if not is_asynchronous:
            tell(result)
    return _observed_later(result, tell) if is_asynchronous else result


async def _observed_later(awaitable: Awaitable[Any], tell: Callable[[Any], None]) -> Any:
    result = None
    try:
        result = await awaitable
        return result
    finally:
        tell(result)


def _sends_parcel(observer: EngineObserver) -> Wrapper:
    """Let the tags of a context, which Prefect sends with each run, bring along a parcel."""

    def serialize(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        # The receiver reads the tags only, but it does so whenever there is any key at all.
        context = {"current_tags": [], **wrapped(*args, **kwargs)}
        with contained:
            context["flowspan"] = submitted_now(observer.parcel)
        return context

    return serialize


def _submits(_observer: EngineObserver) -> Wrapper:
    """Note that a flow's task runner sends runs to other processes, which count their rows."""

    def submit(wrapped: Any, _task: Any, args: Any, kwargs: Any) -> Any:
        with contained:
            context, recorder = FlowRunContext.get(), current_recorder()
            if context is not None and recorder is not None and not kwargs.get("deferred"):
                flow = recorder if recorder.run.is_flow else recorder.calling_flow
                if flow is not None and not isinstance(context.task_runner, ThreadPoolTaskRunner):
                    flow.rows.send()
        return wrapped(*args, **kwargs)

    return submit


def _names_caller(_observer: EngineObserver) -> Wrapper:
    """Let a run of a deployment be below the task run that creates it, not below its flow run."""

    def create(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        with contained:
            labels, recorder = kwargs.get("labels") or {}, current_recorder()
            if LABELS_TRACEPARENT_KEY in labels and recorder is not None:
                caller = {LABELS_TRACEPARENT_KEY: format_traceparent(recorder.span_context)}
                kwargs = {**kwargs, "labels": {**labels, **caller}}
        return wrapped(*args, **kwargs)

    return create


def _serves_tasks(observer: EngineObserver) -> Wrapper:
    """Handle SIGTERM where a task worker is started that runs beside the main thread.

    Prefect only does so where it runs in the main thread.
    """

    def call_soon_in_loop_thread(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        with contained:
            function = getattr(args[0] if args else None, "fn", None)
            if getattr(function, "__module__", None) == "prefect.task_worker":
                observer.sigterm.install()
        return wrapped(*args, **kwargs)

    return call_soon_in_loop_thread


def _sends_note(_observer: EngineObserver) -> Wrapper:
    """Let a process pool send along what only this process knows: the upstream runs of a task.

    Prefect resolves their futures here, and does not tell the pool's process of them.
    """

    def resolve_futures_and_submit(wrapped: Any, _runner: Any, args: Any, kwargs: Any) -> Any:
        with contained:
            known = ("context", "task_run_id", "parameters", "wait_for")
            kwargs = {**kwargs, "context": with_note(*(kwargs[name] for name in known))}
        return wrapped(*args, **kwargs)

    return resolve_futures_and_submit


def _gives_no_tracer(_observer: EngineObserver) -> Wrapper:
    # Each engine gets a tracer when it is created, before its telemetry can be replaced.
    return lambda _wrapped, _instance, _args, _kwargs: NO_TRACER


def _runs_generator(_observer: EngineObserver) -> Wrapper:
    def run_generator(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        generator = wrapped(*args, **kwargs)
        is_async = inspect.isasyncgen(generator)
        return (in_own_context_async if is_async else in_own_context)(generator)

    return run_generator


@dataclass(frozen=True, slots=True)
class Patch:
    """One function of Prefect that is wrapped: `name` of the class `owner`, or of the module.

    It exists from Prefect `since` on, and no longer from `until` on. If a later Prefect renames a
    function, there are two patches, and each Prefect gets one of them.
    """

    module: str
    owner: str | None
    name: str
    wrapper: Callable[[EngineObserver], Wrapper]
    since: str = "3.6.0"
    until: str | None = None

    def applies_to(self, prefect: Version) -> bool:
        """Return whether that Prefect has the function."""
        is_gone = self.until is not None and prefect >= Version(self.until)
        return prefect >= Version(self.since) and not is_gone

    @property
    def target(self) -> str:
        """The dotted name of the function."""
        return ".".join(part for part in (self.module, self.owner, self.name) if part)


def _engine_patches(module: str, owner: str) -> list[Patch]:
    return [
        Patch(module, owner, "initialize_run", _take_over),
        Patch(module, owner, "handle_success", _function_returned),
        Patch(module, owner, "handle_exception", _function_raised),
        Patch(module, owner, "handle_timeout", _function_raised),
        Patch(module, owner, "handle_crash", _function_raised),
    ]


def _flow_attempt_patches(owner: str) -> list[Patch]:
    mortal, safe = _bracket(MortalAttempt), _bracket(Attempt)
    return [
        Patch(_FLOW_ENGINE, owner, "run_context", mortal, until=_SURVIVES_RUN_CONTEXT),
        Patch(_FLOW_ENGINE, owner, "run_context", safe, since=_SURVIVES_RUN_CONTEXT),
    ]


_TASK_ENGINE: Final = "prefect.task_engine"
_FLOW_ENGINE: Final = "prefect.flow_engine"
_CLIENT: Final = "prefect.client.orchestration._flow_runs.client"
_DEPLOYMENTS: Final = "prefect.client.orchestration._deployments.client"
_CREATE: Final = "create_flow_run_from_deployment"

_SURVIVES_RUN_CONTEXT: Final = "3.8.4"  # from here on, a flow that gets SIGTERM

PATCHES: Final = (
    *_engine_patches(_TASK_ENGINE, "SyncTaskRunEngine"),
    *_engine_patches(_TASK_ENGINE, "AsyncTaskRunEngine"),
    *_engine_patches(_FLOW_ENGINE, "FlowRunEngine"),
    *_engine_patches(_FLOW_ENGINE, "AsyncFlowRunEngine"),
    Patch(_TASK_ENGINE, "SyncTaskRunEngine", "run_context", _bracket(Attempt)),
    Patch(_TASK_ENGINE, "AsyncTaskRunEngine", "run_context", _bracket(Attempt)),
    *_flow_attempt_patches("FlowRunEngine"),
    *_flow_attempt_patches("AsyncFlowRunEngine"),
    Patch(_TASK_ENGINE, "SyncTaskRunEngine", "transaction_context", _bracket(TaskTransaction)),
    Patch(_TASK_ENGINE, "AsyncTaskRunEngine", "transaction_context", _bracket(TaskTransaction)),
    Patch(_TASK_ENGINE, "BaseTaskRunEngine", "handle_rollback", _rolled_back),
    Patch(_TASK_ENGINE, "BaseTaskRunEngine", "_resolve_parameters", _waits_for("parameters")),
    Patch(_TASK_ENGINE, "BaseTaskRunEngine", "_wait_for_dependencies", _waits_for("wait_for")),
    Patch(_FLOW_ENGINE, "FlowRunEngine", "_resolve_parameters", _waits_for("parameters")),
    Patch(_FLOW_ENGINE, "FlowRunEngine", "_wait_for_dependencies", _waits_for("wait_for")),
    Patch(_FLOW_ENGINE, "AsyncFlowRunEngine", "_resolve_parameters", _waits_for("parameters")),
    Patch(_FLOW_ENGINE, "AsyncFlowRunEngine", "_wait_for_dependencies", _waits_for("wait_for")),
    Patch(_TASK_ENGINE, None, "run_generator_task_sync", _runs_generator),
    Patch(_TASK_ENGINE, None, "run_generator_task_async", _runs_generator),
    Patch(_FLOW_ENGINE, None, "run_generator_flow_sync", _runs_generator),
    Patch(_FLOW_ENGINE, None, "run_generator_flow_async", _runs_generator),
    Patch("prefect.telemetry.run_telemetry", None, "get_tracer", _gives_no_tracer),
    Patch("prefect.tasks", "Task", "create_run", _looks_at(_saw_new_task_run)),
    Patch("prefect.tasks", "Task", "submit", _submits),
    Patch("prefect.tasks", "Task", "map", _submits),
    Patch("prefect.context", "TagsContext", "serialize", _sends_parcel),
    Patch(_DEPLOYMENTS, "DeploymentClient", _CREATE, _names_caller),
    Patch(_DEPLOYMENTS, "DeploymentAsyncClient", _CREATE, _names_caller),
    Patch("prefect._internal.concurrency.api", "_base", "call_soon_in_loop_thread", _serves_tasks),
    Patch(
        "prefect.task_runners",
        "ProcessPoolTaskRunner",
        "_resolve_futures_and_submit",
        _sends_note,
    ),
    Patch(
        "prefect.concurrency._sync", None, "acquire_concurrency_slots_with_lease", _acquires_slots
    ),
    Patch(
        "prefect.concurrency._asyncio",
        None,
        "aacquire_concurrency_slots_with_lease",
        _acquires_slots,
    ),
    Patch("prefect.concurrency.sync", None, "_acquire_concurrency_slots", _acquires_slots),
    Patch("prefect.concurrency.asyncio", None, "aacquire_concurrency_slots", _acquires_slots),
    Patch("prefect.flow_runs", None, "propose_state", _looks_at(_saw_proposed_state)),
    Patch(
        "prefect.flow_runs",
        None,
        "propose_state_sync",
        _looks_at(_saw_proposed_state),
        since="3.6.11",
    ),
    Patch(_CLIENT, "FlowRunClient", "read_flow_run", _looks_at(_saw_flow_run)),
    Patch(_CLIENT, "FlowRunAsyncClient", "read_flow_run", _looks_at(_saw_flow_run)),
)
