"""Compute how long the root would have taken if some of its work had been faster.

The trace is a network of activities, as in the critical path method (Kelley and Walker,
"Critical-Path Planning and Scheduling", 1959, https://doi.org/10.1145/1460299.1460318; drag after
Devaux, "Total Project Control", 1999): an activity starts once everything that it waited for has
ended, and everything else takes as long as it took. A run waits for:

    its caller     goes on from one call to the next, and waits for each child that ends before it
    dependencies   the upstream runs that its links name
    concurrency    the run that left its slot last meanwhile
    queue          the run that left its worker thread last meanwhile

Runs take slots and threads in the recorded order. So the answers are exact if there were always
enough of them, and an estimate otherwise.

Each answer is one pass over the events of the trace in order of time: backwards for the slack,
forwards for each question. The pass skips activities whose slack is at least the largest possible
saving, because they cannot matter.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final, NamedTuple

from flowspan.analysis.activities import NONE, Activities
from flowspan.analysis.critical_path import Holders, segments
from flowspan.read.facts import lengths_at, total_at

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from flowspan.read.facts import Facts

# The kinds of events: row r has the events 3r, 3r + 1 and 3r + 2
_BEGINS: Final = 1
_ENDS: Final = 2

UNLIMITED: Final = 2**62
"""Slack in nanoseconds if nobody waits: more than a hundred years."""


_waits_at_start: Final = lengths_at("start")
_waited_inside: Final = total_at("start", "between", "middle")


class _Gate(NamedTuple):
    """The rows that a row waited for before it began, and how long each wait took after them (ns).

    `before` is the row that it waited for before its start, `upstream` the rows it depends on, and
    `holder` the row whose slot it got. Without such a row, the time is the whole wait.
    """

    before: int
    queued: int
    upstream: Sequence[int]
    is_explained: bool
    depended: int
    holder: int
    held: int


class Network:
    """The activities of a trace as a network whose times can be changed."""

    def __init__(self, activities: Activities) -> None:
        """Build the network from the times in `activities`."""
        self._activities = activities
        self._begins = list(activities.begins)
        self._gates = self._find_gates()
        awaited = (
            (row, activities.awaited(row)) for row, gate in self._gates.items() if gate.upstream
        )
        self._awaited = {row: found for row, found in awaited if found}
        callers = {parent for parent in activities.parents if parent != NONE} | {
            *activities.children
        }
        self._working = {row: _working(activities, row) for row in callers}
        self._is_waited_for = [parent != NONE for parent in activities.parents]
        for row in activities.forgotten:
            self._is_waited_for[row] = False
        self._events = self._order_events()
        # Since when the caller was on its own before each call, and each row before its end.
        self._before_call, self._before_end = self._find_own_time()

    def _find_gates(self) -> dict[int, _Gate]:
        """Find what each row waited for, without the rows that waited for no other row."""
        activities = self._activities
        holders = Holders(activities)
        starts, ends, submits, begins = (
            activities.starts,
            activities.ends,
            activities.submits,
            self._begins,
        )
        gates = {}
        waited = map(sum, map(_waits_at_start, activities.facts))
        for row, (known, wait) in enumerate(zip(activities.facts, waited, strict=True)):
            if known.dependencies_before:
                gates[row] = self._gate_of_sent(row, holders)
                continue
            start, end = starts[row], ends[row]
            ready = min(end, start + known.dependencies)
            upstream = activities.upstream(row)
            if upstream:
                limit = max(ready, _room(known, end))
                upstream = [one for one in upstream if ends[one] <= limit]
            if known.dependencies:
                ready = max((ready, *(ends[one] for one in upstream)))
            begin = begins[row] = min(end, ready + wait - known.dependencies)
            before = activities.earlier.get(row, NONE)
            if before == NONE and start > submits[row]:
                before = holders.of_lane(row, submits[row], start)
            holder = NONE
            if known.concurrency and end > ready:
                holder = holders.of_slot(row, ready, min(end, ready + known.concurrency))
            if not upstream and before == holder == NONE:
                continue
            last = max((ends[one] for one in upstream), default=start)
            is_explained = last > start
            gates[row] = _Gate(
                before,
                start - (submits[row] if before == NONE else ends[before]),
                upstream,
                is_explained,
                ready - (last if is_explained else start),
                holder,
                begin - (ready if holder == NONE else ends[holder]),
            )
        return gates

    def _gate_of_sent(self, row: int, holders: Holders) -> _Gate:
        """Find what a row waited for whose task runner first waited for its upstream rows.

        After these it waited for a worker, and then for a slot: the gate has the later of the two.
        """
        activities, known = self._activities, self._activities.facts[row]
        start, end, submit = activities.starts[row], activities.ends[row], activities.submits[row]
        ready = min(end, submit + known.dependencies_before + known.dependencies)
        limit = max(start, ready, _room(known, end) if known.dependencies else 0)
        upstream = [one for one in activities.upstream(row) if activities.ends[one] <= limit]
        last = max((activities.ends[one] for one in upstream), default=submit)
        ready = max(ready, last)
        picked_up = max(start, ready)
        begin = self._begins[row] = min(end, picked_up + known.concurrency)
        holder = NONE
        if known.concurrency:
            holder = holders.of_slot(row, picked_up, begin)
        if holder == NONE and start > ready:
            holder = holders.of_lane(row, ready, start)
        is_explained = last > submit
        depended = ready - (last if is_explained else submit)
        held = begin - (ready if holder == NONE else activities.ends[holder])
        return _Gate(NONE, 0, upstream, is_explained, depended, holder, held)

    def _order_events(self) -> list[int]:
        """Order all calls, begins and ends by time; at the same time, ends come first."""
        activities, begins, children = self._activities, self._begins, self._activities.children
        keys = [0] * (3 * len(begins))
        keys[::3] = [4 * call + 1 for call in activities.submits]
        keys[_BEGINS::3] = [4 * begin + 1 for begin in begins]
        # But no row ends before it begins.
        keys[_ENDS::3] = [
            4 * end + (0 if end > begin else 3)
            for end, begin in zip(activities.ends, begins, strict=True)
        ]
        key = keys.__getitem__
        # At the same time, callers begin before their calls and end after them.
        begun = [
            event
            for row in activities.callers_first
            for event in ((3 * row, 3 * row + _BEGINS) if row in children else (3 * row,))
        ]
        begun.sort(key=key)
        ended = [3 * row + _ENDS for row in reversed(activities.callers_first)]
        ended.sort(key=key)
        # Python merges two concatenated sorted lists in linear time.
        return sorted(ended + begun, key=key)

    def _find_own_time(self) -> tuple[list[int], list[int]]:
        """Find since when each caller was on its own before each call, and before its end."""
        activities = self._activities
        parents, ends, submits, awaited = (
            activities.parents,
            activities.ends,
            activities.submits,
            self._awaited,
        )
        seen = list(self._begins)
        before_call = list(submits)
        before_end = list(ends)
        for event in self._events:
            row, kind = divmod(event, 3)
            parent = parents[row]
            if kind == _ENDS:
                before_end[row] = min(seen[row], ends[row])
                if self._is_waited_for[row]:
                    seen[parent] = max(seen[parent], ends[row])
            elif kind == 0 and parent != NONE:
                known = [ends[one] for one in awaited.get(row, ())]
                since = max(known, default=seen[parent])
                before_call[row] = min(since, submits[row])
                seen[parent] = max(seen[parent], submits[row])
        return before_call, before_end

    def slacks(self) -> list[int]:
        """Return how much later each row could have ended without delaying the root (ns).

        Rows that nobody waited for have `UNLIMITED` slack.
        """
        activities, begins, awaited = self._activities, self._begins, self._awaited
        parents, children, ends, submits = (
            activities.parents,
            activities.children,
            activities.ends,
            activities.submits,
        )
        latest = [2 * UNLIMITED + end for end in ends]  # latest end of each
        latest[activities.root] = activities.end
        called = list(submits)  # latest call of each
        going = list(ends)  # latest time for a caller to reach the current event
        joined = list(ends)  # latest end of the rows that it waited for before that
        for event in reversed(self._events):
            row, kind = divmod(event, 3)
            parent = parents[row]
            if kind == _ENDS:
                if self._is_waited_for[row]:
                    latest[row] = min(latest[row], joined[parent])
                if row in children:
                    own = ends[row] - self._before_end[row]
                    going[row] = joined[row] = latest[row] - own
                else:
                    begun = latest[row] - (ends[row] - begins[row])
                    called[row] = self._latest_call(row, begun, latest)
            elif kind == _BEGINS:
                called[row] = self._latest_call(row, going[row], latest)
            elif parent != NONE:
                limit = min(going[parent], called[row])
                alone = limit - (submits[row] - self._before_call[row])
                for one in awaited.get(row, ()):
                    latest[one] = min(latest[one], alone)
                if row in awaited:
                    going[parent] = limit
                else:
                    going[parent] = alone
                    joined[parent] = min(joined[parent], alone)
        return [min(UNLIMITED, max(0, late - end)) for late, end in zip(latest, ends, strict=True)]

    def _latest_call(self, row: int, begun: int, latest: list[int]) -> int:
        """Return the latest call of a row that begins at `begun`, and limit what it waited for."""
        gate = self._gates.get(row)
        if gate is None:
            return begun - (self._begins[row] - self._activities.submits[row])
        if gate.holder == NONE:
            begun -= gate.held
        else:
            latest[gate.holder] = min(latest[gate.holder], begun - gate.held)
        limit = begun - gate.depended if gate.is_explained else begun
        for one in gate.upstream:
            latest[one] = min(latest[one], limit)
        if not gate.is_explained:
            begun -= gate.depended
        if gate.before == NONE:
            return begun - gate.queued
        latest[gate.before] = min(latest[gate.before], begun - gate.queued)
        return begun

    def bound(self, rows: Collection[int], share: int, slacks: Sequence[int]) -> int:
        """Return an upper bound of `saving`: the time of the rows without slack."""
        activities = self._activities
        most = sum(
            activities.ends[row] - activities.starts[row]
            if row in activities.children
            else self._activities.executions[row]
            for row in rows
            if slacks[row] == 0
        )
        return min(most // share, activities.end - activities.start)

    def saving(  # noqa: C901 - the mirror image of slacks(), and as hot
        self, rows: Collection[int], share: int, slacks: Sequence[int]
    ) -> int:
        """Return how much earlier the root would have ended if some rows had been faster (ns).

        Args:
            rows: The rows that execute faster.
            share: The part of their own execution to remove: 1 is all of it, 2 half of it.
            slacks: The result of `slacks`.
        """
        bound = self.bound(rows, share, slacks)
        activities, begins, awaited = self._activities, self._begins, self._awaited
        parents, children, ends, submits = (
            activities.parents,
            activities.children,
            activities.ends,
            activities.submits,
        )
        faster = [False] * len(ends)
        for row in rows:
            faster[row] = True
        ended = list(ends)  # the new end of each
        called = list(submits)  # the new call of each
        going = list(activities.starts)  # the time that a caller has reached
        joined = list(activities.starts)  # the last end among the rows that it waits for
        for event in self._events:
            row, kind = divmod(event, 3)
            parent = parents[row]
            if slacks[row if kind else parent] >= bound:
                continue
            if kind == _ENDS:
                end = ends[row]
                if row in children:
                    own = self._own_time(row, self._before_end[row], end, share * faster[row])
                    end = max(going[row], joined[row]) + own
                else:
                    own = end - begins[row]
                    if faster[row]:
                        own -= self._activities.executions[row] // share
                    end = self._begin(row, called[row], ended) + own
                ended[row] = end
                if self._is_waited_for[row]:
                    joined[parent] = max(joined[parent], end)
            elif kind == _BEGINS:
                going[row] = joined[row] = self._begin(row, called[row], ended)
            elif parent != NONE:
                now = submits[row]
                own = self._own_time(parent, self._before_call[row], now, share * faster[parent])
                if row in awaited:
                    last = max(ended[one] for one in awaited[row])
                    now = max(going[parent], last + own)
                else:
                    now = max(going[parent], joined[parent]) + own
                called[row] = going[parent] = now
        return max(0, ends[activities.root] - ended[activities.root])

    def _own_time(self, row: int, since: int, until: int, share: int) -> int:
        """Return how long a caller takes between two moments without a share of its execution."""
        if not share or since >= until:
            return until - since
        begun, done, gaps = self._working[row]
        executed = max(0, min(until, done) - max(since, begun))
        place = bisect_left(gaps, (since, since))
        while place < len(gaps) and gaps[place][0] < until:
            executed -= min(until, gaps[place][1]) - gaps[place][0]
            place += 1
        return until - since - executed // share

    def _begin(self, row: int, called: int, ended: Sequence[int]) -> int:
        """Return when a row called at `called` begins, given the ends of the others."""
        gate = self._gates.get(row)
        if gate is None:
            return called + self._begins[row] - self._activities.submits[row]
        if gate.before == NONE:
            called += gate.queued
        else:
            called = max(called, ended[gate.before] + gate.queued)
        last = max((ended[one] for one in gate.upstream), default=called)
        if gate.is_explained:
            ready = max(called, last + gate.depended)
        else:
            ready = max(called + gate.depended, last)
        if gate.holder == NONE:
            return ready + gate.held
        return max(ready, ended[gate.holder] + gate.held)


def _room(known: Facts, end: int) -> int:
    """Return until when a row may have waited inside its span for the rows that it depends on.

    How long the engine worked before that wait is unknown.
    """
    return end - (known.execution or 0) - _waited_inside(known) + known.dependencies


def _working(activities: Activities, row: int) -> tuple[int, int, list[tuple[int, int]]]:
    """Return when a row that calls others began and finished executing.

    Also returns the gaps in between in which the engine worked: each begins as a call ends.
    """
    own = segments(activities, row)
    executed = [one for one in own if one.cause == "execution"]
    if not executed:
        return activities.ends[row], activities.ends[row], []
    begun, done = executed[0].start, executed[-1].end
    gaps = [
        (one.start, one.end)
        for one in own
        if one.cause == "orchestration" and begun < one.start < done
    ]
    return begun, done, gaps
