"""Explain why one run took longer than another: by what changed on the critical path.

Since the critical path tiles a run, the changes of all names on it, those of the flow itself
included, add up to the change of the run's duration: to the nanosecond.

Pure: two analyses in, frozen values out. Times are integer nanoseconds, changes are B less A.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from flowspan.timeline import tree as trees
from flowspan.timeline.analysis import analyse
from flowspan.timeline.text import clean, human

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowspan.timeline.analysis import Analysis, Cause, Task
    from flowspan.timeline.read import Trace

VERSION: Final = 1
"""That of the JSON document; a key that changes its meaning or goes away raises it."""

NOTABLE: Final = 0.1
"""A ratio that is nearer to 1 than this is no change worth a word."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs: what it is, and what its analysis tells.

    Without `has_root` the span of the run itself is missing, and so is how it ended.
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
    """How many rows the runs of a name had to do with, and how long one row took.

    A flow has none: what it executes is mostly waiting for its tasks.

    `direction` is ``output`` or ``input``, whichever both sides tell, output first. `rows` and
    `execution` (ns) are those of A and of B, all of them above 0.
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
        """Time that a row took in B over that in A; above 1 it became slower."""
        return self.execution[1] / self.execution[0] / self.ratio

    @property
    def rates(self) -> tuple[float, float]:
        """Rows per second of execution, of A and of B."""
        before, after = (
            rows / (time / 1e9) for rows, time in zip(self.rows, self.execution, strict=True)
        )
        return before, after


@dataclass(frozen=True, slots=True)
class Change:
    """What changed for one name; a side that has no run of it is None.

    `path` is the change of its time on the critical path, `cause` what that was spent on mostly,
    None where there is no change. Of a failed, retried or cached run the counts tell.
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
        """What to call it: of a flow only what is no task's counts here."""
        name = clean(self.name) or "(no name)"
        return f"{name} itself" if self.type == "flow" else name

    @property
    def cause(self) -> Cause | None:
        """The cause whose change has most to do with that of the whole."""
        sign = 1 if self.path > 0 else -1
        causes = [(sign * change, cause) for cause, change in self.by_cause.items()]
        largest, cause = max(causes, default=(0, None))
        return cause if self.path and largest > 0 else None


@dataclass(frozen=True, slots=True)
class Difference:
    """Two runs, and what changed from A to B, the largest change on the critical path first."""

    before: Side
    after: Side
    changes: tuple[Change, ...]

    @property
    def total(self) -> int:
        """The change of the duration: the sum of the changes of all names."""
        return self.after.duration - self.before.duration

    @property
    def relative(self) -> float | None:
        """The change of the duration as a part of A's; None if that took no time."""
        return self.total / self.before.duration if self.before.duration else None

    @property
    def leading(self) -> Change | None:
        """What explains most of the change; None if there is no change."""
        sign = 1 if self.total > 0 else -1
        leading = max(self.changes, key=lambda change: sign * change.path, default=None)
        return leading if leading and self.total and sign * leading.path > 0 else None


def compare(before: Trace, after: Trace) -> Difference:
    """Tell what changed from one trace to another; each has at least one span."""
    return difference(_side(before), _side(after))


def difference(before: Side, after: Side) -> Difference:
    """Tell what changed from one run to another."""
    old = {(task.type, task.name): task for task in before.analysis.tasks}
    new = {(task.type, task.name): task for task in after.analysis.tasks}
    changes = [_change(key, old.get(key), new.get(key)) for key in {**old, **new}]
    # Stable: of equal changes, the one with the larger share comes first, as in the analyses.
    changes.sort(key=lambda change: -abs(change.path))
    return Difference(before, after, tuple(changes))


def _side(trace: Trace) -> Side:
    analysis = analyse(trace.spans, what_if=False)
    root = next((span for span in trace.spans if span.span_id == analysis.root_id), None)
    if root is None:  # what it called names its flow, but has another name of a run, and result
        main = trees.build(trace.spans).main
        name = main.facts.flow_name or main.name
        return Side(trace.trace_id, name, None, None, analysis, has_root=False)
    facts = root.facts
    name = facts.flow_name or root.name
    return Side(trace.trace_id, name, facts.run_name, facts.result, analysis)


def _change(key: tuple[str, str], before: Task | None, after: Task | None) -> Change:
    old = before.on_path if before else {}
    new = after.on_path if after else {}
    by_cause = {cause: new.get(cause, 0) - old.get(cause, 0) for cause in {**old, **new}}
    path = (after.path if after else 0) - (before.path if before else 0)
    type_, name = key
    return Change(name, type_, before, after, path, by_cause, _volume(before, after))


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


def headline(found: Difference) -> str:
    """Say in a sentence how much longer B took, and what explains it."""
    total, leading = found.total, found.leading
    if not total:
        return f"Both took {human(found.after.duration)}."
    relative = f" ({found.relative:+.0%})".replace("%", " %") if found.relative is not None else ""
    said = f"B took {human(abs(total))} {'longer' if total > 0 else 'less'}{relative}"
    if leading is None:
        return f"{said}."
    name, part = leading.title, human(abs(leading.path))
    why = f" ({'; '.join(reasons(leading))})"
    if abs(leading.path) <= abs(total):
        return f"{said}: {name} explains {part} of it{why}"
    rest = human(abs(leading.path - total))
    if total > 0:
        return f"{said}: {name} adds {part}{why}, other changes save {rest}"
    return f"{said}: {name} saves {part}{why}, other changes add {rest}"


def reasons(change: Change) -> list[str]:
    """Say in a few words each why the time of a name on the critical path changed."""
    if change.before is None or change.after is None:
        return ["new" if change.before is None else "gone"]
    said: list[str] = [change.cause] if change.cause else []
    if change.cause == "execution" and change.volume is not None:
        for ratio, what in (
            (change.volume.ratio, "the rows"),
            (change.volume.per_row, "the time per row"),
        ):
            if not 1 - NOTABLE < ratio < 1 + NOTABLE:
                said.append(f"{times(ratio)} {what}")
    for name, before, after in (
        ("runs", change.before.runs, change.after.runs),
        ("retries", change.before.retries, change.after.retries),
        ("failed", change.before.failed, change.after.failed),
    ):
        if before != after:
            said.append(f"{after:,} {name}, {before:,} before")
    return said or ["other places in the run"]


def times(ratio: float) -> str:
    """Write a ratio with two digits that count."""
    decimals = 0 if ratio >= 9.95 else 1 if ratio >= 0.95 else 2  # noqa: PLR2004
    return f"{ratio:,.{decimals}f}\u00d7"


def remarks(found: Difference) -> list[str]:
    """Say what makes the two hard to compare."""
    before, after = found.before, found.after
    said = []
    if before.trace_id == after.trace_id:
        said.append("A and B are the same run.")
    if before.name != after.name:
        said.append(f"These are different flows: A is {before.name!r}, B is {after.name!r}.")
    for letter, side in (("A", before), ("B", after)):
        if not side.has_root:
            said.append(f"{letter} has not ended, or was killed, so it may lack some of the work.")
        if side.result not in (None, "success"):
            said.append(f"{letter} ended with {side.result}, so it may lack some of the work.")
        if side.analysis.source == "plain":
            said.append(f"{letter} was not made by flowspan: what its spans waited for is unknown.")
    return said


def to_json(found: Difference) -> bytes:
    """Write a difference as the documented JSON document.

    ``{"version": 1, "a": RUN, "b": RUN, "change", "relative_change", "headline", "remarks",
    "tasks": [TASK]}``. A run is ``{"trace_id", "name", "run_name", "result", "start", "end",
    "duration"}``; a task is ``{"name", "type", "change", "cause", "by_cause", "status", "a", "b",
    "volume"}``, by the size of ``change``, whose sum over all tasks is the ``change`` of the
    document. ``status`` is ``"new"``, ``"gone"`` or ``"both"``; ``a`` and ``b`` are null or
    ``{"runs", "retries", "failed", "path", "share", "duration", "execution", "rows_input",
    "rows_output"}``; ``volume`` is null or ``{"direction", "rows_ratio", "time_per_row_ratio",
    "a_rows_per_second", "b_rows_per_second"}``. Times are integer nanoseconds, ratios are B over A.
    """
    document = {
        "version": VERSION,
        "a": _plain_side(found.before),
        "b": _plain_side(found.after),
        "change": found.total,
        "relative_change": found.relative,
        "headline": headline(found),
        "remarks": remarks(found),
        "tasks": [_plain_change(change) for change in found.changes],
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _plain_side(side: Side) -> dict[str, Any]:
    return {
        "trace_id": side.trace_id,
        "name": side.name,
        "run_name": side.run_name,
        "result": side.result,
        "start": side.analysis.start,
        "end": side.analysis.end,
        "duration": side.duration,
    }


def _plain_change(change: Change) -> dict[str, Any]:
    status = "new" if change.before is None else "gone" if change.after is None else "both"
    volume = change.volume
    return {
        "name": change.name,
        "type": change.type,
        "status": status,
        "change": change.path,
        "cause": change.cause,
        "by_cause": dict(change.by_cause),
        "a": _plain_task(change.before),
        "b": _plain_task(change.after),
        "volume": volume
        and {
            "direction": volume.direction,
            "rows_ratio": volume.ratio,
            "time_per_row_ratio": volume.per_row,
            "a_rows_per_second": volume.rates[0],
            "b_rows_per_second": volume.rates[1],
        },
    }


def _plain_task(task: Task | None) -> dict[str, Any] | None:
    if task is None:
        return None
    return {
        "runs": task.runs,
        "retries": task.retries,
        "failed": task.failed,
        "path": task.path,
        "share": task.share,
        "duration": task.duration,
        "execution": task.execution,
        "rows_input": task.rows_input,
        "rows_output": task.rows_output,
    }
