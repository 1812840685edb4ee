"""Tell where the time of a trace went: its critical path, and what each task costs.

Pure: spans in, frozen values out. The timeline, its page, `flowspan diff` and the exports all show
what stands here. All times and durations are integer nanoseconds unless a name ends otherwise.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from flowspan.timeline.activities import NONE, Activities, gather
from flowspan.timeline.critical_path import Step, walk
from flowspan.timeline.what_if import Network

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from flowspan.timeline.facts import Facts
    from flowspan.timeline.read import Span

WHAT_IF_BUDGET: Final = 4_000_000
"""Events that questions about faster tasks may look at, which takes seconds; some may stay open."""

Cause: TypeAlias = Literal[
    "execution",
    "queue",
    "dependencies",
    "concurrency",
    "retry",
    "pause",
    "late",
    "infrastructure",
    "orchestration",
]
"""What a stretch of the critical path was spent on."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A piece of the critical path: `span_id` is the span that held the trace up."""

    span_id: str
    start: int
    end: int
    cause: Cause


@dataclass(frozen=True, slots=True)
class Task:
    """All runs of one name, be it a task's, a flow's, or (in a plain trace) a span's.

    `path` is their time on the critical path, `share` that part of the root's duration, `cause`
    what most of it was spent on, None where there is none. `slack` is by how much each of the runs
    could be longer before the root is; `drag` by how much the root would be shorter if their
    execution took no time, and `saved` if it took half the time; both None where the trace is too
    large to tell.
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
    slack: int
    drag: int | None
    saved: int | None
    waits: Mapping[Cause, int]
    rows_input: int | None
    rows_output: int | None


@dataclass(frozen=True, slots=True)
class Analysis:
    """What there is to tell of a whole trace.

    `source` tells who made the spans: ``flowspan``, Prefect itself (``prefect``), or somebody else
    (``plain``), of which fewer things are known. `start` and `end` are those of the root.

    `on_path` is the time on the critical path by cause, `waits` that of all runs. `work` is the
    time in which tasks executed, over all of them; `mean_concurrency` is `work` over the duration,
    `peak_concurrency` how many executed at once at most, `efficiency` the first over the second.
    `retry_cost` is the time in failed attempts that were tried again, and between attempts;
    `orchestration` the time in which no task was running.
    """

    source: Literal["flowspan", "prefect", "plain"]
    root_id: str
    start: int
    end: int
    critical_path: tuple[Stretch, ...]
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

    @property
    def bottleneck(self) -> Task | None:
        """The name with the largest share of the critical path."""
        return self.tasks[0] if self.tasks and self.tasks[0].path else None


def analyse(spans: Collection[Span]) -> Analysis:
    """Analyse the spans of one trace, at least one, each id once."""
    made = gather(spans)
    network = Network(made)
    path = walk(made)
    duration = made.end - made.start
    leaves = [row for row in range(len(made.spans)) if _is_leaf(made, row)]
    work = sum(network.executions[row] for row in leaves)
    peak = _peak([(network.begins[row], made.ends[row]) for row in leaves])
    in_tasks = [_part(made, row) for row in range(len(made.spans)) if _is_task(made, row)]
    return Analysis(
        source=_source(made),
        root_id=made.root_id,
        start=made.start,
        end=made.end,
        critical_path=tuple(_stretches(made, path)),
        tasks=_tasks(made, network, path),
        on_path=_totals((step.cause, step.end - step.start) for step in path),
        waits=_totals(wait for known in made.facts for wait in waits(known)),
        work=work,
        peak_concurrency=peak,
        mean_concurrency=work / duration if duration else 0.0,
        efficiency=work / (duration * peak) if duration and peak else 0.0,
        retry_cost=sum(end - start for start, end in _failed_tries(made, made.attempts))
        + sum(known.retry for known in made.facts),
        retry_cost_on_path=_retries_on_path(made, path),
        orchestration=duration - _union(in_tasks),
    )


def waits(known: Facts) -> Iterator[tuple[Cause, int]]:
    """Yield what a run waited for, and for how long; 0 if it did not."""
    yield "late", known.late
    yield "infrastructure", known.infrastructure
    yield "queue", known.queue
    yield "dependencies", known.dependencies
    yield "concurrency", known.concurrency
    yield "retry", known.retry
    yield "pause", known.pause


def _totals(amounts: Iterable[tuple[Cause, int]]) -> dict[Cause, int]:
    """Add up by cause, the largest first; what is nothing is left out."""
    totals: Counter[Cause] = Counter()
    for cause, amount in amounts:
        if amount:
            totals[cause] += amount
    return dict(totals.most_common())


def _source(made: Activities) -> Literal["flowspan", "prefect", "plain"]:
    runs = [known for known in made.facts if known.run_type is not None]
    if any(known.execution is not None for known in runs):
        return "flowspan"
    return "prefect" if runs else "plain"


def _stretches(made: Activities, path: Iterable[Step]) -> Iterator[Stretch]:
    """Turn steps into stretches, and join those that touch and are alike."""
    for (row, cause), group in itertools.groupby(path, key=lambda step: (step.row, step.cause)):
        same = list(group)
        yield Stretch(_span_id(made, row), same[0].start, same[-1].end, cause)


def _span_id(made: Activities, row: int) -> str:
    is_missing = row == made.root and not made.has_root
    return made.root_id if is_missing else made.spans[row].span_id


def _name(made: Activities, row: int) -> tuple[str, str]:
    """Return what a row is summed up under: a type and a name."""
    known = made.facts[row]
    if row == made.root and not made.has_root:
        # What it called may know the name of its flow.
        known = made.spans[row].facts
        return ("flow", known.flow_name) if known.flow_name else ("span", "(missing)")
    if known.run_type is None:
        return "span", made.spans[row].name
    return known.run_type, known.task_name or known.flow_name or made.spans[row].name


def _groups(made: Activities) -> tuple[dict[tuple[str, str], list[int]], list[tuple[str, str]]]:
    """List the rows of each name, and the name of each row.

    What is no run counts for the run that it is part of, if there is one.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    names = [("", "")] * len(made.spans)
    in_run = [False] * len(made.spans)
    for row in made.callers_first:
        parent = made.parents[row]
        if made.facts[row].run_type is None and parent != NONE and in_run[parent]:
            names[row], in_run[row] = names[parent], True
            continue
        in_run[row] = made.facts[row].run_type is not None
        names[row] = _name(made, row)
        groups.setdefault(names[row], []).append(row)
    return groups, names


def _tasks(made: Activities, network: Network, path: Sequence[Step]) -> tuple[Task, ...]:
    groups, names = _groups(made)
    on_path: defaultdict[tuple[str, str], Counter[Cause]] = defaultdict(Counter)
    for step in path:
        on_path[names[step.row]][step.cause] += step.end - step.start
    slacks = network.slacks()
    ordered = sorted(groups, key=lambda name: (-on_path[name].total(), *name))
    budget = WHAT_IF_BUDGET
    tasks = []
    for name in ordered:
        rows, causes = groups[name], on_path[name]
        savings: tuple[int | None, int | None] = (0, 0)
        if causes["execution"]:
            budget -= 2 * network.cost(rows, slacks)
            savings = _savings(network, rows, slacks, causes) if budget >= 0 else (None, None)
        slack = 0 if causes.total() else min(slacks[row] for row in rows)
        tasks.append(_task(made, network, rows, causes, (name, slack, *savings)))
    return tuple(tasks)


def _savings(
    network: Network, rows: Sequence[int], slacks: Sequence[int], causes: Counter[Cause]
) -> tuple[int, int]:
    """Tell what is saved if some rows take no time, and if they take half of it."""
    drag = min(network.saving(rows, 1, slacks), causes.total())
    return drag, min(network.saving(rows, 2, slacks), drag)


def _task(
    made: Activities,
    network: Network,
    rows: Sequence[int],
    causes: Counter[Cause],
    told: tuple[tuple[str, str], int, int | None, int | None],
) -> Task:
    (kind, name), slack, drag, saved = told
    facts = [made.facts[row] for row in rows]
    moved_on = set(made.earlier.values())
    path = causes.total()
    duration = made.end - made.start
    return Task(
        name=name,
        type=kind,
        runs=sum(row not in moved_on for row in rows),
        failed=sum(made.spans[row].failed for row in rows),
        retries=sum(_tries(made, row) - 1 for row in rows),
        duration=sum(made.ends[row] - made.starts[row] for row in rows),
        execution=sum(network.executions[row] for row in rows),
        path=path,
        share=path / duration if duration else 0.0,
        cause=causes.most_common(1)[0][0] if path else None,
        slack=slack,
        drag=drag,
        saved=saved,
        waits=_totals(wait for known in facts for wait in waits(known)),
        rows_input=_sum(known.rows_input for known in facts),
        rows_output=_sum(known.rows_output for known in facts),
    )


def _sum(counts: Iterable[int | None]) -> int | None:
    """Add up what is known; None if nothing is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _tries(made: Activities, row: int) -> int:
    if row in made.attempts:
        return len(made.attempts[row])
    known = made.facts[row]
    return max(2, known.run_count) if known.retry else 1


def _failed_tries(made: Activities, rows: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield from when to when the attempts took that were followed by another."""
    for row in rows:
        for attempt in made.attempts.get(row, ())[:-1]:
            yield attempt.start, attempt.start + attempt.duration


def _retries_on_path(made: Activities, path: Iterable[Step]) -> int:
    total = 0
    for step in path:
        if step.cause == "retry":
            total += step.end - step.start
        elif step.cause == "execution":
            tries = _failed_tries(made, [step.row])
            total += sum(
                max(0, min(end, step.end) - max(start, step.start)) for start, end in tries
            )
    return total


def _is_task(made: Activities, row: int) -> bool:
    """Tell whether a row is a task run; where there are no runs, whether it is not the root."""
    kind = made.facts[row].run_type
    return kind == "task" or (kind is None and not made.has_runs and row != made.root)


def _is_leaf(made: Activities, row: int) -> bool:
    """Tell whether a row is a task run that only works, and calls no other run."""
    return _is_task(made, row) and not any(_is_task(made, child) for child in made.children[row])


def _part(made: Activities, row: int) -> tuple[int, int]:
    """Return from when to when a row lies in the time of the root."""
    start, end = made.starts[row], made.ends[row]
    return min(max(start, made.start), made.end), max(min(end, made.end), made.start)


def _peak(intervals: Sequence[tuple[int, int]]) -> int:
    """Tell how many intervals there are at once at most; those that touch are not at once."""
    ends = sorted(end for start, end in intervals if end > start)
    starts = sorted(start for start, end in intervals if end > start)
    peak = over = 0
    for begun, start in enumerate(starts, 1):
        while ends[over] <= start:
            over += 1
        peak = max(peak, begun - over)
    return peak


def _union(intervals: Iterable[tuple[int, int]]) -> int:
    """Add up the time in which there is at least one."""
    total = until = 0
    for start, end in sorted(intervals):
        if end > until:
            total += end - max(start, until)
            until = end
    return total
