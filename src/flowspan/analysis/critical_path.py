"""Find the critical path of a trace: the chain of work and waits that made it take so long.

The walk goes backwards from the end of the root. If only times and parents are known, it follows
Jaeger's rule
(https://github.com/jaegertracing/jaeger-ui/tree/main/packages/jaeger-ui/src/components/TracePage/CriticalPath):
before a moment, a span was held up by the child that ended last before it; time that no child
explains is the span's own.

    parent   |===========================|      path, from right to left: parent, c, parent, a,
    a          |-------|                        parent. b ended before a did, so nobody had to
    b          |----|                           wait for it.
    c                       |-----|

Spans of runs carry more, and the walk uses it:

    waited for dependencies   to the linked upstream run that ended last
    waited for concurrency    to the run with the same tag, or else name, that ended last meanwhile
    waited in a queue         to the run that left the same worker thread last meanwhile
    an earlier process        to the span of the same run there

The walk never skips time when it moves to another row, so its steps tile the root.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from flowspan import semconv
from flowspan.analysis import phases
from flowspan.analysis.activities import NONE, Activities
from flowspan.analysis.phases import OTHER, Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping

    from flowspan.analysis.phases import Cause

_Key = TypeVar("_Key")


class RowStep(NamedTuple):
    """A step of the path, and the row that held the trace up."""

    row: int
    cause: Cause
    start: int
    end: int


def walk(activities: Activities) -> list[RowStep]:
    """Return the critical path: steps in order of time that tile the root without gaps."""
    return _Walk(activities).steps()


def segments(activities: Activities, row: int) -> list[Segment]:
    """Return what the time of a row was spent on, from when it was asked for until its end."""
    start, end = activities.starts[row], activities.ends[row]
    if row == activities.root and not activities.has_root:
        return [Segment(semconv.ORCHESTRATION, start, end)]
    if activities.facts[row].run_type is None:
        return [Segment(OTHER, start, end)]
    span = activities.spans[row]
    called = activities.children.get(row, ())
    calls = phases.calls_of(
        map(activities.starts.__getitem__, called),
        [activities.ends[one] for one in called],
        map(activities.facts.__getitem__, called),
    )
    tries = activities.attempts.get(row, ())
    inside = phases.inside(span, span.start + span.duration, tries, calls)
    own = [
        *_within(phases.before(span), activities.submits[row], start),
        *_within(inside, start, end),
    ]
    return _with_wait_until_upstream_ended(activities, row, own) if span.facts.dependencies else own


def _with_wait_until_upstream_ended(
    activities: Activities, row: int, own: list[Segment]
) -> list[Segment]:
    """Put the engine's own time first if the dependencies ended after the wait's place.

    The span records how long it waited, not since when; a bar shows the wait first.
    """
    for place, (wait, after) in enumerate(itertools.pairwise(own)):
        if wait.cause == "dependencies" and after.cause == "orchestration":
            last = max((activities.ends[one] for one in activities.upstream(row)), default=0)
            if wait.end < last <= after.end:
                moved = [
                    Segment(semconv.ORCHESTRATION, wait.start, wait.start + last - wait.end),
                    Segment(semconv.WAIT_DEPENDENCIES, wait.start + last - wait.end, last),
                    Segment(semconv.ORCHESTRATION, last, after.end),
                ]
                own[place : place + 2] = [
                    segment for segment in moved if segment.start < segment.end
                ]
            break
    return own


def _within(parts: Iterable[Segment], low: int, high: int) -> Iterator[Segment]:
    for segment in parts:
        start, end = max(low, segment.start), min(high, segment.end)
        if start < end:
            yield Segment(segment.phase, start, end)


class _Walk:
    """The walk's position, and the rows that it entered. It enters each row once, so it ends."""

    def __init__(self, activities: Activities) -> None:
        self._activities = activities
        self._holders = Holders(activities)
        self._row = activities.root
        self._now = activities.end
        self._backwards: list[RowStep] = []
        self._entered = {activities.root}
        self._segments: dict[int, list[Segment]] = {}
        self._left: dict[int, int] = {}  # how many children of a row may still be entered
        self._awaited = NONE  # the run that a caller is known to have waited for

    def steps(self) -> list[RowStep]:
        """Walk back to the start of the root."""
        while self._now > self._activities.start:
            row = self._row
            own = self._segments.get(row)
            if own is None:
                own = self._segments[row] = segments(self._activities, row)
            place = bisect_left(own, self._now, key=_end_of)
            if not own or self._now <= own[0].start:
                self._leave(row)
            elif place == len(own):  # rows that it called outlasted its own segments
                self._spend("orchestration", own[-1].end)
            else:
                self._follow(own[place])
        return self._backwards[::-1]

    def _follow(self, segment: Segment) -> None:
        """Go to the row that held this one up last in `segment`; otherwise it is its own time."""
        found = self._holder(segment)
        if found == NONE:
            self._spend(segment.cause, segment.start)
        else:
            self._spend(segment.cause, self._activities.ends[found])
            self._enter(found)

    def _holder(self, segment: Segment) -> int:
        row, since, now, without = self._row, segment.start, self._now, self._entered
        match segment.cause:
            case "dependencies":
                return self._latest(self._activities.upstream(row), since)
            case "concurrency":
                return self._holders.of_slot(row, since, now, without)
            case "queue":
                return self._holders.of_lane(row, since, now, without)
            case "execution" | "orchestration":
                return self._last_child(row, since)
            case _:
                return NONE

    def _latest(self, rows: Iterable[int], since: int) -> int:
        """Return the row that ended last, even if that is after now, as when clocks differ."""
        ends = self._activities.ends
        fresh = (row for row in rows if row not in self._entered)
        last = max(fresh, key=ends.__getitem__, default=NONE)
        return last if last != NONE and ends[last] > since else NONE

    def _last_child(self, row: int, since: int) -> int:
        """Return the child that ended last before now, or the one known to be waited for."""
        awaited, self._awaited = self._awaited, NONE
        ends = self._activities.ends
        if awaited not in self._entered and awaited != NONE and since < ends[awaited] <= self._now:
            return awaited
        children = self._activities.children.get(row, ())
        left = self._left.get(row, len(children))
        place = bisect_right(children, self._now, hi=left, key=ends.__getitem__)
        while place and ends[children[place - 1]] > since:
            place -= 1
            self._left[row] = place
            if children[place] not in self._entered:
                return children[place]
        return NONE

    def _leave(self, row: int) -> None:
        """Go to what came before the row: its earlier process, or else its caller."""
        activities = self._activities
        earlier = activities.earlier.get(row, NONE)
        parent = activities.parents[row]
        if earlier not in self._entered and earlier != NONE:
            is_paused = activities.facts[earlier].state_type == "PAUSED"
            self._spend("pause" if is_paused else "retry", activities.ends[earlier])
            self._enter(earlier)
        elif row == activities.root:
            self._spend("orchestration", activities.start)
        elif parent == NONE:
            self._row = activities.root
        else:
            self._awaited = max(
                activities.awaited(row), key=activities.ends.__getitem__, default=NONE
            )
            self._row = parent

    def _spend(self, cause: Cause, since: int) -> None:
        """Go back to a moment, and record what the time until now was spent on."""
        since = max(since, self._activities.start)
        if since < self._now:
            self._backwards.append(RowStep(self._row, cause, since, self._now))
            self._now = since

    def _enter(self, row: int) -> None:
        self._entered.add(row)
        self._row = row


class Holders:
    """The runs that may have held a slot or thread that another run waited for, sorted lazily."""

    def __init__(self, activities: Activities) -> None:
        """Search the runs of `activities`."""
        self._activities = activities

    def of_slot(
        self, row: int, since: int, until: int, without: Container[int] = frozenset()
    ) -> int:
        """Return the run whose slot `row` got: the one that ended last between two times.

        Runs that share a tag come first, then runs of the same name. `NONE` if no run outside
        `without` ended in that time.
        """
        tags = self._activities.facts[row].tags
        found = [self._last(self._by_tag.get(tag), since, until, without) for tag in tags]
        with_tag = [one for one in found if one != NONE]
        if with_tag:
            return max(with_tag, key=self._activities.ends.__getitem__)
        name = self._activities.spans[row].name
        return self._last(self._by_name.get(name), since, until, without)

    def of_lane(
        self, row: int, since: int, until: int, without: Container[int] = frozenset()
    ) -> int:
        """Return the run that left the worker thread of `row` last between two times, or `NONE`."""
        lane = self._activities.facts[row].lane
        if lane is None:
            return NONE
        group = self._by_lane.get((self._activities.spans[row].process, lane))
        return self._last(group, since, until, without)

    @staticmethod
    def _last(group: _Group | None, since: int, until: int, without: Container[int]) -> int:
        if group is None:
            return NONE
        rows, ends = group
        place = bisect_right(ends, until)
        while place and ends[place - 1] > since:
            place -= 1
            if rows[place] not in without:
                return rows[place]
        return NONE

    @cached_property
    def _by_tag(self) -> Mapping[str, _Group]:
        return self._runs_by(lambda row: self._activities.facts[row].tags)

    @cached_property
    def _by_name(self) -> Mapping[str, _Group]:
        return self._runs_by(lambda row: (self._activities.spans[row].name,))

    @cached_property
    def _by_lane(self) -> Mapping[tuple[str, str], _Group]:
        activities = self._activities
        return self._runs_by(
            lambda row: ((activities.spans[row].process, activities.facts[row].lane or ""),)
        )

    @cached_property
    def _runs(self) -> list[int]:
        """All runs in order of their ends."""
        rows = (
            row for row, known in enumerate(self._activities.facts) if known.run_type is not None
        )
        return sorted(rows, key=self._activities.ends.__getitem__)

    def _runs_by(self, keys: Callable[[int], Iterable[_Key]]) -> Mapping[_Key, _Group]:
        """Group the runs by the keys they share, in order of their ends."""
        ends = self._activities.ends
        groups: dict[_Key, _Group] = {}
        for row in self._runs:
            for key in keys(row):
                group = groups.get(key)
                if group is None:
                    group = groups[key] = _Group([], [])
                group.rows.append(row)
                group.ends.append(ends[row])
        return groups


class _Group(NamedTuple):
    """Some runs and their ends, in order of the ends."""

    rows: list[int]
    ends: list[int]


def _end_of(segment: Segment) -> int:
    return segment.end
