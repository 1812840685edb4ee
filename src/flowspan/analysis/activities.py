"""Put the spans of a trace in columns: the caller of each, and the interval that counts.

An activity is a span that is not an attempt; whatever ran inside an attempt belongs to its run.
Rows are numbered by start time. Apart from sorting, everything here takes linear time in the number
of spans, and nothing recurses.

If only times and parents are known, the intervals are those of Jaeger's critical path
(https://github.com/jaegertracing/jaeger-ui/tree/main/packages/jaeger-ui/src/components/TracePage/CriticalPath):
a child is clipped to its caller's interval, and nobody waited for a child entirely outside it.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from flowspan.analysis.root import root_of
from flowspan.read.facts import Facts, lengths_at, total_at, waits_before

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from flowspan.read.span import Span

NONE: Final = -1
"""Stands for no row."""

_CLOCKS_DIFFER: Final = 1_000_000_000  # nanoseconds; assumed maximum clock skew

_waits_at_start: Final = lengths_at("start")
_waited_between: Final = total_at("between")
_waited_after_start: Final = total_at("between", "middle")


@dataclass(slots=True)
class Activities:
    """The activities of a trace, one list for each property; times in nanoseconds since the epoch.

    Attributes:
        spans: The span of each row. The row of a missing root holds the span of its first child as
            a placeholder; do not read it.
        facts: The facts of each span.
        rows: The row of each span by its id; that of its run for an attempt.
        parents: The row of the caller, `NONE` for roots.
        attempts: The attempts of each run in order of time, by the row of the run.
        earlier: By row, the row of the same run in an earlier process.
        callers_first: All rows, each after its caller.
        children: By row, the rows that it called and waited for, in order of their ends.
        forgotten: The rows that nobody waited for: they lie outside their caller, or outlived it.
        starts: The start of each interval.
        ends: The end of each interval.
        submits: The time each was asked for: its start less the waits before it.
        begins: The time each began to execute, as far as it is known.
        executions: How long each executed, including the time of its calls.
        root: The row that the trace is about; the last one if the run went through several
            processes.
        root_id: The id of the root's span, which is missing from the trace if `has_root` is False.
        start: The root's start, in its first process.
        end: The root's end.
        has_root: Whether the root's span is in the trace.
        has_runs: Whether any span belongs to a run.
    """

    spans: list[Span]
    facts: list[Facts]
    rows: dict[str, int]
    parents: list[int]
    attempts: dict[int, list[Span]]
    has_runs: bool
    earlier: dict[int, int] = field(default_factory=dict)
    callers_first: list[int] = field(default_factory=list)
    children: dict[int, list[int]] = field(default_factory=dict)
    forgotten: set[int] = field(default_factory=set)
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    submits: list[int] = field(default_factory=list)
    begins: list[int] = field(default_factory=list)
    executions: list[int] = field(default_factory=list)
    root: int = NONE
    root_id: str = ""
    start: int = 0
    end: int = 0
    has_root: bool = True
    _calls: dict[int, list[int]] = field(default_factory=dict)

    def upstream(self, row: int) -> list[int]:
        """Return the rows of the runs that a row waited for or whose results it consumed."""
        links = self.spans[row].upstream
        if not links or (row == self.root and not self.has_root):
            return []
        return [found for link in links if (found := self.rows.get(link, row)) != row]

    def awaited(self, row: int) -> list[int]:
        """Return the runs that the caller of a row is known to have waited for before it called.

        If a run that the row consumed ended after the caller's previous call, the caller was
        waiting for that run, whatever else ended meanwhile. The exception: another run ended so
        late that the call more likely followed that one. Empty if nothing is known.
        """
        parent, call, ends = self.parents[row], self.submits[row], self.ends
        if parent == NONE:
            return []
        done = [
            one
            for one in self.upstream(row)
            if self.parents[one] == parent and self.starts[parent] < ends[one] <= call
        ]
        if not done:
            return []
        if parent not in self._calls:
            self._calls[parent] = sorted(self.submits[child] for child in self.children[parent])
        calls, siblings = self._calls[parent], self.children[parent]
        place = bisect_left(calls, call)
        since = calls[place - 1] if place else self.starts[parent]
        awaited = [one for one in done if ends[one] >= since]
        if awaited:
            last = max(ends[one] for one in awaited)
            ended = bisect_right(siblings, call, key=ends.__getitem__)
            latest = ends[siblings[ended - 1]] if ended else last
            if latest - last > call - latest:
                return []
        return awaited


def gather(spans: Collection[Span]) -> Activities:
    """Put the spans of one trace in columns. Pass at least one, and each id once."""
    ordered, attempts = _without_attempts(_by_start(spans))
    facts = [span.facts for span in ordered]
    rows = {span.span_id: row for row, span in enumerate(ordered)}
    for run, tries in attempts.items():  # a run called whatever its attempts called
        rows |= dict.fromkeys((attempt.span_id for attempt in tries), rows[run])
    activities = Activities(
        spans=ordered,
        facts=facts,
        rows=rows,
        parents=[rows.get(span.parent_span_id or "", NONE) for span in ordered],
        attempts={rows[run]: tries for run, tries in attempts.items()},
        has_runs=any(known.run_type is not None for known in facts),
    )
    _find_root(activities)
    _find_earlier(activities)
    _order(activities)
    _cut(activities)
    _find_submits(activities)
    _find_executions(activities)
    for children in activities.children.values():
        children.reverse()  # if several end together, the longest comes last
        children.sort(key=activities.ends.__getitem__)
    return activities


def _by_start(spans: Iterable[Span]) -> list[Span]:
    """Sort by start; if spans start together, the one that ends last comes first."""
    ordered = sorted(spans, key=attrgetter("start"))
    starts = [span.start for span in ordered]
    # Few start together, and sorting all by a key of three parts costs more than the rest.
    together = [row for row, (a, b) in enumerate(itertools.pairwise(starts)) if a == b]
    for _, group in itertools.groupby(together, key=starts.__getitem__):
        first, *more = group
        end = first + len(more) + 2
        same = ordered[first:end]
        ordered[first:end] = sorted(same, key=lambda span: (-span.end, span.span_id))
    return ordered


def _without_attempts(ordered: list[Span]) -> tuple[list[Span], dict[str, list[Span]]]:
    """Set attempts aside by the id of their run; an attempt stays if its run is missing."""
    apart = [
        span for span in ordered if span.facts.attempt is not None and span.facts.run_type is None
    ]
    if not apart:
        return ordered, {}
    wanted = {span.parent_span_id for span in apart}
    runs = {
        span.span_id
        for span in ordered
        if span.span_id in wanted and span.facts.run_type is not None
    }
    attempts: dict[str, list[Span]] = {}
    for span in apart:
        if span.parent_span_id in runs:
            attempts.setdefault(span.parent_span_id or "", []).append(span)
    ids = {span.span_id for tries in attempts.values() for span in tries}
    return [span for span in ordered if span.span_id not in ids], attempts


def _find_root(activities: Activities) -> None:
    """Find the row that the trace is about; if its span is missing, add a row for it."""
    root = root_of(activities.spans, activities.rows)
    if NONE not in activities.parents:  # all spans form circles
        activities.parents[0] = NONE
    activities.root_id, activities.has_root = root.span_id, root.is_there
    activities.start, activities.end = root.start, root.end
    if root.is_there:
        activities.root = activities.rows[root.span_id]
        return
    activities.root = len(activities.spans)
    for row, span in enumerate(activities.spans):
        if activities.parents[row] == NONE and span.parent_span_id == root.span_id:
            activities.parents[row] = activities.root
    activities.spans.append(root.span)
    activities.facts.append(Facts())
    activities.parents.append(NONE)


def _find_earlier(activities: Activities) -> None:
    """Connect the spans of runs that went through several processes."""
    ids = [known.run_id for known in activities.facts if known.run_id is not None]
    if len(set(ids)) == len(ids):
        return
    first: dict[str, int] = {}
    several: dict[int, list[int]] = {}
    for row, known in enumerate(activities.facts):
        if known.run_id is not None and (same := first.setdefault(known.run_id, row)) != row:
            several.setdefault(same, [same]).append(row)
    for same_run in several.values():
        activities.earlier |= {later: row for row, later in itertools.pairwise(same_run)}


def _order(activities: Activities) -> None:
    """Order the rows so that callers come first; the first row of a circle becomes a root."""
    below: dict[int, list[int]] = {}
    for row, parent in enumerate(activities.parents):
        if parent != NONE:
            below.setdefault(parent, []).append(row)
    order = [row for row, parent in enumerate(activities.parents) if parent == NONE]
    _descend(order, below)
    if len(order) < len(activities.parents):
        seen = set(order)
        for row in range(len(activities.parents)):
            if row not in seen:
                below[activities.parents[row]].remove(row)  # cut the circle here
                activities.parents[row] = NONE
                circle = [row]
                _descend(circle, below)
                seen.update(circle)
                order += circle
    activities.callers_first = order
    activities.children = below


def _descend(rows: list[int], below: Mapping[int, Sequence[int]]) -> None:
    """Extend `rows` with their descendants."""
    for row in rows:
        if row in below:
            rows.extend(below[row])


def _cut(activities: Activities) -> None:
    """Clip every interval to that of its caller, starting at the roots."""
    starts = activities.starts = [span.start for span in activities.spans]
    ends = activities.ends = [max(span.start, span.end) for span in activities.spans]
    if not activities.has_root:
        starts[activities.root], ends[activities.root] = activities.start, activities.end
    parents = activities.parents
    if not any(
        parent != NONE and (start < starts[parent] or end > ends[parent])
        for parent, start, end in zip(parents, starts, ends, strict=True)
    ):
        return
    for row in activities.callers_first:
        parent = parents[row]
        if parent == NONE:
            continue
        low, high, start, end = starts[parent], ends[parent], starts[row], ends[row]
        if low <= start and end <= high:
            continue
        if start >= high or end <= low or (end > high and _was_left_alone(activities, row)):
            activities.forgotten.add(row)
        else:
            starts[row], ends[row] = max(start, low), min(end, high)
    for caller in {parents[row] for row in activities.forgotten}:
        waited_for = [row for row in activities.children[caller] if row not in activities.forgotten]
        activities.children[caller] = waited_for


def _find_submits(activities: Activities) -> None:
    """Find when each was asked for: after its caller started and its earlier process ended."""
    starts = activities.starts
    waited = map(sum, map(waits_before, activities.facts))
    submits = activities.submits = [
        start - wait for start, wait in zip(starts, waited, strict=True)
    ]
    for row, parent in enumerate(activities.parents):
        if parent == NONE:
            submits[row] = starts[row]
        elif submits[row] < starts[parent]:
            submits[row] = min(starts[parent], starts[row])
    for row, earlier in activities.earlier.items():
        submits[row] = min(starts[row], max(submits[row], activities.ends[earlier]))


def _find_executions(activities: Activities) -> None:
    """Find when each began to execute, and for how long; by default, all the time."""
    begins, executions = activities.begins, activities.executions
    waited = map(sum, map(_waits_at_start, activities.facts))
    for known, start, wait, end in zip(
        activities.facts, activities.starts, waited, activities.ends, strict=True
    ):
        begin = start + wait
        since, execution = known.running_since, known.execution
        if since is not None and since > begin and not _waited_between(known):
            begin = since
        begin = min(begin, end)
        room = end - begin
        if execution is None:
            execution = room - _waited_after_start(known) - known.orchestration
        begins.append(begin)
        executions.append(room if execution > room else max(0, execution))


def _was_left_alone(activities: Activities, row: int) -> bool:
    """Check whether a run outlived its caller in the same process, so the caller did not wait.

    The two ends may come from different clocks: the Prefect server's and the process's.
    """
    parent = activities.parents[row]
    return (
        activities.spans[row].end - activities.spans[parent].end > _CLOCKS_DIFFER
        and activities.facts[row].run_type is not None
        and activities.facts[parent].run_type is not None
        and activities.spans[row].resource == activities.spans[parent].resource
    )
