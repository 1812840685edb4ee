"""Put the spans of a trace in columns: who called whom, and from when to when each counts.

An activity is a span that is not an attempt; what happened inside an attempt belongs to its run.
Rows are numbered by start time. Everything here takes time that grows linearly with the number of
spans, but for sorting, and nothing recurses.

Where only times and parents are known, the intervals are those that Jaeger's critical path uses
(https://github.com/jaegertracing/jaeger-ui/tree/main/packages/jaeger-ui/src/components/TracePage/CriticalPath):
what sticks out of the caller's interval is cut off, and what lies outside it altogether was not
waited for.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from flowspan.timeline.facts import Facts

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from flowspan.timeline.read import Span

NONE: Final = -1
"""A row that does not exist."""

_CALLED_FROM_AFAR: Final = ("SERVER", "CONSUMER")


@dataclass(slots=True)
class Activities:
    """The activities of a trace, one list for each property; times in nanoseconds since the epoch.

    Attributes:
        spans: The span of each row. The row that stands in for a missing root has the span of its
            first child, of which nothing may be taken.
        facts: What each span tells.
        rows: The row of each span by its id; that of its run for an attempt.
        parents: The row of the caller, `NONE` for roots.
        attempts: The attempts of a run, in order of time, by its row.
        earlier: The row of the same run in an earlier process, by row.
        callers_first: All rows, each behind that of its caller.
        children: The rows that each called and waited for, in the order of their ends.
        starts: When the interval of each begins.
        ends: When it ends.
        submits: When each was asked for: its start, less what it waited before that.
        upstream: The rows whose results a row consumed or waited for, by row.
        awaited: The row that the caller of a row waited for just before it called that, by row.
        root: The row that the trace is about; of a run in several processes it is the last.
        root_id: The id of its span, which is missing from the trace if `has_root` is False.
        start: When the root started, in its first process.
        end: When it ended.
        has_root: Whether its span is there.
        has_runs: Whether any span is that of a run.
    """

    spans: list[Span]
    facts: list[Facts]
    rows: dict[str, int]
    parents: list[int]
    attempts: dict[int, list[Span]]
    earlier: dict[int, int] = field(default_factory=dict)
    callers_first: list[int] = field(default_factory=list)
    children: list[list[int]] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    submits: list[int] = field(default_factory=list)
    upstream: dict[int, list[int]] = field(default_factory=dict)
    awaited: dict[int, int] = field(default_factory=dict)
    root: int = NONE
    root_id: str = ""
    start: int = 0
    end: int = 0
    has_root: bool = True
    has_runs: bool = False


def gather(spans: Collection[Span]) -> Activities:
    """Put the spans of one trace, at least one, each id once, in columns."""
    ordered = sorted(spans, key=lambda span: (span.start, -span.end, span.span_id))
    facts = {span.span_id: span.facts for span in ordered}
    runs = {span_id for span_id, known in facts.items() if known.run_type is not None}
    attempts = {
        span.span_id: span
        for span in ordered
        if facts[span.span_id].attempt is not None
        and span.span_id not in runs
        and span.parent_span_id in runs
    }
    kept = [span for span in ordered if span.span_id not in attempts]
    rows = {span.span_id: row for row, span in enumerate(kept)}
    for span_id, attempt in attempts.items():  # what they called, their run called
        rows[span_id] = rows[attempt.parent_span_id or ""]
    of_run: dict[int, list[Span]] = {}
    for attempt in attempts.values():
        of_run.setdefault(rows[attempt.span_id], []).append(attempt)
    made = Activities(
        spans=kept,
        facts=[facts[span.span_id] for span in kept],
        rows=rows,
        parents=[rows.get(span.parent_span_id or "", NONE) for span in kept],
        attempts=of_run,
        has_runs=bool(runs),
    )
    _find_root(made)
    _find_earlier(made)
    _order(made)
    _cut(made)
    _find_upstream(made)
    return made


def _find_root(made: Activities) -> None:
    """Choose what the trace is about; see `Activities`."""
    orphans = [row for row, parent in enumerate(made.parents) if parent == NONE]
    if not orphans:  # all of them in circles
        made.parents[0] = NONE
        orphans = [0]
    roots = [row for row in orphans if _is_root(made.spans[row])]
    if roots:
        kinds = {made.facts[row].run_type: row for row in reversed(roots)}
        runs = [row for kind, row in kinds.items() if kind is not None]
        made.root = kinds["flow"] if "flow" in kinds else min(runs, default=roots[0])
        span = made.spans[made.root]
        made.root_id, made.start, made.end = span.span_id, span.start, span.start + span.duration
        return
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for row in orphans:
        groups[made.spans[row].parent_span_id or ""].append(row)
    parent_id, group = max(groups.items(), key=lambda item: len(item[1]))
    made.has_root = False
    made.root_id = parent_id
    made.start = min(made.spans[row].start for row in group)
    made.end = max(made.spans[row].start + made.spans[row].duration for row in group)
    made.root = len(made.spans)
    for row in group:
        made.parents[row] = made.root
    made.spans.append(made.spans[group[0]])
    made.facts.append(Facts())
    made.parents.append(NONE)


def _is_root(span: Span) -> bool:
    return span.parent_span_id is None or span.kind in _CALLED_FROM_AFAR


def _find_earlier(made: Activities) -> None:
    """Connect the spans of runs that went through several processes; the root may be one."""
    by_run: defaultdict[str, list[int]] = defaultdict(list)
    for row, known in enumerate(made.facts):
        if known.run_id is not None:
            by_run[known.run_id].append(row)
    spans = made.spans
    for same in by_run.values():
        for row, following in itertools.pairwise(same):
            if spans[row].end <= spans[following].start:
                made.earlier[following] = row
        if made.root in same and made.has_root:
            last = max(same, key=lambda row: spans[row].end)
            made.root, made.end = last, max(made.end, spans[last].end)
            made.root_id = spans[last].span_id


def _order(made: Activities) -> None:
    """Order the rows so that callers come first; of callers in a circle, the first is a root."""
    below: list[list[int]] = [[] for _ in made.parents]
    for row, parent in enumerate(made.parents):
        if parent != NONE:
            below[parent].append(row)
    order = [row for row, parent in enumerate(made.parents) if parent == NONE]
    _descend(order, below)
    seen = set(order)
    for row in range(len(below)) if len(order) < len(below) else ():
        if row not in seen:
            below[made.parents[row]].remove(row)
            made.parents[row] = NONE
            circle = [row]
            _descend(circle, below)
            seen.update(circle)
            order += circle
    made.callers_first = order
    made.children = below


def _descend(rows: list[int], below: Sequence[Sequence[int]]) -> None:
    """Add to `rows` what lies below them, row by row."""
    for row in rows:
        rows.extend(below[row])


def _cut(made: Activities) -> None:
    """Cut every interval to that of its caller, from the roots on, and sort what was waited for."""
    starts = made.starts = [span.start for span in made.spans]
    ends = made.ends = [max(span.start, span.end) for span in made.spans]
    if not made.has_root:
        starts[made.root], ends[made.root] = made.start, made.end
    made.submits = list(starts)
    forgotten: set[int] = set()
    for row in made.callers_first:
        parent = made.parents[row]
        if parent == NONE:
            continue
        low, high, start, end = starts[parent], ends[parent], starts[row], ends[row]
        if start < low or end > high:
            if start >= high or end <= low or (end > high and _was_left_alone(made, row)):
                forgotten.add(row)
            else:
                starts[row], ends[row] = max(start, low), min(end, high)
        made.submits[row] = _submit(made, row, min(low, starts[row]))
    for row, children in enumerate(made.children):
        if len(children) > 1:
            children.sort(key=lambda child: (ends[child], -starts[child]))
        if forgotten and not forgotten.isdisjoint(children):
            made.children[row] = [child for child in children if child not in forgotten]


def _submit(made: Activities, row: int, low: int) -> int:
    """Tell when a row was asked for, not before `low` and not before it left another process."""
    known = made.facts[row]
    asked = made.starts[row] - known.late - known.infrastructure - known.queue
    earlier = made.earlier.get(row, NONE)
    return max(low, asked, low if earlier == NONE else made.ends[earlier])


def _was_left_alone(made: Activities, row: int) -> bool:
    """Tell whether a run outlived its caller, which by the same clock did not wait for it."""
    parent = made.parents[row]
    return (
        made.facts[row].run_type is not None
        and made.facts[parent].run_type is not None
        and made.spans[row].resource == made.spans[parent].resource
    )


def _find_upstream(made: Activities) -> None:
    """Resolve links, and tell which of these runs the callers are known to have waited for.

    If what a row consumed ended after its caller had called anything else, then that is what the
    caller was waiting for, whatever else ended meanwhile.
    """
    rows, parents, ends, submits = made.rows, made.parents, made.ends, made.submits
    last_call: dict[int, int] = {}
    for row in sorted(range(len(submits)), key=submits.__getitem__):
        links = made.spans[row].upstream if row != made.root else ()
        found = [one for link in links if (one := rows.get(link, row)) != row]
        parent, call = parents[row], submits[row]
        if found:
            made.upstream[row] = found
            since = last_call.get(parent, made.starts[parent])
            done = [one for one in found if parents[one] == parent and since < ends[one] <= call]
            if done:
                made.awaited[row] = max(done, key=ends.__getitem__)
        last_call[parent] = call
