"""Record the life of one run as spans; this module does not depend on Prefect.

The code that watches the engine tells a `RunRecorder` what happened and when: states, attempts,
waits, and when the user's function is entered and left. The recorder writes the run's span, a span
for each attempt if the run allows retries, and the account of where the time went. All times are
integer nanoseconds since the epoch.

The states of a recorder, and what moves it from one to the next::

    RunTracer.start
          |
    HELD  v
    +--------------------------------------------------------------------+
    |  taken up --begin_attempt--> in an attempt                         |
    |                              |          ^                          |
    |                     a state, |          | begin_attempt            |
    |                     once the |          |                          |
    |                     function v          |                          |
    |                     is left  between attempts                      |
    +--------------------------------------------------------------------+
          | await_rollback, as the engine leaves         | finish, from anywhere
          v                                              | in HELD
    AWAITING_ROLLBACK --finish--------------------> FINISHED

    start           starts the run's span; counts the run as active and, for a flow run, as pending
    begin_attempt   starts the attempt's span; counts an error and a retry if it is not the first
    enter_state     an event on the run's span; ends the attempt's span if the function is left;
                    starts or stops the time in Running states; a flow run's first Running state
                    counts it as executing
    await_rollback  counts the run as no longer active
    finish          the same, unless already done, and the rest, in the order given there

What always holds:

- The run's span is open until FINISHED, and until then the run is in `RunTracer.active`.
- An attempt's span lies inside the run's, and no two of them overlap.
- A run is counted as active in HELD only.
- A state is recorded once. It may come in any phase: a transaction may roll back a run that its
  engine has left. After FINISHED a state only changes what `state` returns.
"""

from __future__ import annotations

import contextlib
from time import time_ns
from typing import TYPE_CHECKING, Final

from opentelemetry import context as context_api
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
from flowspan.recording.attempt import Attempt
from flowspan.recording.links import Ends
from flowspan.recording.place import Place
from flowspan.recording.rows import Rows
from flowspan.recording.run import States
from flowspan.recording.tally import Tally
from flowspan.recording.time_account import Account
from flowspan.redaction import redact_text
from flowspan.units import NANOSECONDS
from flowspan.values import clean, clean_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from opentelemetry.context import Context
    from opentelemetry.util.types import AttributeValue

    from flowspan.recording.instruments import RunMetrics
    from flowspan.recording.run import Attributes, Details, Outcome, Run, State


_contained = Containment("recorder")

_RECORDER_KEY: Final = context_api.create_key("flowspan-recorder")
_SPEAKING_KEY: Final = context_api.create_key("flowspan-speaking")
# Shared, because the SDK returns the same tracer for the same name.
_ids: Final = DerivedIdGenerator()

# Drawn at the head of this module
_HELD: Final = "the engine has it"
_AWAITING_ROLLBACK: Final = "the engine has left it; a transaction may still change its state"
_FINISHED: Final = "its span has ended"


class RunTracer:
    """Starts recorders on one tracer and knows those that are active in this process."""

    def __init__(self, provider: TracerProvider, metrics: RunMetrics) -> None:
        """Get a tracer of `provider`; derive its ids if it is the SDK's, else keep its own."""
        self._tracer: Tracer = provider.get_tracer("flowspan", __version__)
        self.metrics = metrics
        self.active: dict[str, RunRecorder] = {}
        self.ends = Ends()
        self.notice: Callable[[RunRecorder], None] | None = None
        """Called with each recorder that is started."""
        if hasattr(self._tracer, "id_generator"):
            # The SDK copies the provider's generator into each tracer: only ours derives ids.
            self._tracer.id_generator = _ids

    def start(self, run: Run, details: Details, caller: RunRecorder | None = None) -> RunRecorder:
        """Start the span of `run` and return the recorder that will record its life.

        `caller` is the recorder of the calling run, if that is in this process.
        """
        recorder = RunRecorder(self, run, details, caller)
        self.active[run.id] = recorder
        if self.notice is not None:
            self.notice(recorder)
        if (flow := recorder.calling_flow) is not None:
            flow.rows.consume(run.upstream)
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
            clean_text(name),
            # The current context without its span, which is not the parent.
            context=parent if parent is not None else set_span_in_context(INVALID_SPAN),
            kind=kind,
            attributes=clean(attributes or {}),
            start_time=start,
        )

    def finish_descendants(self, ancestor: RunRecorder, *, everything: bool) -> None:
        """End the spans below `ancestor` that still await a rollback, or `everything` below it."""
        for recorder in tuple(self.active.values()):
            if (everything or recorder.awaits_rollback) and recorder.is_below(ancestor):
                recorder.finish()

    def finish_all(self) -> None:
        """End every span that is still open, because the process is about to end."""
        for recorder in tuple(self.active.values()):
            with _contained:
                recorder.finish()


class RunRecorder:
    """Records one run in this process, from the engine taking it up to the engine leaving it."""

    def __init__(
        self, tracer: RunTracer, run: Run, details: Details, caller: RunRecorder | None
    ) -> None:
        """Start the span of `run`."""
        self._tracer = tracer
        self.run = run
        self.caller = caller
        self.calling_flow: RunRecorder | None = caller
        if caller is not None and not caller.run.is_flow:
            self.calling_flow = caller.calling_flow
        self.span = tracer.start_span(
            run.span_name,
            trace_id=run.trace_id,
            span_id=derive_span_id(run.id, run.run_count),
            start=run.start,
            parent=run.parent,
            kind=run.kind,
            attributes=run.sampling_attributes,
        )
        self._place = Place()
        self._told_end = 0  # when the final state became known, by our own clock
        self._exit = 0
        self._waits_before = run.waits_before
        self._phase: str = _HELD
        self._links: list[Link] = []
        self._states = States()
        self._attempt = Attempt(run.run_count)
        self._account = Account()
        self.rows = Rows()
        self._details: Details | None = details  # until the end: they hold the run's parameters
        self._identity: Attributes | None = None
        tally_of_caller: Tally | None = caller.tally if caller is not None else None
        self.tally: Tally = Tally(run, self.span, tracer.metrics, tally_of_caller)
        if run.watch is not None:
            self.tally.begin_watch(run.watch, self.speaking)

    # What it knows

    @property
    def span_context(self) -> SpanContext:
        """The ids of the run's span."""
        return self.span.get_span_context()

    @property
    def innermost_span_context(self) -> SpanContext:
        """The ids of the attempt's span if there is one, otherwise of the run's."""
        return self._innermost_span.get_span_context()

    @property
    def state(self) -> State | None:
        """The last state that the recorder was told of."""
        return self._states.last

    @property
    def state_is_final(self) -> bool:
        """Whether the last state is one that Prefect does not leave again by itself."""
        return self.state is not None and self.state.is_final

    @property
    def awaits_rollback(self) -> bool:
        """Whether the engine has left the run, but a transaction may still change its state."""
        return self._phase == _AWAITING_ROLLBACK

    @property
    def is_finished(self) -> bool:
        """Whether the run's span has ended."""
        return self._phase == _FINISHED

    @property
    def log_attributes(self) -> Attributes:
        """The attributes of this run's log records: names and ids of its flow and task runs."""
        if self._identity is not None:
            return self._identity.copy()
        if self._details is None:  # the run has ended
            return {}
        flow = None if self.run.is_flow else self.calling_flow
        identity = {
            **(flow.log_attributes if flow is not None else {}),
            **self._details.identify(),
        }
        # Prefect may still rename the run until it executes; other callers may not know all names.
        if self._account.is_executing and current_recorder() is self:
            self._identity = identity.copy()
        return identity

    @property
    def activity(self) -> str:
        """What the run is doing: ``execution``, ``orchestration`` or the name of a wait."""
        return self._account.activity.rpartition(".")[2]

    def so_far(self, now: int, *, fully: bool) -> Attributes:
        """Return the attributes that the run's span would have if the run was left at `now`.

        Another thread may call this. Unless `fully`, parameters, labels and tags are left out.
        """
        details, attempt = self._details, self._attempt
        attributes: Attributes = {}
        if details is not None:
            identity = self.log_attributes
            attributes = {**(details.attributes() if fully else {}), **identity}
            name = semconv.FLOW_RUN_NAME if self.run.is_flow else semconv.TASK_RUN_NAME
            attributes[semconv.RUN_NAME] = identity[name]
        attributes.update(self._account_of(self._account.so_far(now), self.state, None, now))
        attributes[semconv.RUN_ACTIVITY] = self.activity
        return {**attributes, **self.run.report, **attempt.so_far()}

    def is_below(self, ancestor: RunRecorder) -> bool:
        """Whether `ancestor` called this run, directly or through others, in this process."""
        caller = self.caller
        while caller is not None and caller is not ancestor:
            caller = caller.caller
        return caller is not None

    def as_context(self) -> Context:
        """Return the current context with the attempt's span, or the run's if there is none."""
        return set_span_in_context(self._innermost_span, context_api.set_value(_RECORDER_KEY, self))

    @contextlib.contextmanager
    def speaking(self) -> Iterator[None]:
        """Attribute what flowspan logs meanwhile to this run, even if it has ended."""
        token = context_api.attach(context_api.set_value(_SPEAKING_KEY, self, self.as_context()))
        try:
            yield
        finally:
            context_api.detach(token)

    # What it is told while the engine has the run

    def link(self, links: Iterable[Link]) -> None:
        """Link the run's span to others, at its end: then those that it waited for have ended."""
        if self.span.is_recording():
            self._links.extend(links)

    def enter_state(self, state: State) -> None:
        """Record that the run entered `state`; a repeated state is recorded once."""
        if not self._states.enter(state):
            return
        if state.is_final:
            self._told_end = time_ns()
        self._account.enter_state(state)
        self._attempt.enter_state(state)
        self.tally.enter_state(state)
        if self.span.is_recording():
            name, attributes = clean_text(state.name), clean(state.attributes)
            self.span.add_event(name, attributes, timestamp=state.time)

    def begin_attempt(self, now: int) -> None:
        """Record that the engine starts an attempt at `now`."""
        number = self._attempt.number + 1
        if number > self.run.run_count + 1:
            self._attempt.end(now)  # unless a state has done so
            self.tally.retry(self._attempt)
        span = None
        if self.run.allows_retries:
            span = self._tracer.start_span(
                semconv.attempt_span_name(number),
                trace_id=self.span_context.trace_id,
                span_id=derive_attempt_span_id(self.run.id, number),
                start=now,
                parent=self.tally.context,
                attributes={semconv.ATTEMPT: number},
            )
        self._attempt = Attempt(number, span, now)

    def begin_execution(self, now: int) -> None:
        """Record that the user's function is entered at `now`."""
        self._account.begin_execution(now)

    def end_execution(self, now: int) -> bool:
        """Record that the user's function is left at `now`; the next state ends the attempt.

        Returns whether it had been entered; for a cached result it is not.
        """
        self._attempt.is_over = True
        return self._account.end_execution(now)

    def fail(self, exception: BaseException, now: int) -> None:
        """Record the exception that ended the attempt, or a run without attempts."""
        self.end_execution(now)
        self._attempt.fail(exception, now, self.span)

    def begin_wait(self, attribute: str, start: int) -> None:
        """Note that the run is waiting since `start`; call `end_wait`, and `wait` if it counts."""
        self._account.begin_wait(attribute, start)

    def end_wait(self, attribute: str, start: int) -> None:
        """Note that the run no longer waits."""
        self._account.end_wait(attribute, start)

    def wait(self, attribute: str, start: int, end: int) -> None:
        """Record a wait, by its attribute; inside the user's function it is not execution."""
        self._account.wait(attribute, start, end)

    def measure(
        self, name: str, value: float, unit: str, attributes: Mapping[str, AttributeValue]
    ) -> None:
        """Record a measurement of the user's own, as the metric ``prefect.metric.<name>``."""
        self.tally.measure(name, value, unit, attributes)

    def wait_before(self, waits: Mapping[str, float]) -> None:
        """Record the waits before the run's start anew, in seconds by attribute."""
        self._waits_before = waits

    def exclude(self, start: int, end: int) -> None:
        """Record that a part of the execution is not the user's time, but the engine's."""
        self._account.exclude(start, end)

    # How it ends

    def return_to_caller(self, now: int) -> None:
        """Record that the engine returns to the caller's code at `now`.

        The time since the final state is the engine's. It counts if the caller went on nowhere
        meanwhile: if this run was called in the same thread, and task of an event loop.
        """
        caller, state = self.caller, self.state
        if state is None or not state.is_final:
            return
        if caller is None or caller._place.strand != self._place.strand:  # noqa: SLF001 - of the same class
            return
        # Prefect's server sets the times of flow run states, perhaps by another clock.
        since = min(max(self.run.start, self._account.left, state.time), self._told_end)
        self._exit = max(0, now - since)
        caller.exclude(since, now)

    def leave_as(self, state: State) -> None:
        """End with a `state` that the run will enter only after this process has left it."""
        self._states.left_as = state

    def await_rollback(self) -> None:
        """Record that the engine leaves the run, but a transaction may still change its state."""
        self._move_to(_AWAITING_ROLLBACK)

    def finish(self, at: int | None = None) -> None:
        """End the run's span, once: at the time of its final state, or now if it has none.

        What observes a run that is long over says when it ended, with `at`.

        The order matters:

        1. The phase comes first, so that nothing is counted twice, whatever fails later.
        2. The attempt and the time in Running states end before anything reads a duration.
        3. The calling flow gets the rows and the failure before it finishes itself.
        4. The objectives are judged once result, duration and rows are known, and before the span
           ends, since a violation is an event on it.
        5. The span ends last, and always. Describing it calls Prefect, so that may fail.
        """
        if self.is_finished:
            return
        state = self._states.conclusion
        now = time_ns() if at is None else at
        # Prefect's server sets the times of flow run states; its clock may be behind ours.
        end = max(state.time if at is None and state and state.is_final else now, self.run.start)
        outcome = self._attempt.outcome(state)
        try:
            self._move_to(_FINISHED)
            self.end_execution(min(now, end))
            self._attempt.end(end)
            self.tally.stop(end)
            if self.caller is not None and self.caller is self.calling_flow:
                self.caller.rows.add_called(self.run.id, self.rows)
            self.tally.end(self._attempt, outcome, self._waits_in(self._account), self.rows)
            if self.run.watch is not None or self.run.is_adopted:
                self._identity = self.log_attributes  # a line about the run may follow
            if self.run.watch is not None:
                self.tally.judge(outcome, self.rows)
        finally:
            self._end_span(state, outcome, end)

    # How it does that

    @property
    def _innermost_span(self) -> Span:
        return self._attempt.span or self.span

    def _waits_in(self, account: Account) -> dict[str, float]:
        """Return the seconds waited before and inside the span, by attribute."""
        waits = account.waits
        for attribute, waited in self._waits_before.items():
            waits[attribute] = waits.get(attribute, 0.0) + waited
        return waits

    def _move_to(self, phase: str) -> None:
        left, self._phase = self._phase, phase
        if phase == _FINISHED:
            self._tracer.active.pop(self.run.id, None)
        if left == _HELD:
            self._tracer.ends.note(self.span_context)
            self.tally.leave()

    def _end_span(self, state: State | None, outcome: Outcome | None, end: int) -> None:
        try:
            if self.span.is_recording():
                try:
                    self._tracer.ends.link(self.span, self._links)
                finally:
                    self._describe(state, outcome, end)
        finally:
            self._details = None
            self.span.end(end_time=end)

    def _describe(self, state: State | None, outcome: Outcome | None, end: int) -> None:
        """Set the attributes that are known at the end, the most important ones last.

        A provider with a limit drops those that were set first.
        """
        attributes: Attributes = {}
        try:
            if self._details is not None:
                attributes.update(self._details.attributes())
        finally:
            attributes.update(self._account_of(self._account, state, outcome, end))
            for name in (first := self.run.sampling_attributes):
                attributes.pop(name, None)  # a label may have the same name
            self.span.set_attributes(clean(attributes))
            if getattr(self.span, "dropped_attributes", 0):
                self.span.set_attributes(clean(first))

    def _account_of(
        self, account: Account, state: State | None, outcome: Outcome | None, end: int
    ) -> Attributes:
        """Return how the run ended and where its time went."""
        attributes: Attributes = self.rows.attributes(account.execution)
        if self.run.observed_by is None:
            attributes.update(account.attributes(end - self.run.start))
            attributes.update(self._place.attributes)
        else:  # how long the function ran, and where, only the run's own process knows
            attributes[semconv.OBSERVED_BY] = self.run.observed_by
        attributes.update(self._waits_in(account))
        if semconv.WAIT_DEPENDENCIES in self._waits_before:
            before = self._waits_before[semconv.WAIT_DEPENDENCIES]
            attributes[semconv.TASK_RUNNER_DEPENDENCIES] = before
        if self._exit:
            attributes[semconv.ENGINE_EXIT] = self._exit / NANOSECONDS
        if state is not None:
            attributes[semconv.RUN_STATE_TYPE] = state.type
            attributes[semconv.RUN_STATE_NAME] = state.name
        if outcome is not None:
            attributes[self.run.result_attribute] = outcome.result
            if outcome.error_type is not None:
                attributes[semconv.ERROR_TYPE] = outcome.error_type
                message = redact_text(state.message) if state and state.message else None
                self.span.set_status(Status(StatusCode.ERROR, message))
        return attributes


def current_recorder(context: Context | None = None) -> RunRecorder | None:
    """Return the recorder of the run that the calling code, or a given `context`, is in."""
    recorder = context_api.get_value(_RECORDER_KEY, context)
    return recorder if isinstance(recorder, RunRecorder) else None


def speaking_recorder(context: Context | None = None) -> RunRecorder | None:
    """Return the recorder of the run that a line logged now belongs to.

    A run that has ended does not count: threads and callbacks may outlive it in its context.
    """
    recorder = current_recorder(context)
    if recorder is None or not recorder.is_finished:
        return recorder
    return recorder if context_api.get_value(_SPEAKING_KEY, context) is recorder else None
