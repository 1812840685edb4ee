"""Tell how long the root would have taken had some of its work been faster.

The trace is taken for a network of activities, as the critical path method has it (Kelley and
Walker, "Critical-Path Planning and Scheduling", 1959, https://doi.org/10.1145/1460299.1460318;
drag after Devaux, "Total Project Control", 1999): nothing starts before all is there that it waited
for, and everything else takes the time that it took. What a run waited for:

    its caller     goes on from one call to the next, and waits for each child that ends before it
    dependencies   the upstream runs that its links name
    concurrency    the run that left its slot last meanwhile
    queue          the run that left its worker thread last meanwhile

The order in which slots and threads were taken is kept, so what is told is exact where there were
always enough of them, and an estimate elsewhere.

All is one pass over the events of the trace in the order of time: back for the slack, forth for
each question. An activity whose slack is no less than what could be saved at most cannot come to
matter, so it is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from flowspan.analysis.activities import NONE, Activities
from flowspan.analysis.critical_path import Holders, segments
from flowspan.read.facts import lengths_at, total_at

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

# What an event is: of row r, events 3r, 3r + 1 and 3r + 2
_BEGINS: Final = 1
_ENDS: Final = 2

UNLIMITED: Final = 2**62
"""Nanoseconds by which a thing can be late that nobody waits for: more than a hundred years."""


_waits_at_start: Final = lengths_at("start")
_waited_inside: Final = total_at("start", "between", "middle")


class _Gate(NamedTuple):
    """What a row waited for before it began, and how long after that each wait still took (ns).

    `before` is the row that it waited for before its start, `upstream` those that it depends on,
    `holder` the one whose slot it got. Where there is none, the time is that of the wait.
    """

    before: int
    queued: int
    upstream: Sequence[int]
    is_explained: bool
    depended: int
    holder: int
    held: int


class Network:
    """The activities of a trace as a network, in which times can be changed."""

    def __init__(self, made: Activities) -> None:
        """Take the times from `made`."""
        self._made = made
        self._begins = list(made.begins)
        self._gates = self._find_gates()
        awaited = ((row, made.awaited(row)) for row, gate in self._gates.items() if gate.upstream)
        self._awaited = {row: found for row, found in awaited if found}
        callers = {parent for parent in made.parents if parent != NONE} | {*made.children}
        self._working = {row: _working(made, row) for row in callers}
        self._is_waited_for = [parent != NONE for parent in made.parents]
        for row in made.forgotten:
            self._is_waited_for[row] = False
        self._events = self._order_events()
        # From when to its call, and from when to its end, a caller did nothing but its own.
        self._before_call, self._before_end = self._find_own_time()

    def _find_gates(self) -> dict[int, _Gate]:
        """Tell what each row waited for; rows with nothing but a time of their own are left out."""
        made = self._made
        holders = Holders(made)
        starts, ends, submits, begins = made.starts, made.ends, made.submits, self._begins
        gates = {}
        waited = map(sum, map(_waits_at_start, made.facts))
        for row, (known, wait) in enumerate(zip(made.facts, waited, strict=True)):
            start, end = starts[row], ends[row]
            ready = min(end, start + known.dependencies)
            upstream = made.upstream(row)
            if upstream:
                # What the engine did first is not known apart, so they may have ended after that.
                room = end - (known.execution or 0) - _waited_inside(known) + known.dependencies
                limit = max(ready, room)
                upstream = [one for one in upstream if ends[one] <= limit]
            if known.dependencies:
                ready = max((ready, *(ends[one] for one in upstream)))
            begin = begins[row] = min(end, ready + wait - known.dependencies)
            before = made.earlier.get(row, NONE)
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

    def _order_events(self) -> list[int]:
        """Order all calls, begins and ends by time, and of those at one time the ends first."""
        made, begins, children = self._made, self._begins, self._made.children
        keys = [0] * (3 * len(begins))
        keys[::3] = [4 * call + 1 for call in made.submits]
        keys[_BEGINS::3] = [4 * begin + 1 for begin in begins]
        # But nothing ends before it began.
        keys[_ENDS::3] = [
            4 * end + (0 if end > begin else 3)
            for end, begin in zip(made.ends, begins, strict=True)
        ]
        key = keys.__getitem__
        # At one time callers begin before, and end after what they call.
        begun = [
            event
            for row in made.callers_first
            for event in ((3 * row, 3 * row + _BEGINS) if row in children else (3 * row,))
        ]
        begun.sort(key=key)
        ended = [3 * row + _ENDS for row in reversed(made.callers_first)]
        ended.sort(key=key)
        # Sorted lists that stand behind each other are merged in linear time.
        return sorted(ended + begun, key=key)

    def _find_own_time(self) -> tuple[list[int], list[int]]:
        """Tell since when each caller was on its own before each call, and before its end."""
        made = self._made
        parents, ends, submits, awaited = made.parents, made.ends, made.submits, self._awaited
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
        """Tell of each row by how much later it could have ended without the root ending later.

        Whatever nobody waited for has `UNLIMITED` slack.
        """
        made, begins, awaited = self._made, self._begins, self._awaited
        parents, children, ends, submits = made.parents, made.children, made.ends, made.submits
        latest = [2 * UNLIMITED + end for end in ends]  # when each may end
        latest[made.root] = made.end
        called = list(submits)  # when each may be called
        going = list(ends)  # when a caller may be where the pass is
        joined = list(ends)  # when what it waited for before that may end
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
        """Tell when a row may be called that may begin at `begun`, and limit what it waited for."""
        gate = self._gates.get(row)
        if gate is None:
            return begun - (self._begins[row] - self._made.submits[row])
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
        """Tell what `saving` cannot exceed: the time of those that may be critical."""
        made = self._made
        most = sum(
            made.ends[row] - made.starts[row]
            if row in made.children
            else self._made.executions[row]
            for row in rows
            if slacks[row] == 0
        )
        return min(most // share, made.end - made.start)

    def saving(  # noqa: C901 - the mirror image of slacks(), and as hot
        self, rows: Collection[int], share: int, slacks: Sequence[int]
    ) -> int:
        """Tell by how much earlier the root would have ended had some rows executed faster.

        Args:
            rows: Which ones.
            share: The part of their own execution that falls away: 1 is all of it, 2 half of it.
            slacks: Those that `slacks` told.
        """
        bound = self.bound(rows, share, slacks)
        made, begins, awaited = self._made, self._begins, self._awaited
        parents, children, ends, submits = made.parents, made.children, made.ends, made.submits
        faster = [False] * len(ends)
        for row in rows:
            faster[row] = True
        ended = list(ends)  # when each ends now
        called = list(submits)  # when it is called
        going = list(made.starts)  # until when a caller has got
        joined = list(made.starts)  # when the last that it waits for has ended
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
                        own -= self._made.executions[row] // share
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
        return max(0, ends[made.root] - ended[made.root])

    def _own_time(self, row: int, since: int, until: int, share: int) -> int:
        """Return how long a caller takes between two moments, if it executes faster by a share."""
        if not share or since >= until:
            return until - since
        begun, done = self._working[row]
        return until - since - max(0, min(until, done) - max(since, begun)) // share

    def _begin(self, row: int, called: int, ended: Sequence[int]) -> int:
        """Tell when a row begins that is called at `called`, given when others end."""
        gate = self._gates.get(row)
        if gate is None:
            return called + self._begins[row] - self._made.submits[row]
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


def _working(made: Activities, row: int) -> tuple[int, int]:
    """Return when a row that calls others began to execute, and when it was done with that."""
    executed = [one for one in segments(made, row) if one.cause == "execution"]
    if not executed:
        return made.ends[row], made.ends[row]
    return executed[0].start, executed[-1].end
