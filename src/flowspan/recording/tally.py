"""The counts of one run: its metrics, its time in Running states, and its objectives."""

from __future__ import annotations

from time import time_ns
from typing import TYPE_CHECKING

from opentelemetry.trace import set_span_in_context

from flowspan import semconv
from flowspan.recording.time_account import Stopwatch
from flowspan.units import NANOSECONDS
from flowspan.values import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

    from flowspan.objectives.promises import Violation
    from flowspan.objectives.watch import Watch
    from flowspan.recording.attempt import Attempt
    from flowspan.recording.instruments import RunMetrics
    from flowspan.recording.rows import Rows
    from flowspan.recording.run import Outcome, Run, State


class Tally:
    """Counts one run, and informs the watches over its own and its callers' objectives."""

    def __init__(self, run: Run, span: Span, metrics: RunMetrics, caller: Tally | None) -> None:
        """Count `run` as active; `caller` is the tally of the calling run, if that is here."""
        self._run = run
        self._span = span
        # It has the run's span, so that exemplars lead from a metric to the trace.
        self.context = set_span_in_context(span)
        self._metrics = metrics
        self._caller = caller
        self._running = Stopwatch(run.time_running)
        self._has_failed_below = False
        self.watches: tuple[Watch, ...] = caller.watches if caller is not None else ()
        if run.watch is not None:
            self.watches += (run.watch,)
        metrics.taken_up(run, self.context)

    def begin_watch(
        self, watch: Watch, speaking: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """Start to watch the run's objectives; log their violations inside `speaking`."""
        run = self._run
        watch.begin(self._violate, speaking, late=run.late, time_running=run.time_running)

    def enter_state(self, state: State) -> None:
        """Start or stop the time in Running states."""
        if state.type == semconv.RUNNING:
            self._start(state.time)
        else:
            self.stop(state.time)

    def _start(self, now: int) -> None:
        if self._run.is_flow and not self._running.has_run:
            self._metrics.executing(self._run, self._pending(now), self.context)
        self._running.start(now)
        if self._run.watch is not None:
            # The server sets the times of flow run states; its clock may differ from ours.
            since = now if self._run.is_adopted else time_ns()
            self._run.watch.resume(self._running.total, since)

    def stop(self, now: int) -> None:
        """Stop the time in Running states, if the run is in one."""
        since = self._running.stop(now)
        if self._run.watch is not None:
            self._run.watch.pause()
        if since is not None and self._run.task_name is not None:
            for watch in self.watches:
                watch.task_ran(self._run.task_name, since, now)

    def retry(self, failed: Attempt) -> None:
        """Count a retry, and the error of the attempt before it."""
        self._count_error(failed, failed.error_type())
        self._metrics.retried(self._run, failed.error_type(), self.context)

    def measure(
        self, name: str, value: float, unit: str, attributes: Mapping[str, AttributeValue]
    ) -> None:
        """Record a measurement of the user's own, as the metric ``prefect.metric.<name>``."""
        self._metrics.measured(self._run, name, value, unit, attributes, context=self.context)

    def leave(self) -> None:
        """Count the run as no longer active."""
        self._metrics.left(self._run, self.context, has_executed=self._running.has_run)

    def end(
        self, attempt: Attempt, outcome: Outcome | None, waits: Mapping[str, float], rows: Rows
    ) -> None:
        """Count the run at its end: its last attempt, its waits in seconds, and its rows."""
        metrics, run, context = self._metrics, self._run, self.context
        for attribute, waited in waits.items():
            metrics.waited(run, attribute, waited, context)
        for direction in (semconv.ROWS_INPUT, semconv.ROWS_OUTPUT):
            if (number := rows.total(direction)) is not None:
                metrics.moved(run, direction, number, context)
        if outcome is not None:
            if outcome.error_type is not None:
                self._count_error(attempt, outcome.error_type)
            metrics.ended(run, outcome, self._duration, context)

    def judge(self, outcome: Outcome | None, rows: Rows) -> None:
        """Check the run's objectives at its end."""
        if self._run.watch is not None:
            result = outcome.result if outcome is not None else None
            self._run.watch.end(result, self._duration, rows.total(semconv.ROWS_OUTPUT))

    def note_failure_below(self) -> None:
        """Note that a run called by this one has failed: its error may be raised here too."""
        self._has_failed_below = True

    @property
    def _duration(self) -> float | None:
        """Seconds in Running states; None if the run was in none."""
        return self._running.seconds if self._running.has_run else None

    def _pending(self, now: int) -> float | None:
        """Return how many seconds the run was pending; None if unknown, or counted before."""
        run = self._run
        if run.run_count > 0 or (run.is_adopted and not run.waits_before):
            return None
        return sum(run.waits_before.values()) + max(0, now - run.start) / NANOSECONDS

    def _count_error(self, attempt: Attempt, error_type: str) -> None:
        """Count the error of an attempt, unless it came from a run below that counted it."""
        if attempt.exception is None:
            is_own = not self._has_failed_below
        else:
            is_own = attempt.claim_exception(self._run.id)
        if is_own:
            self._metrics.error(self._run, error_type, self.context)
        if self._caller is not None:
            self._caller.note_failure_below()

    def _violate(self, violation: Violation) -> None:
        self._metrics.violated(self._run, violation.objective, self.context)
        if self._span.is_recording():
            self._span.add_event(
                semconv.SLO_VIOLATED,
                clean(
                    {
                        semconv.SLO_OBJECTIVE: violation.objective,
                        semconv.SLO_EXPECTED: violation.expected,
                        semconv.SLO_ACTUAL: violation.actual,
                        semconv.SLO_DETAIL: violation.detail,
                    }
                ),
            )
