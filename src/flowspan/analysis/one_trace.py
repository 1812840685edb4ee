"""Work out where the time of a trace went: its critical path, and what each task costs.

Pure: spans in, frozen values out. The timeline, its page, `flowspan diff` and the exports all show
these values. All times and durations are integer nanoseconds unless a name says otherwise.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from flowspan import semconv
from flowspan.analysis.activities import NONE, Activities, gather
from flowspan.analysis.clocks import LateClock, find_late_clocks
from flowspan.analysis.critical_path import RowStep, walk
from flowspan.analysis.what_if import UNLIMITED, Network
from flowspan.analysis.workers import Worker, find_workers
from flowspan.read.facts import waits_of
from flowspan.read.memory import without_collector

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from flowspan.analysis.phases import Cause
    from flowspan.read.span import Open, Span

LARGEST_NETWORK: Final = 200_000
"""The most activities for which slack and what-if are computed; larger traces would take long."""

WHAT_IF_BUDGET: Final = 4_000_000
"""The most events that what-if questions visit, which takes seconds; the rest stays unanswered."""

_AT_ONCE: Final = 1_000  # rows whose waits are added up per batch


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the critical path; the span `span_id` held the trace up."""

    span_id: str
    start: int
    end: int
    cause: Cause


@dataclass(frozen=True, slots=True)
class Task:
    """All runs of one task or flow, or (in a plain trace) all spans of one name.

    `path` is their time on the critical path, `share` its share of the root's duration, and `cause`
    the use of most of it, None if they are not on the path. `slack` is how much longer each run
    could take without delaying the root, None if nobody waits for them. `drag` is the time saved if
    their execution took no time, `saved` if it took half the time. All three are None if the trace
    is too large, or nobody asked. `on_path` is `path` by cause.
    """

    name: str
    type: str  # "flow", "task", "span"
    runs: int
    failed: int
    retries: int
    duration: int
    execution: int
    path: int
    share: float
    cause: Cause | None
    slack: int | None
    drag: int | None
    saved: int | None
    waits: Mapping[Cause, int]
    rows_input: int | None
    rows_output: int | None
    on_path: Mapping[Cause, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Analysis:
    """The analysis of a whole trace.

    `source` names the maker of the spans: ``flowspan``, Prefect itself (``prefect``), or anything
    else (``plain``), which records less. `start` and `end` are the root's.

    `on_path` is the time on the critical path by cause, `waits` the waits of all runs. `work` is
    the sum of the execution times of all tasks. `mean_concurrency` is `work` over the duration,
    `peak_concurrency` the most tasks that executed at once, `efficiency` the first over the second.
    `retry_cost` is the time in failed attempts that were retried, and between attempts.
    `orchestration` is the time in which no task was running. `workers` are the processes that ran
    the runs, by their first run, `late_clocks` the hosts among them whose clocks are behind.
    `links_dropped` is how many upstream runs are not known, because a provider's limit has dropped
    the links to them. `open` tells of a root that has not ended: then all this is so far, up to
    `end`, and nothing is answered about what would save time.
    """

    source: Literal["flowspan", "prefect", "plain"]
    root_id: str
    start: int
    end: int
    critical_path: tuple[Step, ...]
    tasks: tuple[Task, ...]  # by share, the largest first
    on_path: Mapping[Cause, int]
    waits: Mapping[Cause, int]
    work: int
    peak_concurrency: int
    mean_concurrency: float
    efficiency: float
    retry_cost: int
    retry_cost_on_path: int
    orchestration: int
    workers: tuple[Worker, ...]
    late_clocks: tuple[LateClock, ...]
    links_dropped: int = 0
    open: Open | None = None

    @property
    def bottleneck(self) -> Task | None:
        """The task with the largest share of the critical path."""
        return self.tasks[0] if self.tasks and self.tasks[0].path else None


def analyse(spans: Collection[Span], *, what_if: bool = True) -> Analysis:
    """Analyse the spans of one trace.

    Args:
        spans: At least one, each id once.
        what_if: Whether to compute slack, drag and saving too, which is most of the work.
    """
    with without_collector():
        return _analyse(gather(spans), what_if=what_if)


def _analyse(activities: Activities, *, what_if: bool) -> Analysis:
    path = walk(activities)
    root = activities.spans[activities.root].open if activities.has_root else None
    has_answers = what_if and root is None and len(activities.spans) <= LARGEST_NETWORK
    network = Network(activities) if has_answers else None
    tasks = _tasks(activities, path, network)
    duration = activities.end - activities.start
    retried = _retried(activities)
    in_tasks = _tasks_only(activities)
    leaves = _leaves(activities, in_tasks)
    begins, ends = (
        _inside(activities, leaves, activities.begins),
        _inside(activities, leaves, activities.ends),
    )
    work = sum(
        min(activities.executions[row], end - begin)
        for row, begin, end in zip(leaves, begins, ends, strict=True)
    )
    busy = [(begin, end) for begin, end in zip(begins, ends, strict=True) if begin < end]
    peak = _peak((begin for begin, _ in busy), (end for _, end in busy))
    in_tasks.sort(key=activities.starts.__getitem__)
    in_no_task = duration - _covered(
        _inside(activities, in_tasks, activities.starts),
        _inside(activities, in_tasks, activities.ends),
    )
    return Analysis(
        source=_source(activities),
        root_id=activities.root_id,
        start=activities.start,
        end=activities.end,
        critical_path=tuple(_steps(activities, path)),
        tasks=tasks,
        on_path=_most_first(_by_cause(path)),
        waits=_most_first(sum((Counter(task.waits) for task in tasks), Counter())),
        work=work,
        peak_concurrency=peak,
        mean_concurrency=work / duration if duration else 0.0,
        efficiency=work / (duration * peak) if duration and peak else 0.0,
        retry_cost=_retry_cost(activities, retried),
        retry_cost_on_path=_retry_cost_on_path(path, retried),
        orchestration=in_no_task,
        links_dropped=sum(known.links_dropped for known in activities.facts),
        workers=find_workers(activities, leaves, begins, ends),
        late_clocks=find_late_clocks(activities),
        open=root,
    )


def _by_cause(path: Iterable[RowStep]) -> Counter[Cause]:
    amounts: Counter[Cause] = Counter()
    for step in path:
        amounts[step.cause] += step.end - step.start
    return amounts


def _most_first(amounts: Mapping[Cause, int]) -> dict[Cause, int]:
    """Order by amount, without zeros."""
    return {cause: amount for cause, amount in Counter(amounts).most_common() if amount}


def _source(activities: Activities) -> Literal["flowspan", "prefect", "plain"]:
    if not activities.has_runs:
        return "plain"
    is_ours = any(known.run_type and not known.is_native for known in activities.facts)
    return "flowspan" if is_ours else "prefect"


def _steps(activities: Activities, path: Iterable[RowStep]) -> Iterator[Step]:
    """Name the span of each step, and join adjacent steps of one span and cause."""
    for (row, cause), group in itertools.groupby(path, key=lambda step: (step.row, step.cause)):
        same = list(group)
        yield Step(_span_id(activities, row), same[0].start, same[-1].end, cause)


def _span_id(activities: Activities, row: int) -> str:
    is_missing = row == activities.root and not activities.has_root
    return activities.root_id if is_missing else activities.spans[row].span_id


def _name(activities: Activities, row: int) -> tuple[str, str]:
    """Return the type and name that a row is summed up under."""
    known = activities.facts[row]
    if row == activities.root and not activities.has_root:
        # A row that it called may carry the name of its flow.
        known = activities.spans[row].facts
        return ("flow", known.flow_name) if known.flow_name else ("span", "(missing)")
    if known.run_type is None:
        return "span", activities.spans[row].name
    name = known.flow_name if known.run_type == "flow" else known.task_name
    return known.run_type, name or activities.spans[row].name


def _groups(
    activities: Activities,
) -> tuple[dict[tuple[str, str], list[int]], list[tuple[str, str]]]:
    """List the rows of each name, and the name of each row.

    Other spans count for the run that they are part of, if they are part of one.
    """
    groups: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    names = [("", "")] * len(activities.spans)
    facts, parents = activities.facts, activities.parents
    of_runs: set[int] = set()  # rows below a run that are not runs themselves
    for row in activities.callers_first:
        if facts[row].run_type is None:
            parent = parents[row]
            if parent in of_runs or (parent != NONE and facts[parent].run_type is not None):
                of_runs.add(row)
                names[row] = names[parent]
                continue
        name = names[row] = _name(activities, row)
        groups[name].append(row)
    return groups, names


def _tasks(
    activities: Activities, path: Sequence[RowStep], network: Network | None
) -> tuple[Task, ...]:
    groups, names = _groups(activities)
    on_path: defaultdict[tuple[str, str], list[RowStep]] = defaultdict(list)
    for step in path:
        on_path[names[step.row]].append(step)
    causes = {name: _by_cause(on_path[name]) for name in groups}
    ordered = sorted(groups, key=lambda name: (-causes[name].total(), *name))
    told = _Answers(network, network.slacks() if network is not None else ())
    return tuple(
        _task(activities, name, groups[name], causes[name], told.about(groups[name], causes[name]))
        for name in ordered
    )


class _Answers:
    """Answers to what-if questions, while the budget lasts."""

    def __init__(self, network: Network | None, slacks: Sequence[int]) -> None:
        self._network = network
        self._slacks = slacks
        self._by_slack = sorted(slacks)
        self._budget = WHAT_IF_BUDGET

    def about(
        self, rows: Sequence[int], causes: Counter[Cause]
    ) -> tuple[int | None, int | None, int | None]:
        """Return the slack of some rows, and the time saved if they take no or half the time."""
        path, network, slacks = causes.total(), self._network, self._slacks
        if network is None:
            return (0, None, None) if path else (None, 0, 0)
        if not causes["execution"]:
            slack = 0 if path else min(slacks[row] for row in rows)
            return (slack if slack < UNLIMITED else None), 0, 0
        if self._budget >= 0:
            # Both answers visit each row with less slack: its call, begin and end.
            self._budget -= 6 * bisect_left(self._by_slack, network.bound(rows, 1, slacks))
        if self._budget < 0:
            return 0, None, None
        drag = min(network.saving(rows, 1, slacks), path)
        return 0, drag, min(network.saving(rows, 2, slacks), drag)


def _task(
    activities: Activities,
    name: tuple[str, str],
    rows: Sequence[int],
    causes: Counter[Cause],
    told: tuple[int | None, int | None, int | None],
) -> Task:
    whole = activities.end - activities.start
    path = causes.total()
    slack, drag, saved = told
    sums = _add_up(activities, rows)
    return Task(
        name=name[1],
        type=name[0],
        runs=sums.runs,
        failed=sums.failed,
        retries=sums.retries,
        duration=sums.duration,
        execution=sums.execution,
        path=path,
        share=path / whole if whole else 0.0,
        cause=causes.most_common(1)[0][0] if path else None,
        slack=slack,
        drag=drag,
        saved=saved,
        waits=_most_first(sums.waits),
        rows_input=sums.rows_input,
        rows_output=sums.rows_output,
        on_path=dict(causes.most_common()),
    )


class _Sums(NamedTuple):
    runs: int
    failed: int
    retries: int
    duration: int
    execution: int
    waits: Mapping[Cause, int]
    rows_input: int | None
    rows_output: int | None


def _add_up(activities: Activities, rows: Sequence[int]) -> _Sums:
    """Add up some rows in a single pass: most of a million rows are not in the CPU's caches."""
    failed = retries = duration = execution = 0
    waits: list[tuple[int, ...]] = []
    rows_input: int | None = None
    rows_output: int | None = None
    for row in rows:
        known = activities.facts[row]
        failed += activities.spans[row].failed
        duration += activities.ends[row] - activities.starts[row]
        execution += activities.executions[row]
        waits.append(waits_of(known))
        if len(waits) == _AT_ONCE:
            waits = [_summed(waits)]
        if known.retry:
            retries += 0 if row in activities.attempts else max(1, known.run_count - 1)
        if row in activities.attempts:
            retries += len(activities.attempts[row]) - 1
        if known.rows_input is not None:
            rows_input = (rows_input or 0) + known.rows_input
        if known.rows_output is not None:
            rows_output = (rows_output or 0) + known.rows_output
    if not activities.has_root and activities.root in rows:  # the span of a row that it called
        failed -= activities.spans[activities.root].failed
    return _Sums(
        runs=len(rows) - sum(activities.earlier.get(row, NONE) != NONE for row in rows),
        failed=failed,
        retries=retries,
        duration=duration,
        execution=execution,
        waits=dict(zip((wait.name for wait in semconv.WAITS), _summed(waits), strict=True)),
        rows_input=rows_input,
        rows_output=rows_output,
    )


def _summed(waits: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*waits, strict=True)))


def _retried(activities: Activities) -> dict[int, tuple[int, int]]:
    """Return, by row, the start and end of the time that a first success would have saved."""
    return {
        row: (tries[0].start, tries[-1].start)
        for row, tries in activities.attempts.items()
        if tries[0].start < tries[-1].start
    }


def _retry_cost(activities: Activities, retried: Mapping[int, tuple[int, int]]) -> int:
    untold = (
        known.retry for row, known in enumerate(activities.facts) if row not in activities.attempts
    )
    return sum(end - start for start, end in retried.values()) + sum(untold)


def _retry_cost_on_path(path: Iterable[RowStep], retried: Mapping[int, tuple[int, int]]) -> int:
    total = 0
    for step in path:
        if step.row in retried:
            start, end = retried[step.row]
            total += max(0, min(end, step.end) - max(start, step.start))
        elif step.cause == "retry":
            total += step.end - step.start
    return total


def _tasks_only(activities: Activities) -> list[int]:
    """List the rows of task runs; in a trace without runs, all rows but the root."""
    if not activities.has_runs:
        return [row for row in range(len(activities.spans)) if row != activities.root]
    return [row for row, known in enumerate(activities.facts) if known.run_type == "task"]


def _leaves(activities: Activities, tasks: Sequence[int]) -> list[int]:
    """List the rows in `tasks` that called none of the others."""
    callers = {activities.parents[row] for row in tasks}
    return [row for row in tasks if row not in callers]


def _inside(activities: Activities, rows: Sequence[int], begins: Sequence[int]) -> list[int]:
    """Return when each of some rows begins, clipped to the root."""
    low, high = activities.start, activities.end
    found = [begins[row] for row in rows]
    if not found or (min(found) >= low and max(found) <= high):  # as usual
        return found
    return [min(max(begin, low), high) for begin in found]


def _peak(begins: Iterable[int], ends: Iterable[int]) -> int:
    """Return the most intervals that overlap at once; touching intervals do not overlap."""
    starts, stops = sorted(begins), sorted(ends)
    peak = over = 0
    for begun, start in enumerate(starts, 1):
        while stops[over] <= start:
            over += 1
        peak = max(peak, begun - over)
    return peak


def _covered(begins: Iterable[int], ends: Iterable[int]) -> int:
    """Return the time covered by at least one interval; pass them sorted by start."""
    total = until = 0
    for start, end in zip(begins, ends, strict=True):
        if end > until:
            total += end - (max(until, start))
            until = end
    return total
