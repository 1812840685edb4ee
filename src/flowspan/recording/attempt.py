"""One attempt of a run: a call of the user's function, and how it went."""

from __future__ import annotations

import contextlib
import traceback
from typing import TYPE_CHECKING, Final

from opentelemetry.semconv.attributes.exception_attributes import (
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
)
from opentelemetry.trace import Status, StatusCode

from flowspan import semconv
from flowspan.recording.run import Attributes, Outcome
from flowspan.redaction import redact_text
from flowspan.values import clean, type_name

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from flowspan.recording.run import State

# The error type of a failed attempt if neither an exception nor its state gives one.
_FAILED: Final = "Failed"
# States that a run enters after an attempt that failed, if it has retries left.
_RETRY_STATE_NAMES: Final = frozenset({"AwaitingRetry", "Retrying"})
# The attribute of an exception that names the run that raised it first
_FIRST_RUN: Final = "__flowspan_run_id__"


class Attempt:
    """One attempt of a run, with a span of its own if the run allows retries.

    It is open until the user's function is left (`is_over`). It ends when the run enters its next
    state, or ends. If there is no exception, that state says whether the attempt failed.

    Before the first attempt, a run has one with the number that it was taken up with. That one has
    no span and puts its exception on the run's.

    Attributes:
        number: From 1 up, over all processes that have taken the run up.
        span: Its span, until it ends.
        start: When it began; 0 for the one before the first.
        is_over: Whether the user's function is left, or need not be called.
        exception: The exception that ended it, if any; it outlives the attempt.
    """

    __slots__ = ("exception", "is_over", "number", "span", "start")

    def __init__(self, number: int, span: Span | None = None, start: int = 0) -> None:
        self.number = number
        self.span = span
        self.start = start
        self.is_over = False
        self.exception: BaseException | None = None

    def error_type(self, state_name: str = _FAILED) -> str:
        """Return the class of the attempt's exception, or `state_name` if it has none."""
        return qualified_name(self.exception) if self.exception is not None else state_name

    def so_far(self) -> Attributes:
        """Return what identifies it and its span while it is under way."""
        if not self.start:
            return {}
        span, attributes = self.span, Attributes({semconv.ATTEMPT: self.number})
        if span is not None:
            attributes[semconv.ATTEMPT_START] = self.start
            attributes[semconv.ATTEMPT_SPAN_ID] = f"{span.get_span_context().span_id:016x}"
        return attributes

    def outcome(self, state: State | None) -> Outcome | None:
        """Return how the run ends if `state` is its last; None if that is not an end."""
        result = semconv.result_of(state.type, state.name) if state is not None else None
        if state is None or result is None:
            return None
        error_type = self.error_type(state.name) if result in semconv.ERROR_RESULTS else None
        return Outcome(state.name, result, error_type)

    def fail(self, exception: BaseException, now: int, span_of_run: Span) -> None:
        """Record, once, the exception that ended it."""
        if self.exception is exception:
            return
        self.exception = exception
        span = self.span or span_of_run
        if not span.is_recording():
            return
        message, stacktrace = redact_text(str(exception)), traceback.format_exception(exception)
        masked = {
            EXCEPTION_TYPE: qualified_name(exception),
            EXCEPTION_MESSAGE: message,
            EXCEPTION_STACKTRACE: redact_text("".join(stacktrace)),
        }
        # The SDK's event would not be masked.
        span.add_event("exception", clean(masked), timestamp=now)
        if self.span is not None:
            self._mark(qualified_name(exception), message)

    def enter_state(self, state: State) -> None:
        """End the attempt if it is over; it has failed if `state` says so."""
        if not self.is_over or self.span is None:
            return
        if self.exception is None:
            is_retried = state.name in _RETRY_STATE_NAMES
            if is_retried or semconv.result_of(state.type, state.name) in semconv.ERROR_RESULTS:
                error_type = _FAILED if is_retried else state.name
                self._mark(error_type, redact_text(state.message) if state.message else None)
        self.end(state.time)

    def end(self, now: int) -> None:
        """End its span, if that is still open."""
        if self.span is not None:
            self.span.end(end_time=now)
            self.span = None

    def claim_exception(self, run_id: str) -> bool:
        """Return whether this run raised the exception, not a run that it called.

        The first run to ask leaves its id on the exception. A copy from another process keeps it.
        """
        if getattr(self.exception, _FIRST_RUN, run_id) != run_id:
            return False
        with contextlib.suppress(Exception):  # some exceptions take no attributes
            setattr(self.exception, _FIRST_RUN, run_id)
        return True

    def _mark(self, error_type: str, message: str | None) -> None:
        if self.span is not None:
            self.span.set_attributes(clean({semconv.ERROR_TYPE: error_type}))
            self.span.set_status(Status(StatusCode.ERROR, message))


def qualified_name(exception: BaseException) -> str:
    """Return the name of an exception's class as OpenTelemetry's ``error.type`` has it."""
    return type_name(type(exception))
