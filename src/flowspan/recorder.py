"""The life of one run as spans, told by whoever watches the engine; knows nothing of Prefect.

A `RunRecorder` is told what happened and when (states, attempts, the user's function entered and
left, waits) and writes the run's span, one span for each attempt of a run that allows retries, and
the account of where the time went. All times are integer nanoseconds since the epoch.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from time import time_ns
from typing import TYPE_CHECKING, Final, NamedTuple

from opentelemetry import context as context_api
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    TracerProvider,
    get_current_span,
    set_span_in_context,
)

from flowspan import semconv
from flowspan._version import __version__
from flowspan.identity import DerivedIdGenerator, derive_attempt_span_id, derive_span_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.context import Context
    from opentelemetry.util.types import AttributeValue

_NANOSECONDS: Final = 1_000_000_000
_RECORDER_KEY: Final = context_api.create_key("flowspan-recorder")

_RESULT_BY_STATE_NAME: Final = {"TimedOut": "timeout", "NotReady": "skip"}
_RESULT_BY_STATE_TYPE: Final = {
    "COMPLETED": "success",
    "FAILED": "failure",
    "CRASHED": "error",
    "CANCELLED": "cancellation",
    # Left in this state only by a process that is told to stop: what follows is Cancelled.
    "CANCELLING": "cancellation",
}
_FINAL_STATE_TYPES: Final = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
_ERROR_RESULTS: Final = frozenset({"failure", "timeout", "error"})
# States that a run waits in, by the wait that they begin; the next state ends it.
_WAIT_BY_STATE_NAME: Final = {"AwaitingRetry": semconv.WAIT_RETRY, "Paused": semconv.WAIT_PAUSE}


class State(NamedTuple):
    """A state that a run entered; `time` is the state's own timestamp."""

    type: str
    name: str
    id: str
    message: str | None
    time: int


@dataclass(frozen=True, slots=True)
class Run:
    """What is known of a run when the engine takes it up.

    Attributes:
        id: The flow or task run's id.
        span_name: The low-cardinality name of its span.
        kind: The kind of its span.
        start: When the engine took the run up in this process.
        trace_id: The trace of a run without a parent.
        parent: Context that holds the parent's span, if there is one, here or in another process.
        parent_recorder: The recorder of the calling run, if that is in this process.
        run_count: How often the run had been running when the engine took it up.
        allows_retries: Whether each attempt gets a span of its own.
        result_attribute: The attribute that says how the run ended.
        sampling_attributes: The few attributes that a sampler gets to see.
        describe: Builds all other attributes; called once, at the end, if the span is recorded.
        links: Builds the links; called once, at the start, if the span is recorded.
        waits_before: Seconds waited before `start`, by attribute name.
    """

    id: str
    span_name: str
    kind: SpanKind
    start: int
    trace_id: int
    parent: Context | None
    parent_recorder: RunRecorder | None
    run_count: int
    allows_retries: bool
    result_attribute: str
    sampling_attributes: Mapping[str, AttributeValue]
    describe: Callable[[], dict[str, AttributeValue]]
    links: Callable[[], Iterable[Link]]
    waits_before: Mapping[str, float] = field(default_factory=dict)


class RunTracer:
    """Starts recorders on one tracer and knows those that are active in this process."""

    def __init__(self, provider: TracerProvider) -> None:
        """Take a tracer of `provider`; derive its ids if it is the SDK's, else leave its own."""
        self._tracer: Tracer = provider.get_tracer("flowspan", __version__)
        self._ids = DerivedIdGenerator()
        self.active: dict[str, RunRecorder] = {}
        if hasattr(self._tracer, "id_generator"):
            # The SDK copies the provider's generator into each tracer: only ours derives ids.
            self._tracer.id_generator = self._ids

    def start(self, run: Run) -> RunRecorder:
        """Start the span of `run` and return the recorder that will tell its life."""
        recorder = RunRecorder(self, run)
        self.active[run.id] = recorder
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
        self._ids.expect(trace_id, span_id)
        return self._tracer.start_span(
            name,
            # An empty context, for None would mean the current one.
            context=parent if parent is not None else context_api.Context(),
            kind=kind,
            attributes=attributes,
            start_time=start,
        )

    def finish_descendants(self, ancestor: RunRecorder) -> None:
        """End the spans below `ancestor` whose engines will never come to their end."""
        for recorder in tuple(self.active.values()):
            if recorder is not ancestor and recorder.is_below(ancestor):
                recorder.finish()

    def finish_all(self) -> None:
        """End every span that is still open, as the process is about to end."""
        for recorder in tuple(self.active.values()):
            recorder.finish()


class RunRecorder:
    """Records one run in this process, from the engine taking it up to the engine leaving it."""

    def __init__(self, tracer: RunTracer, run: Run) -> None:
        """Start the span of `run`."""
        self._tracer = tracer
        self.run = run
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
        self._state: State | None = None
        self._seen: set[str] = set()
        self._waits: dict[str, int] = {}
        self._wait_lock = threading.Lock()
        self._state_wait: tuple[str, int] | None = None
        self._execution = 0
        self._executing_since: int | None = None
        self._has_executed = False
        self._attempt = run.run_count
        self._attempt_span: Span | None = None
        self._attempt_is_over = False
        self._exception: BaseException | None = None
        self._left_as: State | None = None
        self.is_finished = False
        if self._is_recording:
            for link in run.links():
                self.span.add_link(link.context, link.attributes)

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

    def is_below(self, ancestor: RunRecorder) -> bool:
        """Whether `ancestor` called this run, directly or through others, in this process."""
        parent = self.run.parent_recorder
        while parent is not None and parent is not ancestor:
            parent = parent.run.parent_recorder
        return parent is not None

    def as_context(self) -> Context:
        """Return the current context with the attempt's span in it, or else the run's."""
        return set_span_in_context(
            self._attempt_span or self.span, context_api.set_value(_RECORDER_KEY, self)
        )

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
            self._end_attempt(state.time)
        if self._is_recording:
            self.span.add_event(
                state.name,
                {
                    semconv.STATE_TYPE: state.type,
                    semconv.STATE_NAME: state.name,
                    semconv.STATE_ID: state.id,
                    semconv.STATE_MESSAGE: state.message or "",
                },
                timestamp=state.time,
            )

    def begin_attempt(self, now: int) -> None:
        """Record that the engine begins an attempt at `now`."""
        self._attempt += 1
        self._attempt_is_over = False
        self._exception = None
        if self.run.allows_retries:
            self._attempt_span = self._tracer.start_span(
                semconv.attempt_span_name(self._attempt),
                trace_id=self.span_context.trace_id,
                span_id=derive_attempt_span_id(self.run.id, self._attempt),
                start=now,
                parent=set_span_in_context(self.span, context_api.Context()),
                attributes={semconv.ATTEMPT: self._attempt},
            )

    def begin_execution(self, now: int) -> None:
        """Record that the user's function is entered at `now`."""
        self._executing_since = now
        self._has_executed = True

    def end_execution(self, now: int) -> None:
        """Record that the user's function is left at `now`; the next state ends the attempt."""
        self._attempt_is_over = True
        if self._executing_since is not None:
            self._end_state_wait(now)
            self._execution += max(0, now - self._executing_since)
            self._executing_since = None

    def fail(self, exception: BaseException, now: int) -> None:
        """Record on the attempt, or on a run without any, the exception that ended it."""
        self.end_execution(now)
        if self._exception is exception:
            return
        self._exception = exception
        span = self._attempt_span or self.span
        span.record_exception(exception, timestamp=now)
        if self._attempt_span is not None:
            span.set_attribute(semconv.ERROR_TYPE, _qualified_name(exception))
            span.set_status(Status(StatusCode.ERROR, str(exception)))

    def wait(self, attribute: str, start: int, end: int) -> None:
        """Account a wait by its attribute; one inside the user's function is not execution."""
        with self._wait_lock:
            self._waits[attribute] = self._waits.get(attribute, 0) + end - start
            if self._executing_since is not None and start >= self._executing_since:
                self._execution -= end - start

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
        try:
            if self._is_recording:
                self._conclude(state, end)
        finally:
            self.span.end(end_time=end)

    def _end_state_wait(self, now: int) -> None:
        if self._state_wait is not None:
            wait, since = self._state_wait
            self._state_wait = None
            self.wait(wait, since, max(since, now))

    def _end_attempt(self, now: int) -> None:
        if self._attempt_span is not None:
            self._attempt_span.end(end_time=now)
            self._attempt_span = None
        self._attempt_is_over = False

    def _conclude(self, state: State | None, end: int) -> None:
        attributes = self.run.describe()
        attributes.update(self.run.waits_before)
        if state is not None:
            attributes[semconv.RUN_STATE_TYPE] = state.type
            attributes[semconv.RUN_STATE_NAME] = state.name
            result = _RESULT_BY_STATE_NAME.get(state.name) or _RESULT_BY_STATE_TYPE.get(state.type)
            if result is not None:
                attributes[self.run.result_attribute] = result
            if result in _ERROR_RESULTS:
                attributes[semconv.ERROR_TYPE] = (
                    _qualified_name(self._exception) if self._exception else state.name
                )
                self.span.set_status(Status(StatusCode.ERROR, state.message))
        attributes.update(self._account(end - self.run.start))
        self.span.set_attributes(attributes)

    def _account(self, duration: int) -> dict[str, AttributeValue]:
        """Tell where the time went, in seconds; the engine's own share is what remains."""
        account: dict[str, AttributeValue] = {
            wait: nanoseconds / _NANOSECONDS for wait, nanoseconds in self._waits.items()
        }
        if self._has_executed:
            account[semconv.EXECUTION] = self._execution / _NANOSECONDS
        rest = duration - sum(self._waits.values()) - self._execution
        account[semconv.ORCHESTRATION] = max(0, rest) / _NANOSECONDS
        return account


def current_recorder() -> RunRecorder | None:
    """Return the recorder of the run that the calling code runs in, if there is one."""
    recorder = context_api.get_value(_RECORDER_KEY)
    return recorder if isinstance(recorder, RunRecorder) else None


def parent_of_root() -> Context | None:
    """Return the current context if it holds a span that a top-level run should be a child of."""
    return context_api.get_current() if get_current_span().get_span_context().is_valid else None


def _qualified_name(exception: BaseException) -> str:
    """Name an exception's class as the semantic conventions for ``error.type`` do."""
    kind = type(exception)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
