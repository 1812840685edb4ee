"""Find the processes that ran a trace's runs, and when each was busy."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flowspan.analysis.activities import Activities
    from flowspan.read.span import Span


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that ran some of a trace's runs.

    `process` is the `Span.process` of its spans, `name` their `Span.place`, with a number if
    several processes share it. `runs` is the number of its runs, `busy` (ns) the stretches in which
    it executed tasks, in order.
    """

    process: str
    name: str
    runs: int
    busy: tuple[tuple[int, int], ...]

    @property
    def time(self) -> int:
        """How long it executed tasks, in nanoseconds."""
        return sum(end - start for start, end in self.busy)


def find_workers(
    activities: Activities, leaves: Sequence[int], begins: Sequence[int], ends: Sequence[int]
) -> tuple[Worker, ...]:
    """Return the processes in the order of their first runs; of all spans if there are no runs.

    Args:
        activities: The trace.
        leaves: The rows of the tasks that called no other task.
        begins: When each of these began to execute.
        ends: When each of these ended.
    """
    spans = activities.spans[: len(activities.spans) - (not activities.has_root)]
    runs = [span for span in spans if span.is_run or not activities.has_runs]
    counts = Counter(span.process for span in runs)
    busy: dict[str, list[tuple[int, int]]] = {}
    for row, begin, end in zip(leaves, begins, ends, strict=True):
        if begin < end:
            busy.setdefault(activities.spans[row].process, []).append((begin, end))
    return tuple(
        Worker(process, name, counts[process], tuple(_union(busy.get(process, ()))))
        for process, name in _names(runs).items()
    )


def _names(spans: Iterable[Span]) -> dict[str, str]:
    """Name each process; numbers distinguish those that would have the same name."""
    first: dict[str, Span] = {}
    for span in spans:
        first.setdefault(span.process, span)
    places = {process: span.place for process, span in first.items()}
    shared = Counter(places.values())
    numbers: Counter[str] = Counter()
    names = {}
    for process, place in places.items():
        numbers[place] += 1
        names[process] = f"{place} {numbers[place]}" if shared[place] > 1 else place
    return names


def _union(intervals: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Merge intervals that touch or overlap."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged
