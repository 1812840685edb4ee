"""Replace the telemetry object of Prefect's engines with one that informs a recorder."""

from __future__ import annotations

import os
import threading
import weakref
from functools import partial
from time import time_ns
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from opentelemetry import context as context_api
from opentelemetry.trace import NoOpTracer, SpanKind
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.client.schemas.objects import State as PrefectState
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.loggers import flow_run_logger
from prefect.telemetry.run_telemetry import LABELS_TRACEPARENT_KEY, RunTelemetry
from prefect.transactions import TransactionState

from flowspan import semconv
from flowspan._prefect.description import (
    SHORTEST_WAIT,
    FlowRunDescription,
    TaskRunDescription,
    seconds,
    waits_before_task,
)
from flowspan._prefect.observer import EngineObserver, contained
from flowspan._prefect.origin import (
    PARENT_LABEL,
    REPORTS_LABEL,
    Origin,
    calling_task_run,
    format_traceparent,
    links_of,
    origin_below,
    origin_of_root,
)
from flowspan._prefect.past import Past, note_that_came, past_of_running
from flowspan._prefect.states import as_state, before_pick_up, last_end, nanoseconds
from flowspan._sigterm import run_within
from flowspan.recording.rows import count_rows
from flowspan.recording.run import Run, State

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

    from opentelemetry.trace import SpanContext
    from prefect.client.orchestration import PrefectClient, SyncPrefectClient
    from prefect.types import KeyValueLabels

    from flowspan.recording.recorder import RunRecorder

NO_TRACER: Final = NoOpTracer()
_DIGITS: Final = 8  # of a trace id: what the commands need to find it
_LONGEST_LOOK: Final = 2.0
"""Seconds that a process which is being cancelled may wait for the API."""


class EngineTelemetry(RunTelemetry):
    """Replaces the telemetry object of one of Prefect's engines, and informs a recorder instead.

    Prefect's own fields stay inert (`span` is None and `_enabled` is False), so that anything a
    later release adds to the base class does nothing.
    """

    def __init__(self, observer: EngineObserver, engine: Any) -> None:
        """Take over `engine`, which is just taking up its run."""
        self._tracer = NO_TRACER
        self.span = None
        self._enabled = False
        self._observer = observer
        # The engine holds this object. A cycle would keep the arguments and results of every task
        # in memory until Python's garbage collector runs.
        self._engine_ref = weakref.ref(engine)
        self._start = time_ns()
        self.outer = context_api.get_current()
        self._is_flow = hasattr(engine, "flow")
        # Once the run has started, a task run's context is its own.
        self._calling_task = TaskRunContext.get()
        # A run that the engine does not create itself has a past, which is in the API.
        self._has_past = self._run is not None
        self._replaced: RunTelemetry = engine._telemetry  # noqa: SLF001
        self._is_adopted = False
        self._adopted_caller: RunRecorder | None = None
        self._is_terminated = False
        # Whether somebody else wants the run, and this process serves flows or tasks
        self._is_served = False
        # Whether a task's caller is in another process: a task runner's, or a background task's
        self._is_sent = False
        self.recorder: RunRecorder | None = None
        self.transaction: Any = None
        self._told_state: PrefectState | None = None
        self.has_upstream = False
        self._past = Past()
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
        """Start to record `run`; reads from and writes to the API where needed, as Prefect does."""
        steps, answer = self._start_steps(run, client, parameters), None
        try:
            while True:
                answer = steps.send(answer)
        except StopIteration:
            return

    async def async_start_span(
        self,
        run: FlowRun | TaskRun,
        client: PrefectClient,
        parameters: dict[str, Any] | None = None,
    ) -> None:
        """Start to record `run`, like `start_span`."""
        steps = self._start_steps(run, client, parameters)
        try:
            step = next(steps)
            while True:
                try:
                    answer = await step
                except BaseException as error:  # noqa: BLE001, PERF203 - for example a cancellation
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration:
            return

    def _start_steps(
        self,
        run: FlowRun | TaskRun,
        client: SyncPrefectClient | PrefectClient,
        parameters: dict[str, Any] | None,
    ) -> Generator[Any, Any, None]:
        """Start to record `run`; yield what calls of `client` return, and receive the answers.

        The caller awaits what an asynchronous client returns.
        """
        past = self._past
        with contained:
            if isinstance(run, TaskRun):
                past.note = note_that_came(run, self._engine)
        with contained:
            if self._has_past:
                yield from past.read(run, client)
        with contained:
            labels = self._begin(run, parameters, past)
            if labels and isinstance(run, FlowRun):
                yield client.update_flow_run_labels(run.id, labels)

    def update_state(self, new_state: PrefectState) -> None:
        """Record a state transition."""
        with contained:
            if self.recorder is not None:
                self._told_state = new_state
                self.recorder.enter_state(as_state(new_state))
                if self._is_adopted and self.recorder.state_is_final:
                    # Its engine was entered before it was wrapped, so nothing follows this but the
                    # line that Prefect logs at the end of each run.
                    self.leave()
                    self._observer.expect_last_line(self.recorder)

    def record_exception(self, exc: BaseException) -> None:
        """Record the exception that ended an attempt, unless it has been recorded."""
        with contained:
            if self.recorder is not None:
                self.recorder.fail(exc, time_ns())

    def end_span_on_success(self) -> None:
        """Do nothing: the run ends when its engine leaves it."""

    def end_span_on_failure(self, terminal_message: str | None = None) -> None:
        """Leave a run that is being terminated, since nothing may come after this."""
        with contained:
            if self._is_terminated and self.recorder is not None:
                if not self.recorder.state_is_final:
                    # Only a cancellation by Prefect's runner sets no state here: the runner sets
                    # Cancelled once this process is gone.
                    self._see_cancelling(self.recorder)
                    self.recorder.leave_as(_cancelled(terminal_message))
                # Prefect sends itself the signal again, and dies of it inside the engine.
                self.leave()

    def _see_cancelling(self, recorder: RunRecorder) -> None:
        """Record Cancelling, which no one tells the engine, from the API if that answers soon."""

        def look() -> None:
            with contained, get_client(sync_client=True) as client:
                state = client.read_flow_run(UUID(recorder.run.id)).state
                if state is not None and state.is_cancelling():
                    recorder.enter_state(as_state(state))
                    recorder.leave_as(_cancelled(state.message))

        run_within(_LONGEST_LOOK, look)

    # What the patches call

    def adopt(self, caller: RunRecorder | None) -> None:
        """Start to record a run whose function is already running, called by `caller`."""
        run = self._run
        if run is None:
            return
        self._is_adopted, self._adopted_caller = True, caller
        entered = run.state.timestamp if run.state is not None else None
        started = run.start_time if run.run_count <= 1 else entered
        if started is not None:
            self._start = nanoseconds(started)
        if isinstance(run, FlowRun):
            # With our own client, because the engine's may be asynchronous; once per run.
            with get_client(sync_client=True) as client:
                labels = self._begin(run, self._engine.parameters, past_of_running(run, client))
                if labels:
                    client.update_flow_run_labels(run.id, labels)
        else:
            self._begin(run, self._engine.parameters, Past())
        if self.recorder is not None:
            self.recorder.begin_attempt(self._start)
            self.recorder.begin_execution(self._start)
            context_api.attach(self.recorder.as_context())

    def count_input(self) -> None:
        """Count the rows in the arguments of a task's function."""
        if self.recorder is not None and self._engine.parameters:
            counts = [count_rows(value) for value in self._engine.parameters.values()]
            known = [count for count in counts if count is not None]
            self.recorder.rows.count(semconv.ROWS_INPUT, sum(known) if known else None)

    def expect_kill(self) -> None:
        """Finish soon, unless the engine leaves its flow run before that.

        A signal is to end this process, but the engine waits for tasks in other threads and
        processes, however long they take. Meanwhile whoever sent the signal may kill the process.
        """
        if self._is_flow:
            timer = threading.Timer(self._observer.settings.flush_timeout, self._finish_early)
            timer.daemon = True
            timer.start()

    def _finish_early(self) -> None:
        with contained:
            if self.recorder is not None and not self.recorder.is_finished:
                self._see_cancelling(self.recorder)
                self._observer.finish()

    def wait_for(self, futures: Iterable[Any], start: int, end: int) -> None:
        """Record that the engine waited for the futures of upstream runs.

        What it did before, in a new worker for most of a second, delayed nothing: the run had to
        wait anyway.
        """
        if self.recorder is None:
            return
        if end - start >= SHORTEST_WAIT:
            self.recorder.wait(semconv.WAIT_DEPENDENCIES, self._start, end)
        note = self._past.note
        if note.is_there:
            # The task runner had waited for them, too, while it started a worker.
            ended = max(note.ended, last_end(future.state for future in futures))
            self._past.note = note._replace(ended=ended)
            waits = waits_before_task(self._run, self._past, self._start)
            self.recorder.wait_before(seconds(waits))

    def terminate(self) -> None:
        """Note that a signal ends the process; leave the run if its state is final."""
        self._is_terminated = True
        if self.recorder is not None and self.recorder.state_is_final:
            self.leave()

    def leave(self) -> Callable[[], object] | None:
        """End the run's span, as the engine leaves the run; return the flush if it is left to do.

        A top-level flow run ends with a flush, which may take a while, and so does the run of a
        task whose caller is in another process: once that has the result, this one may be ended. If
        the process is about to die, this flushes at once.
        """
        context_api.attach(self.outer)
        recorder, run = self.recorder, self._run
        if recorder is None or recorder.is_finished:
            return None
        if run is not None and run.state is not None and run.state is not self._told_state:
            recorder.enter_state(as_state(run.state))
        self._told_state = None
        recorder.return_to_caller(time_ns())
        own_transaction, self.transaction = self.transaction, None  # its hooks hold the engine
        if _may_be_rolled_back(own_transaction):
            recorder.await_rollback()
            own_transaction.on_commit_hooks.append(_commit_hook(recorder))
            return None
        if isinstance(run, FlowRun) and recorder.caller is None and not self._is_terminated:
            self._log_hint(recorder, run)
        recorder.finish()
        if self._is_flow:
            self._observer.forget(recorder.run.id)
            self._observer.tracer.finish_descendants(recorder, everything=self._is_terminated)
        if recorder.caller is not None or not (self._is_flow or self._is_sent):
            return None
        # A process may run many tasks, and a dead endpoint must not delay each of them.
        flush = partial(self._observer.flush, gives_up=not self._is_flow)
        if self._is_terminated or self._is_adopted:
            flush()
            return None
        return flush

    def roll_back(self) -> None:
        """Record that a transaction rolled the task run back, perhaps long after its end."""
        event = self._engine._last_event  # noqa: SLF001
        if self.recorder is None or event is None:
            return
        state = event.payload["validated_state"]
        moment = nanoseconds(event.occurred)
        self.recorder.enter_state(
            State(state["type"], state["name"], str(event.id), state["message"], moment)
        )
        if self.recorder.awaits_rollback:
            self.recorder.finish()

    def _begin(
        self, run: FlowRun | TaskRun, parameters: Mapping[str, Any] | None, past: Past
    ) -> KeyValueLabels:
        """Start the recorder and return the labels that let other processes join the trace."""
        origin: Origin
        self._is_served = bool(past.states) or (self._has_past and not self._is_adopted)
        if isinstance(run, FlowRun):
            origin = self._origin_of_flow_run(run)
            if origin.is_called:
                self._observer.remember_subflow(run)
            if run.state is not None and run.state.is_final():
                return {}  # a retried flow reads the result of a subflow that has ended
            if not origin.is_called and run.state is not None:
                # The engine may first have started a server to create the run on.
                created = nanoseconds(run.state.timestamp)
                self._start = max(self._start, min(created, time_ns()))
            kind: type[FlowRunDescription | TaskRunDescription] = FlowRunDescription
        else:
            origin = self._origin_of_task_run(run, past)
            kind = TaskRunDescription
        # An adopted run has been counted already.
        run_count = max(0, run.run_count - 1) if self._is_adopted else run.run_count
        description = kind(self._engine, run, parameters, past, self._observer, run_count)
        upstream = description.upstream(origin)
        self.has_upstream = bool(upstream)
        recorder = self._observer.tracer.start(
            Run(
                id=str(run.id),
                flow_name=description.flow_name,
                task_name=description.task_name,
                kind=SpanKind.SERVER
                if isinstance(run, FlowRun) and not origin.is_called
                else SpanKind.INTERNAL,
                start=self._start,
                trace_id=origin.trace_id,
                parent=origin.parent,
                run_count=run_count,
                allows_retries=description.allows_retries,
                upstream=upstream.keys(),
                deployment_name=description.deployment_name,
                waits_before=seconds(description.waits_before(self._start)),
                watch=description.watch(),
                time_running=description.time_running,
                is_adopted=self._is_adopted,
                late=description.late(self._start),
            ),
            description,
            origin.recorder,
        )
        self.recorder = recorder
        recorder.link(links_of(origin, upstream, recorder.span_context.trace_flags))
        for state in self._states_so_far(run, past):
            recorder.enter_state(as_state(state))
        context_api.attach(recorder.as_context())
        context = recorder.span_context
        if not context.is_valid:  # the provider makes no spans
            return {}
        labels = self._labels(context, origin)
        run.labels.update(labels)
        if isinstance(run, FlowRun):
            self._observer.remember_trace_id(str(run.id), context.trace_id)
            if not origin.is_called:
                self._log_places(run, context.trace_id)
        return labels

    def _labels(self, context: SpanContext, origin: Origin) -> KeyValueLabels:
        """Return the labels for other processes: of the run, and what observes it."""
        labels: KeyValueLabels = {LABELS_TRACEPARENT_KEY: format_traceparent(context)}
        if origin.keep is not None:
            labels[PARENT_LABEL] = origin.keep
        if self._observer.acknowledges:
            labels[REPORTS_LABEL] = "1"
        return labels

    def _states_so_far(self, run: FlowRun | TaskRun, past: Past) -> list[PrefectState]:
        states = before_pick_up(past.states)
        # The API gets the states of a task run as events, and may not have the last one yet.
        if run.state is not None and (self._is_adopted or isinstance(run, TaskRun) or not states):
            states.append(run.state)
        return states

    def _log_places(self, run: FlowRun, trace_id: int) -> None:
        """Say in the run's log where its trace is, if that is not where it would be expected."""
        logger = flow_run_logger(run, self._engine.flow)
        if (url := self._observer.settings.url_of(trace_id)) is not None:
            logger.info("Trace: %s", url)
        moved_to, self._observer.moved_to = self._observer.moved_to, None
        if moved_to is not None:
            logger.info(
                "The working directory is temporary, so flowspan writes to %s, which the command "
                "flowspan reads, too.",
                moved_to,
            )

    def _log_hint(self, recorder: RunRecorder, run: FlowRun) -> None:
        context = recorder.span_context
        if context.trace_flags.sampled and self._observer.take_hint():
            digits = f"{context.trace_id:032x}"[:_DIGITS]
            with contained, recorder.speaking():
                flow_run_logger(run, self._engine.flow).info(
                    "To see where the time went: flowspan timeline %s", digits
                )

    def _origin_of_flow_run(self, run: FlowRun) -> Origin:
        if self._is_adopted:  # the context is already its own
            if run.parent_task_run_id is not None and self._adopted_caller is not None:
                return self._origin_below(self._adopted_caller.run.id, None)
            return self._origin_of_root(run)
        caller = self._parent_run()
        if caller is not None:
            return self._origin_below(str(caller.id), caller.labels.get(LABELS_TRACEPARENT_KEY))
        return self._origin_of_root(run)

    def _origin_of_task_run(self, run: TaskRun, past: Past) -> Origin:
        flow_context = FlowRunContext.get()
        known = flow_context if flow_context is not None else past
        sender: FlowRun | TaskRun | None = known.flow_run or past.task_run
        is_detached = flow_context is not None and flow_context.detached
        self._is_sent = is_detached or self._has_past
        if self._is_sent:
            self._observer.sigterm.install()
        label = sender.labels.get(LABELS_TRACEPARENT_KEY) if sender is not None else None
        if (caller_id := calling_task_run(run, self._calling_task)) is not None:
            return self._origin_below(caller_id, label, is_task=True)
        if run.flow_run_id is not None:
            return self._origin_below(str(run.flow_run_id), label)
        return self._origin_of_root(run)

    def _origin_below(
        self, caller_id: str, label: object | None, *, is_task: bool = False
    ) -> Origin:
        caller = self._observer.tracer.active.get(caller_id)
        return origin_below(caller_id, caller, label, is_task=is_task)

    def _origin_of_root(self, run: FlowRun | TaskRun) -> Origin:
        # A server's environment tells how the server was started, not why it runs this.
        joins = not self._is_served or self._observer.settings.join_traceparent == "all"
        return origin_of_root(run, self._replaced, os.environ if joins else {})


def _cancelled(message: str | None) -> State:
    return State("CANCELLED", "Cancelled", "", message, time_ns())


def _may_be_rolled_back(transaction: Any) -> bool:
    """Return whether an open transaction around the task run's own can change its state."""
    if transaction is None or transaction.state != TransactionState.STAGED:
        return False
    around = type(transaction).get_active()
    ended = {TransactionState.COMMITTED, TransactionState.ROLLED_BACK}
    return around is not None and around.state not in ended


def _commit_hook(recorder: RunRecorder) -> Callable[[Any], None]:
    def finish(_transaction: Any) -> None:
        with contained:
            recorder.finish()

    finish.log_on_run = False  # type: ignore[attr-defined] # Prefect should log only the user's hooks
    return finish
