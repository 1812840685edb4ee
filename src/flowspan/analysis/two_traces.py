"""Explain why one run took longer than another, by the changes on the critical path.

The critical path tiles a run, so the changes of all names on it, the flow itself included, add up
to the change of the run's duration, to the nanosecond.

Pure: two analyses in, frozen values out. Times are integer nanoseconds, changes are B less A.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowspan.analysis.one_trace import analyse
from flowspan.analysis.root import root_of
from flowspan.text import clean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowspan.analysis.one_trace import Analysis, Task
    from flowspan.analysis.phases import Cause
    from flowspan.read.span import Trace


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs, and its analysis.

    If `has_root` is False, the span of the run itself is missing, and with it the result.
    """

    trace_id: str
    name: str
    run_name: str | None
    result: str | None
    analysis: Analysis
    has_root: bool = True

    @property
    def duration(self) -> int:
        """Nanoseconds from start to end."""
        return self.analysis.end - self.analysis.start


@dataclass(frozen=True, slots=True)
class Volume:
    """The rows that the runs of a name handled, and the time per row.

    Flows have no volume: they mostly wait for their tasks while they execute.

    `direction` is ``output`` or ``input``: the one that both sides recorded, output first. `rows`
    and `execution` (ns) are the values of A and of B, all above 0.
    """

    direction: str
    rows: tuple[int, int]
    execution: tuple[int, int]

    @property
    def ratio(self) -> float:
        """Rows of B over rows of A."""
        return self.rows[1] / self.rows[0]

    @property
    def per_row(self) -> float:
        """Time per row in B over time per row in A; above 1 means slower."""
        return self.execution[1] / self.execution[0] / self.ratio

    @property
    def rates(self) -> tuple[float, float]:
        """Rows per second of execution, of A and of B."""
        before, after = (
            rows / (time / 1e9) for rows, time in zip(self.rows, self.execution, strict=True)
        )
        return before, after


@dataclass(frozen=True, slots=True)
class PathChange:
    """The change of one name; a side without a run of it is None.

    `path` is the change of its time on the critical path, `cause` the use of most of that time,
    None if nothing changed. The counts show failed, retried and cached runs.
    """

    name: str
    type: str
    before: Task | None
    after: Task | None
    path: int
    by_cause: Mapping[Cause, int]
    volume: Volume | None

    @property
    def title(self) -> str:
        """The name to show. For a flow it says that only its own time counts here."""
        name = clean(self.name) or "(no name)"
        return f"{name} itself" if self.type == "flow" else name

    @property
    def cause(self) -> Cause | None:
        """The cause that contributes most to the change."""
        sign = 1 if self.path > 0 else -1
        causes = [(sign * change, cause) for cause, change in self.by_cause.items()]
        largest, cause = max(causes, default=(0, None))
        return cause if self.path and largest > 0 else None


@dataclass(frozen=True, slots=True)
class Difference:
    """Two runs, and the changes from A to B, the largest on the critical path first."""

    before: Side
    after: Side
    changes: tuple[PathChange, ...]

    @property
    def total(self) -> int:
        """The change of the duration: the sum of the changes of all names."""
        return self.after.duration - self.before.duration

    @property
    def relative(self) -> float | None:
        """The change of the duration as a share of A's; None if A took no time."""
        return self.total / self.before.duration if self.before.duration else None

    @property
    def leading(self) -> PathChange | None:
        """The name that explains most of the change; None if nothing changed."""
        sign = 1 if self.total > 0 else -1
        leading = max(self.changes, key=lambda change: sign * change.path, default=None)
        return leading if leading and self.total and sign * leading.path > 0 else None


def compare(before: Trace, after: Trace) -> Difference:
    """Return the changes from one trace to another; each needs at least one span."""
    return difference(_side(before), _side(after))


def difference(before: Side, after: Side) -> Difference:
    """Return the changes from one run to another."""
    old = {(task.type, task.name): task for task in before.analysis.tasks}
    new = {(task.type, task.name): task for task in after.analysis.tasks}
    changes = [_change(key, old.get(key), new.get(key)) for key in {**old, **new}]
    # A stable sort: of equal changes, the larger share comes first, as in the analyses.
    changes.sort(key=lambda change: -abs(change.path))
    return Difference(before, after, tuple(changes))


def _side(trace: Trace) -> Side:
    analysis = analyse(trace.spans, what_if=False)
    root = root_of(trace.spans)
    facts = root.span.facts
    name = facts.flow_name or root.span.name
    if not root.is_there:  # the span that stands in has another run name and result
        return Side(trace.trace_id, name, None, None, analysis, has_root=False)
    result = facts.result if root.span.open is None else root.span.open.state
    return Side(trace.trace_id, name, facts.run_name, result, analysis)


def _change(key: tuple[str, str], before: Task | None, after: Task | None) -> PathChange:
    old = before.on_path if before else {}
    new = after.on_path if after else {}
    by_cause = {cause: new.get(cause, 0) - old.get(cause, 0) for cause in {**old, **new}}
    path = (after.path if after else 0) - (before.path if before else 0)
    type_, name = key
    return PathChange(name, type_, before, after, path, by_cause, _volume(before, after))


def _volume(before: Task | None, after: Task | None) -> Volume | None:
    if before is None or after is None or before.type == "flow":
        return None
    execution = before.execution, after.execution
    for direction, rows in (
        ("output", (before.rows_output, after.rows_output)),
        ("input", (before.rows_input, after.rows_input)),
    ):
        if all(rows) and all(execution):
            return Volume(direction, (rows[0] or 0, rows[1] or 0), execution)
    return None
