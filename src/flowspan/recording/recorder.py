"""The life of one run as spans, told by whoever watches the engine; knows nothing of Prefect.

A `RunRecorder` is told what happened and when (states, attempts, the user's function entered and
left, waits) and writes the run's span, one span for each attempt of a run that allows retries, and
the account of where the time went. All times are integer nanoseconds since the epoch.
"""

from __future__ import annotations

import contextlib
import threading
import traceback
from time import time_ns
from typing import TYPE_CHECKING, Final

from opentelemetry import context as context_api
from opentelemetry.semconv.attributes.exception_attributes import (
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
)
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    TracerProvider,
    set_span_in_context,
)

from flowspan import semconv
from flowspan._containment import Containment
from flowspan._version import __version__
from flowspan.identity import DerivedIdGenerator, derive_attempt_span_id, derive_span_id
from flowspan.recording.rows import Rows
from flowspan.recording.run import Attributes, Outcome, Run, State
from flowspan.recording.time_account import Account, Stopwatch
from flowspan.redaction import redact_text
from flowspan.units import NANOSECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from opentelemetry.context import Context
    from opentelemetry.util.types import AttributeValue

    from flowspan.objectives.promises import Violation
    from flowspan.objectives.watch import Watch
    from flowspan.recording.instruments import RunMetrics


_contained = Containment("recorder")
_RECORDER_KEY: Final = context_api.create_key("flowspan-recorder")
_SPEAKING_KEY: Final = context_api.create_key("flowspan-speaking")
# One for all: the SDK hands out the same tracer again for the same name.
_ids: Final = DerivedIdGenerator()

_RUNNING: Final = "RUNNING"
_FAILED: Final = "Failed"
# The attribute by which an exception tells which run raised it first
_FIRST_RUN: Final = "__flowspan_run_id__"
_FINAL_STATE_TYPES: Final = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
# States that a run enters after an attempt that failed, if it has retries left.
_RETRY_STATE_NAMES: Final = frozenset({"AwaitingRetry", "Retrying"})
# States that a run waits in, by the wait that they begin; the next state ends it.
_WAIT_BY_STATE_NAME: Final = {wait.state: wait.attribute for wait in semconv.WAITS if wait.state}


class RunTracer:
    """Starts recorders on one tracer and knows those that are active in this process."""

    def __init__(self, provider: TracerProvider, metrics: RunMetrics) -> None:
        """Take a tracer of `provider`; derive its ids if it is the SDK's, else leave its own."""
        self._tracer: Tracer = provider.get_tracer("flowspan", __version__)
        self.metrics = metrics
        self.active: dict[str, RunRecorder] = {}
        if hasattr(self._tracer, "id_generator"):
            # The SDK copies the provider's generator into each tracer: only ours derives ids.
            self._tracer.id_generator = _ids

    def start(
        self,
        run: Run,
        describe: Callable[[], Attributes],
        identify: Callable[[], Attributes] = dict,
        caller: RunRecorder | None = None,
    ) -> RunRecorder:
        """Start the span of `run` and return the recorder that will tell its life.

        `describe` builds the attributes that are not known at the start. It is called once, at the
        end, if the span is recorded. `identify` tells the run and its flow run by ids and present
        names, by attribute. `caller` is the recorder of the
        calling run, if that is in this process.
        """
        recorder = RunRecorder(self, run, describe, identify, caller)
        self.active[run.id] = recorder
        if (flow := recorder.calling_flow) is not None:
            flow.rows.consumed.update(run.upstream)
        return recorder

    def start_span(
        self,
        name: str,
        *,
        trace_id: int,
        span_id: int,
        start: int,
        parent: Context | None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> Span:
        """Start a span with the given ids; a parent's trace id wins over `trace_id`."""
        _ids.expect(trace_id, span_id)
        return self._tracer.start_span(
            name,
            # The current context but for its span, whose child this is not.
            context=parent if parent is not None else set_span_in_context(INVALID_SPAN),
            kind=kind,
            attributes=attributes,
            start_time=start,
        )

    def finish_descendants(self, ancestor: RunRecorder, *, everything: bool) -> None:
        """End the spans below `ancestor` that still await a rollback, or all of them."""
        for recorder in tuple(self.active.values()):
            if (everything or recorder.awaits_rollback) and recorder.is_below(ancestor):
                recorder.finish()

    def finish_all(self) -> None:
        """End every span that is still open, as the process is about to end."""
        for recorder in tuple(self.active.values()):
            with _contained:
                recorder.finish()


class RunRecorder:
    """Records one run in this process, from the engine taking it up to the engine leaving it."""

    def __init__(
        self,
        tracer: RunTracer,
        run: Run,
        describe: Callable[[], Attributes] | None,
        identify: Callable[[], Attributes] | None,
        caller: RunRecorder | None,
    ) -> None:
        """Start the span of `run`."""
        self._tracer = tracer
        self.run = run
        self.caller = caller
        self.span = tracer.start_span(
            run.span_name,
            trace_id=run.trace_id,
            span_id=derive_span_id(run.id, run.run_count),
            start=run.start,
            parent=run.parent,
            kind=run.kind,
            attributes=run.sampling_attributes,
        )
        self._is_recording = self.span.is_recording()
        self._thread = threading.current_thread()
        self._metrics = tracer.metrics
        # With the run's span, so that exemplars lead from a metric to the trace.
        self._context = set_span_in_context(self.span)
        self._state: State | None = None
        self._seen: set[str] = set()
        self._state_wait: tuple[str, int] | None = None
        self._account = Account()
        self._running = Stopwatch(run.time_running)
        self.rows = Rows()
        self._attempt = run.run_count
        self._has_failed_below = False
        self._attempt_span: Span | None = None
        self._attempt_is_over = False
        self._exception: BaseException | None = None
        self._left_as: State | None = None
        self._describe = describe
        self._identify: Callable[[], Attributes] | None = identify
        self._identity: Attributes | None = None
        self.is_finished = False
        self._is_left = False
        self.awaits_rollback = False
        self._metrics.taken_up(run, self._context)
        self._watches: tuple[Watch, ...] = caller._watches if caller is not None else ()  # noqa: SLF001 - its own kind
        if run.watch is not None:
            self._watches += (run.watch,)
            run.watch.begin(
                self._violate, self.speaking, late=run.late, time_running=run.time_running
            )

    @property
    def span_context(self) -> SpanContext:
        """The ids of the run's span."""
        return self.span.get_span_context()

    @property
    def state(self) -> State | None:
        """The last state that the recorder was told of."""
        return self._state

    @property
    def state_is_final(self) -> bool:
        """Whether the last state is one that Prefect does not leave again by itself."""
        return self._state is not None and self._state.type in _FINAL_STATE_TYPES

    @property
    def exception(self) -> BaseException | None:
        """The exception that ended the last attempt."""
        return self._exception

    @property
    def innermost_span_context(self) -> SpanContext:
        """The ids of the attempt's span where there is one, or else of the run's."""
        return (self._attempt_span or self.span).get_span_context()

    @property
    def log_attributes(self) -> Attributes:
        """What log records of this run carry: the names and ids of its flow and task runs."""
        if self._identity is not None:
            return self._identity.copy()
        identify = self._identify
        if identify is None:  # the run has ended
            return {}
        flow = None if self.run.is_flow else self.calling_flow
        identity = {**(flow.log_attributes if flow is not None else {}), **identify()}
        # Until it executes, Prefect may still name the run, and elsewhere not all may be known.
        if self._account.is_executing and current_recorder() is self:
            self._identity = identity.copy()
        return identity

    @property
    def calling_flow(self) -> RunRecorder | None:
        """The flow run that this run is part of, if it is in this process."""
        caller = self.caller
        while caller is not None and not caller.run.is_flow:
            caller = caller.caller
        return caller

    def is_below(self, ancestor: RunRecorder) -> bool:
        """Whether `ancestor` called this run, directly or through others, in this process."""
        parent = self.caller
        while parent is not None and parent is not ancestor:
            parent = parent.caller
        return parent is not None

    def as_context(self) -> Context:
        """Return the current context with the attempt's span in it, or else the run's."""
        return set_span_in_context(
            self._attempt_span or self.span, context_api.set_value(_RECORDER_KEY, self)
        )

    @contextlib.contextmanager
    def speaking(self) -> Iterator[None]:
        """Make what flowspan logs meanwhile lines of this run, even if that has ended."""
        token = context_api.attach(context_api.set_value(_SPEAKING_KEY, self, self.as_context()))
        try:
            yield
        finally:
            context_api.detach(token)

    def link(self, links: Iterable[Link]) -> None:
        """Link the run's span to others."""
        if self._is_recording:
            for link in links:
                self.span.add_link(link.context, link.attributes)

    def enter_state(self, state: State) -> None:
        """Record that the run entered `state`; a state told twice is recorded once."""
        if state.id in self._seen:
            return
        self._seen.add(state.id)
        self._end_state_wait(state.time)
        self._state = state
        if wait := _WAIT_BY_STATE_NAME.get(state.name):
            self._state_wait = (wait, state.time)
        if self._attempt_is_over:
            self._mark_attempt(state)
            self._end_attempt(state.time)
        if state.type == _RUNNING:
            self._enter_running(state.time)
        else:
            self._leave_running(state.time)
        if self._is_recording:
            self.span.add_event(
                state.name,
                {
                    semconv.STATE_TYPE: state.type,
                    semconv.STATE_NAME: state.name,
                    semconv.STATE_ID: state.id,
                    semconv.STATE_MESSAGE: redact_text(state.message or ""),
                },
                timestamp=state.time,
            )

    def begin_attempt(self, now: int) -> None:
        """Record that the engine begins an attempt at `now`."""
        if self._attempt > self.run.run_count:
            error_type = self._error_type(_FAILED)
            self._count_error(error_type)
            self._metrics.retried(self.run, error_type, self._context)
        self._attempt += 1
        self._attempt_is_over = False
        self._exception = None
        if self.run.allows_retries:
            self._attempt_span = self._tracer.start_span(
                semconv.attempt_span_name(self._attempt),
                trace_id=self.span_context.trace_id,
                span_id=derive_attempt_span_id(self.run.id, self._attempt),
                start=now,
                parent=set_span_in_context(self.span),
                attributes={semconv.ATTEMPT: self._attempt},
            )

    def begin_execution(self, now: int) -> None:
        """Record that the user's function is entered at `now`."""
        self._account.begin_execution(now)

    def end_execution(self, now: int) -> bool:
        """Record that the user's function is left at `now`; the next state ends the attempt.

        Returns whether it had been entered, which it is not for a result from the cache.
        """
        self._attempt_is_over = True
        was_executing = self._account.is_executing
        if was_executing:
            self._end_state_wait(now)
            self._account.end_execution(now)
        return was_executing

    def fail(self, exception: BaseException, now: int) -> None:
        """Record on the attempt, or on a run without any, the exception that ended it."""
        self.end_execution(now)
        if self._exception is exception:
            return
        self._exception = exception
        span = self._attempt_span or self.span
        if not span.is_recording():
            return
        message, stacktrace = redact_text(str(exception)), traceback.format_exception(exception)
        masked = {
            EXCEPTION_TYPE: qualified_name(exception),
            EXCEPTION_MESSAGE: message,
            EXCEPTION_STACKTRACE: redact_text("".join(stacktrace)),
        }
        span.add_event("exception", masked, timestamp=now)  # what the SDK does would not be masked
        if self._attempt_span is not None:
            span.set_attribute(semconv.ERROR_TYPE, qualified_name(exception))
            span.set_status(Status(StatusCode.ERROR, message))

    def wait(self, attribute: str, start: int, end: int) -> None:
        """Account a wait by its attribute; one inside the user's function is not execution."""
        self._account.wait(attribute, start, end)

    def measure(
        self, name: str, value: float, unit: str, attributes: Mapping[str, AttributeValue]
    ) -> None:
        """Record a measurement of the user's own, as the metric ``prefect.metric.<name>``."""
        self._metrics.measured(self.run, name, value, unit, attributes, context=self._context)

    def await_rollback(self) -> None:
        """Record that the engine leaves the run, whose state a transaction may still change."""
        self.awaits_rollback = True
        self._leave()

    def leave_as(self, state: State) -> None:
        """Conclude with a `state` that the run will enter only after this process has left it."""
        self._left_as = state

    def finish(self, now: int | None = None) -> None:
        """End the run's span at its final state's time, or `now` if it has none; only once."""
        if self.is_finished:
            return
        self.is_finished = True
        self._tracer.active.pop(self.run.id, None)
        state = self._left_as or self._state
        now = time_ns() if now is None else now
        is_final = state is not None and state.type in _FINAL_STATE_TYPES
        # Prefect's server stamps the states of flow runs: its clock may lag behind this one.
        end = max(state.time if state and is_final else now, self.run.start)
        self.end_execution(min(now, end))
        self._end_attempt(end)
        self._leave_running(end)
        caller = self.caller
        if caller is not None and caller is self.calling_flow:
            caller.rows.of_leaves[self.run.id] = self.rows.total(semconv.ROWS_OUTPUT)
        outcome = self._outcome(state)
        try:
            self._measure(outcome)
            if self.run.watch is not None:
                self._identity = self.log_attributes  # what it reports may come later
                result = outcome.result if outcome is not None else None
                rows = self.rows.total(semconv.ROWS_OUTPUT)
                self.run.watch.end(result, self._duration, rows)
        finally:
            self._end_span(state, outcome, end)

    def _end_span(self, state: State | None, outcome: Outcome | None, end: int) -> None:
        try:
            if self._is_recording:
                self._conclude(state, outcome, end)
        finally:
            self._describe = self._identify = None  # they hold the run's parameters
            self.span.end(end_time=end)

    def _enter_running(self, now: int) -> None:
        if self.run.is_flow and not self._running.has_run:
            self._metrics.executing(self.run, self._pending(now), self._context)
        self._running.start(now)
        if self.run.watch is not None:
            # The server stamps the states of flow runs, whose clock may be another.
            since = now if self.run.is_adopted else time_ns()
            self.run.watch.resume(self._running.total, since)

    def _leave_running(self, now: int) -> None:
        since = self._running.stop(now)
        if self.run.watch is not None:
            self.run.watch.pause()
        if since is not None and self.run.task_name is not None:
            for watch in self._watches:
                watch.task_ran(self.run.task_name, since, now)

    @property
    def _duration(self) -> float | None:
        """Seconds in Running states; None if there was none."""
        return self._running.seconds if self._running.has_run else None

    def _pending(self, now: int) -> float | None:
        """Tell how many seconds the run was pending; None if unknown, or told before."""
        run = self.run
        if run.run_count > 0 or (run.is_adopted and not run.waits_before):
            return None
        return sum(run.waits_before.values()) + max(0, now - run.start) / NANOSECONDS

    def _violate(self, violation: Violation) -> None:
        self._metrics.violated(self.run, violation.objective, self._context)
        if self.span.is_recording():
            self.span.add_event(
                semconv.SLO_VIOLATED,
                {
                    semconv.SLO_OBJECTIVE: violation.objective,
                    semconv.SLO_EXPECTED: violation.expected,
                    semconv.SLO_ACTUAL: violation.actual,
                    semconv.SLO_DETAIL: violation.detail,
                },
            )

    def _leave(self) -> None:
        if not self._is_left:
            self._is_left = True
            has_executed = self._running.has_run
            self._metrics.left(self.run, self._context, has_executed=has_executed)

    def _end_state_wait(self, now: int) -> None:
        if self._state_wait is not None:
            wait, since = self._state_wait
            self._state_wait = None
            self.wait(wait, since, max(since, now))

    def _mark_attempt(self, state: State) -> None:
        """Mark the attempt as failed if `state` says so and no exception did."""
        if self._attempt_span is None or self._exception is not None:
            return
        is_retried = state.name in _RETRY_STATE_NAMES
        if is_retried or semconv.result_of(state.type, state.name) in semconv.ERROR_RESULTS:
            error_type = self._error_type(_FAILED if is_retried else state.name)
            self._attempt_span.set_attribute(semconv.ERROR_TYPE, error_type)
            self._attempt_span.set_status(
                Status(StatusCode.ERROR, redact_text(state.message) if state.message else None)
            )

    def _end_attempt(self, now: int) -> None:
        if self._attempt_span is not None:
            self._attempt_span.end(end_time=now)
            self._attempt_span = None
        self._attempt_is_over = False

    def _error_type(self, state_name: str) -> str:
        return qualified_name(self._exception) if self._exception is not None else state_name

    def _count_error(self, error_type: str) -> None:
        """Count the error of an attempt, unless it came up from a run below that had it first."""
        caller, error = self.caller, self._exception
        # The mark goes with a copy from another process, too.
        came_up = (
            self._has_failed_below
            if error is None
            else getattr(error, _FIRST_RUN, self.run.id) != self.run.id
        )
        if not came_up:
            self._metrics.error(self.run, error_type, self._context)
            with contextlib.suppress(Exception):  # some exceptions take no attributes
                setattr(error, _FIRST_RUN, self.run.id)
        if caller is not None:
            caller._has_failed_below = True  # noqa: SLF001 - its own kind

    def _outcome(self, state: State | None) -> Outcome | None:
        """Tell how the run ended in `state`; None if it has not ended for good."""
        if state is None:
            return None
        result = semconv.result_of(state.type, state.name)
        if result is None:
            return None
        error_type = None
        if result in semconv.ERROR_RESULTS:
            error_type = self._error_type(state.name)
        return Outcome(state.name, result, error_type)

    def _measure(self, outcome: Outcome | None) -> None:
        metrics, run, context = self._metrics, self.run, self._context
        self._leave()
        for attribute, waited in (*run.waits_before.items(), *self._account.waits.items()):
            metrics.waited(run, attribute, waited, context)
        for direction in (semconv.ROWS_INPUT, semconv.ROWS_OUTPUT):
            if (rows := self.rows.total(direction)) is not None:
                metrics.moved(run, direction, rows, context)
        if outcome is not None:
            if outcome.error_type is not None:
                self._count_error(outcome.error_type)
            metrics.ended(run, outcome, self._duration, context)

    def _conclude(self, state: State | None, outcome: Outcome | None, end: int) -> None:
        attributes: Attributes = dict(self.run.waits_before)
        attributes.update(self.rows.attributes(self._account.execution))
        attributes.update(self._account.attributes(end - self.run.start))
        attributes[semconv.THREAD_ID] = self._thread.ident or 0
        attributes[semconv.THREAD_NAME] = self._thread.name
        if state is not None:
            attributes[semconv.RUN_STATE_TYPE] = state.type
            attributes[semconv.RUN_STATE_NAME] = state.name
        if outcome is not None:
            attributes[self.run.result_attribute] = outcome.result
            if outcome.error_type is not None:
                attributes[semconv.ERROR_TYPE] = outcome.error_type
                message = redact_text(state.message) if state and state.message else None
                self.span.set_status(Status(StatusCode.ERROR, message))
        try:
            if self._describe is not None:
                attributes.update(self._describe())
        finally:
            self.span.set_attributes(attributes)


def current_recorder(context: Context | None = None) -> RunRecorder | None:
    """Return the recorder of the run that the calling code runs in, if there is one.

    Or else of the run whose `context` is given.
    """
    recorder = context_api.get_value(_RECORDER_KEY, context)
    return recorder if isinstance(recorder, RunRecorder) else None


def speaking_recorder(context: Context | None = None) -> RunRecorder | None:
    """Return the recorder of the run whose line it is that the calling code logs.

    Not that of a run that has ended: in a thread or a callback code may outlive it in its context.
    """
    recorder = current_recorder(context)
    if recorder is None or not recorder.is_finished:
        return recorder
    return recorder if context_api.get_value(_SPEAKING_KEY, context) is recorder else None


def qualified_name(exception: BaseException) -> str:
    """Name an exception's class as the semantic conventions for ``error.type`` do."""
    kind = type(exception)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
