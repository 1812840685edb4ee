"""Watch whether a flow run meets its objectives, and report violations as soon as possible."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from concurrent.futures import Future, wait
from contextlib import nullcontext
from time import time_ns
from typing import TYPE_CHECKING, ClassVar, Final

from flowspan import semconv
from flowspan._containment import Containment
from flowspan.units import NANOSECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from flowspan.objectives.promises import Objectives, SuccessRate, Violation

    History = Callable[[SuccessRate], tuple[int, int]]

_logger = logging.getLogger("flowspan")
_contained = Containment("objectives")

_LONGEST_DELAY: Final = 86_400.0  # seconds; a timer cannot be set for any time
_SUCCESS: Final = "success"


class Watch:
    """Watch one flow run for its recorder; failures here never affect the run.

    Args:
        objectives: The run's objectives.
        flow_name: The name of its flow.
        report: Called once for each violated objective, in any thread.
        history: Return how many of the flow's last finished runs succeeded, and how many there
            were. It may be slow: it is called in a separate thread when the run starts.
        patience: Seconds that the end of the run may wait for `history`, if it blocks nothing else.
    """

    _flows_without_rows: ClassVar[set[str]] = set()

    def __init__(
        self,
        objectives: Objectives,
        flow_name: str,
        *,
        report: Callable[[Violation], None],
        history: History,
        patience: float,
    ) -> None:
        self._objectives = objectives
        self._flow_name = flow_name
        self._report = report
        self._read_history = history
        self._patience = patience
        self._record: Callable[[Violation], None] = _ignore
        self._speaking: Callable[[], AbstractContextManager[None]] = nullcontext
        self._lock = threading.Lock()
        self._broken: set[str] = set()
        self._timer: threading.Timer | None = None
        self._phase = 0  # counts the Running states, so that a timer ignores one that is over
        self._history: Future[tuple[int, int]] | None = None
        self._intervals: dict[str, list[tuple[int, int]]] = {}

    def begin(
        self,
        record: Callable[[Violation], None],
        speaking: Callable[[], AbstractContextManager[None]],
        *,
        late: float | None,
        time_running: int,
    ) -> None:
        """Start watching; `late` is how many seconds the run is behind schedule, if it has one.

        `record` is called for each violation before `report`. `report` is called inside
        `speaking`, so that its log lines belong to the run. `time_running` is the time in earlier
        processes, in nanoseconds: if it was too long, that violation was reported there.
        """
        with _contained:
            self._record, self._speaking = record, speaking
            if self._objectives.judge_duration(time_running / NANOSECONDS, still_running=True):
                self._broken.add("max_duration")
            if late is not None:
                self._break(self._objectives.judge_late(late))
            if (success_rate := self._objectives.min_success_rate) is not None:
                self._history = _in_background(self._read_history, success_rate)

    def resume(self, time_running: int, since: int) -> None:
        """Note that the run is Running `since`, after `time_running` nanoseconds before that."""
        with _contained:
            self.pause()
            self._look_at_clock(self._phase, time_running, since)

    def pause(self) -> None:
        """Note that the run is no longer Running."""
        with self._lock:
            self._phase += 1
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _look_at_clock(self, phase: int, time_running: int, since: int) -> None:
        """Check the time that the run has been running, now and when it will be too long."""
        limit = self._objectives.max_duration
        with self._lock:
            if phase != self._phase or limit is None or "max_duration" in self._broken:
                return
            elapsed = (time_running + max(0, time_ns() - since)) / NANOSECONDS
            violation = self._objectives.judge_duration(elapsed, still_running=True)
            if violation is None:
                look = contextvars.copy_context().run
                # A little later, because exactly at the limit there is no violation.
                delay = min(limit - elapsed + 0.001, _LONGEST_DELAY)
                arguments = (self._look_at_clock, phase, time_running, since)
                self._timer = threading.Timer(delay, look, arguments)
                self._timer.daemon = True
                self._timer.start()
        self._break(violation)

    def task_ran(self, name: str, since: int, until: int) -> None:
        """Note that a task of this name ran between these times, in this run or one below it."""
        if self._objectives.max_task_share is None:
            return
        with self._lock:
            # Intervals arrive roughly in the order of their ends. Runs of a task may overlap.
            merged = self._intervals.setdefault(name, [])
            while merged and merged[-1][1] >= since:
                begun, ended = merged.pop()
                since, until = min(begun, since), max(ended, until)
            merged.append((since, until))

    def end(self, result: str | None, duration: float | None, rows: int | None) -> None:
        """Check the run that ended with `result` after `duration` seconds in Running states.

        `duration` is None if it was never Running; `rows` is None if their number is unknown.
        """
        with _contained:
            self.pause()
            if duration is not None:
                self._break(self._objectives.judge_duration(duration, still_running=False))
            if result == _SUCCESS and duration:  # a failed run has only done part of its work
                self._break(self._objectives.judge_task_share(self._shares(duration)))
                self._judge_rows(rows)
            if result not in semconv.ERROR_RESULTS:
                self._history = None
            if self._history is not None:
                if not _in_event_loop():
                    wait([self._history], self._patience)
                # Called now if the history is there. If not, the span will have ended by then.
                self._history.add_done_callback(self._judge_success_rate)
        if self._history is None:
            self._let_go()

    def _judge_success_rate(self, history: Future[tuple[int, int]]) -> None:
        if (error := history.exception()) is not None:
            with self._speaking():
                _logger.warning(
                    "The objective min_success_rate of the flow %r cannot be checked: "
                    "Prefect's API did not return its last runs (%s)",
                    self._flow_name,
                    error or type(error).__name__,
                )
        else:
            with _contained:
                succeeded, finished = history.result()
                self._break(self._objectives.judge_success_rate(succeeded, finished + 1))
        self._let_go()

    def _let_go(self) -> None:
        """Drop the references to the recorder, which refers to this object."""
        self._record, self._speaking = _ignore, nullcontext

    def _judge_rows(self, rows: int | None) -> None:
        for violation in self._objectives.judge_rows(rows):
            self._break(violation)
        asked = (self._objectives.min_rows, self._objectives.max_rows) != (None, None)
        if rows is None and asked and self._flow_name not in self._flows_without_rows:
            self._flows_without_rows.add(self._flow_name)
            with self._speaking():
                _logger.warning(
                    "The objective for the rows of the flow %r cannot be checked, because "
                    "flowspan cannot count the rows of any of its tasks: record them with "
                    "flowspan.record_rows().",
                    self._flow_name,
                )

    def _shares(self, duration: float) -> Mapping[str, float]:
        with self._lock:
            return {
                name: min(
                    1.0, sum(until - since for since, until in merged) / NANOSECONDS / duration
                )
                for name, merged in self._intervals.items()
            }

    def _break(self, violation: Violation | None) -> None:
        if violation is None:
            return
        with self._lock:  # held while recording, so that the run's span does not end meanwhile
            if violation.objective in self._broken:
                return
            self._broken.add(violation.objective)
            with _contained:
                self._record(violation)
        with _contained, self._speaking():
            self._report(violation)


def _ignore(_: Violation) -> None:
    """Do nothing: the run's span has ended or has not started."""


def _in_event_loop() -> bool:
    """Whether waiting here would block other coroutines."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _in_background(read: History, success_rate: SuccessRate) -> Future[tuple[int, int]]:
    future: Future[tuple[int, int]] = Future()

    def run() -> None:
        try:
            future.set_result(read(success_rate))
        except Exception as error:  # noqa: BLE001 - raised again by `result`
            future.set_exception(error)

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(run,), name="flowspan-history", daemon=True)
    thread.start()
    return future
