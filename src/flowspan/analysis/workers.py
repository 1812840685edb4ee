"""Find the processes that ran a trace's runs, and when each was busy."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowspan.analysis.phases import union

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowspan.analysis.activities import Activities


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
    processes = [span.process for span in spans]
    shown: Sequence[int] = range(len(spans))
    if activities.has_runs:
        shown = [row for row in shown if activities.facts[row].run_type is not None]
    counts = Counter(map(processes.__getitem__, shown))
    first = {processes[row]: spans[row] for row in reversed(shown)}
    names = _names({process: first[process].place for process in counts})
    busy: dict[str, list[tuple[int, int]]] = {process: [] for process in counts}
    for row, begin, end in zip(leaves, begins, ends, strict=True):
        if begin < end:
            busy[processes[row]].append((begin, end))
    return tuple(
        Worker(process, names[process], count, tuple(union(busy[process])))
        for process, count in counts.items()
    )


def _names(places: Mapping[str, str]) -> dict[str, str]:
    """Name each process after its place; numbers distinguish those with the same place."""
    shared = Counter(places.values())
    numbers: Counter[str] = Counter()
    names = {}
    for process, place in places.items():
        numbers[place] += 1
        names[process] = f"{place} {numbers[place]}" if shared[place] > 1 else place
    return names
