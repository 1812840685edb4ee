"""Account for a run's time: where it went, and how long the run was in Running states."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Final

from flowspan import semconv
from flowspan.units import NANOSECONDS

if TYPE_CHECKING:
    from flowspan.recording.run import Attributes, State

# The wait that each waiting state begins, by the state's name; the next state ends it.
_WAIT_BY_STATE_NAME: Final = {wait.state: wait.attribute for wait in semconv.WAITS if wait.state}


class Stopwatch:
    """A run's time in Running states in nanoseconds, like Prefect's total run time."""

    def __init__(self, before: int) -> None:
        self.total = before  # until it was last stopped
        self.has_run = False
        self._since: int | None = None

    @property
    def seconds(self) -> float:
        """The time until it was last stopped."""
        return self.total / NANOSECONDS

    def start(self, now: int) -> None:
        """Start to count; one Running state may follow another."""
        self.has_run = True
        self._since = now if self._since is None else self._since

    def stop(self, now: int) -> int | None:
        """Stop counting; return since when it has counted, if it has."""
        since, self._since = self._since, None
        if since is not None:
            self.total += max(0, now - since)
        return since


class Account:
    """Where the time of a run went; each moment counts once, as a wait rather than as execution.

    Waits of several threads or coroutines of one run may overlap. They are reported when they end,
    so the intervals are in the order of their ends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waits: dict[str, int] = {}
        self._intervals: list[tuple[int, int]] = []
        self._execution: int | None = None
        self._since: int | None = None
        self._until = 0
        self._excluded = 0  # since then
        self._state_wait: tuple[str, int] | None = None
        self._begun: list[tuple[str, int]] = []

    @property
    def execution(self) -> float:
        """Seconds in the user's function."""
        return (self._execution or 0) / NANOSECONDS

    @property
    def activity(self) -> str:
        """What the time goes to now, by attribute."""
        waits = (*self._begun, *filter(None, [self._state_wait]))
        if waits:
            return waits[-1][0]
        return semconv.EXECUTION if self._since is not None else semconv.ORCHESTRATION

    def so_far(self, now: int) -> Account:
        """Return a copy in which the execution and the waits that are under way end at `now`."""
        copy, begun = Account(), tuple(self._begun)
        with self._lock:
            copy._waits, copy._intervals = self._waits.copy(), self._intervals.copy()
            copy._execution, copy._since = self._execution, self._since
            copy._until, copy._excluded = self._until, self._excluded
            copy._state_wait = self._state_wait
        if copy._state_wait is not None:
            copy._end_state_wait(*copy._state_wait, now)
        for attribute, start in begun:
            copy.wait(attribute, start, max(start, now))
        copy.end_execution(now)
        return copy

    @property
    def is_executing(self) -> bool:
        """Whether the user's function is entered and not yet left."""
        return self._since is not None

    def enter_state(self, state: State) -> None:
        """End the wait that the last state began, and begin that of `state`, if it is one."""
        if self._state_wait is not None:
            self._end_state_wait(*self._state_wait, state.time)
        if wait := _WAIT_BY_STATE_NAME.get(state.name):
            self._state_wait = (wait, state.time)

    def begin_execution(self, now: int) -> None:
        """Start to count execution."""
        self._since = now

    def end_execution(self, now: int) -> bool:
        """Count the execution since its start, without the waits in it.

        Returns whether it had started.
        """
        if self._since is None:
            return False
        if self._state_wait is not None:
            self._end_state_wait(*self._state_wait, now)
        with self._lock:
            if self._since is not None:
                waited = sum(
                    max(0, min(end, now) - max(start, self._since))
                    for start, end in self._intervals
                )
                executed = max(0, now - self._since - waited - self._excluded)
                self._execution = (self._execution or 0) + executed
                self._since, self._until, self._excluded = None, now, 0
        return True

    def begin_wait(self, attribute: str, start: int) -> None:
        """Note that a wait is under way since `start`; it counts once it is over."""
        self._begun.append((attribute, start))

    def end_wait(self, attribute: str, start: int) -> None:
        """Note that a wait is no longer under way."""
        with contextlib.suppress(ValueError):
            self._begun.remove((attribute, start))

    def wait(self, attribute: str, start: int, end: int) -> None:
        """Count the part of a wait that no other wait has been counted for."""
        with self._lock:
            if self._since is None:
                # A thread's wait while the function ran has been counted as execution.
                start = max(start, self._until)
            merged = (start, end)
            length = end - start
            while self._intervals and self._intervals[-1][1] >= merged[0]:
                begun, ended = self._intervals.pop()
                length -= max(0, min(ended, end) - max(begun, start))
                merged = (min(begun, merged[0]), max(ended, merged[1]))
            self._intervals.append(merged)
            if length > 0:
                self._waits[attribute] = self._waits.get(attribute, 0) + length

    def exclude(self, start: int, end: int) -> None:
        """Count a part of the execution that has just ended as the engine's own time."""
        with self._lock:
            if self._since is None:
                return
            start = max(start, self._since)
            length = end - start
            for begun, ended in reversed(self._intervals):
                if ended <= start:
                    break
                length -= max(0, min(ended, end) - max(begun, start))
            self._excluded += max(0, length)

    @property
    def left(self) -> int:
        """When the user's function was last left; 0 if it was not."""
        return self._until

    @property
    def waits(self) -> dict[str, float]:
        """Seconds waited, by attribute."""
        return {wait: nanoseconds / NANOSECONDS for wait, nanoseconds in self._waits.items()}

    def attributes(self, duration: int) -> Attributes:
        """Return the account in seconds; the rest of `duration` is the engine's own share."""
        account: Attributes = {**self.waits}
        if self._execution is not None:
            account[semconv.EXECUTION] = self._execution / NANOSECONDS
        rest = duration - sum(self._waits.values()) - (self._execution or 0)
        account[semconv.ORCHESTRATION] = max(0, rest) / NANOSECONDS
        return account

    def _end_state_wait(self, wait: str, since: int, now: int) -> None:
        self._state_wait = None
        self.wait(wait, since, max(since, now))
