"""Write findings as sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowspan.text import MS, clean, human, percent, signed_percent, time_of_day
from flowspan.views.looks import SPENT_ON

if TYPE_CHECKING:
    from flowspan.analysis.one_trace import Analysis, Task
    from flowspan.analysis.two_traces import Difference, PathChange
    from flowspan.read.span import Open, Trace


SHORT_ID: Final = 8
"""The digits of a trace id that are enough to name it in a command."""

NOTABLE: Final = 0.1
"""A ratio nearer to 1 than this is not mentioned."""


def reasons(change: PathChange) -> list[str]:
    """Return the reasons why a name's time on the critical path changed, a few words each."""
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


_OPEN: Final = {"running": "is still running", "lost": "was lost before its end"}


def times(ratio: float) -> str:
    """Write a ratio with two significant digits."""
    decimals = 0 if ratio >= 9.95 else 1 if ratio >= 0.95 else 2  # noqa: PLR2004
    return f"{ratio:,.{decimals}f}\u00d7"


def remarks(found: Difference) -> list[str]:
    """Return sentences on why the two runs are hard to compare."""
    before, after = found.before, found.after
    said = []
    if before.trace_id == after.trace_id:
        said.append("A and B are the same run.")
    if before.name != after.name:
        said.append(f"These are different flows: A is {before.name!r}, B is {after.name!r}.")
    for letter, side in (("A", before), ("B", after)):
        if not side.has_root:
            said.append(f"{letter} has not ended, or was killed, so it may lack some of the work.")
        if side.result in _OPEN:
            said.append(f"{letter} {_OPEN[side.result]}, so it may lack some of the work.")
        elif side.result not in (None, "success"):
            said.append(f"{letter} ended with {side.result}, so it may lack some of the work.")
        if side.analysis.source == "plain":
            said.append(f"{letter} was not made by flowspan: what its spans waited for is unknown.")
    return said


_LEAST_SAVING: Final = 0.001  # of the duration; smaller savings are not mentioned


def headline(analysis: Analysis) -> str:
    """Name the bottleneck in a sentence; empty if the trace has no length."""
    task = analysis.bottleneck
    if task is None or task.cause is None:
        return ""
    if analysis.open is not None:
        return f"so far: {_subject(task)} takes {_share(task)}"
    text = f"{_subject(task)} is the bottleneck: {_share(task)}"
    if task.cause == "orchestration" and task.type != "span":
        return text
    if task.saved is not None and task.saved > _LEAST_SAVING * (analysis.end - analysis.start):
        # Faster code does not shorten a wait, so the sentence then names the code.
        its_code = "" if task.cause == "execution" else "its code "
        text += f", {its_code}2× faster saves {human(task.saved)}"
    return text


def _subject(task: Task) -> str:
    name = clean(task.name)
    if task.cause == "orchestration" and task.type != "span":
        return f"Prefect's own work for {f'flow {name}' if task.type == 'flow' else name}"
    is_code = task.cause == "execution"
    itself = f"{'the code of ' if is_code else ''}flow {name} itself"
    return {"flow": itself, "span": f"span {name}"}.get(task.type, name)


def part_of(trace: Trace) -> str:
    """Say what called a flow run that is shown alone; empty if the trace is whole."""
    if not trace.is_part:
        return ""
    whole = f"the whole: flowspan timeline {trace.trace_id[:SHORT_ID]}"
    if trace.called_by is None:
        return f"part of a trace; {whole}"
    caller = trace.called_by.facts
    return f"called by {clean(caller.flow_name)} {clean(caller.run_name)}; {whole}"


def doing(known: Open) -> str:
    """Write what a run that has not ended is doing, or was doing when it was last heard of."""
    is_running = known.state == "running"
    verb, words = "is" if is_running else "was", SPENT_ON.get(known.activity, "")
    what = {"execution": "executing", "orchestration": "in Prefect's own work"}.get(
        known.activity, words
    )
    return f"{verb} {what} {'now' if is_running else 'when last heard of'}" if what else ""


def so_far(known: Open, length: int) -> str:
    """Write how long (ns) a run has been running, or when it was last heard of."""
    length = max(0, length)
    if known.state == "running":
        return f"running, {human(length)} so far"
    return f"lost: last heard of at {time_of_day(known.last_seen)}, after {human(length)}"


def reservations(analysis: Analysis) -> list[str]:
    """Return sentences on why the critical path, or the times, may be wrong."""
    said = [
        f"The clock of {late.host} is at least {late.least / MS:.0f} ms behind that of"
        f" {late.other}, and so are the times of its runs."
        for late in analysis.late_clocks
    ]
    if analysis.links_dropped:
        said.append(
            f"{analysis.links_dropped:,} links to upstream runs are missing, so the critical path"
            " may be wrong. The provider keeps too few: raise OTEL_SPAN_LINK_COUNT_LIMIT, or its"
            " own limit."
        )
    return said


def _share(task: Task) -> str:
    spent = "" if task.cause is None else f" ({SPENT_ON[task.cause]})"
    return f"{percent(task.share)} of the critical path{spent}"


def difference_headline(found: Difference) -> str:
    """Describe in a sentence how much longer B took, and why."""
    total, leading = found.total, found.leading
    if not total:
        return f"Both took {human(found.after.duration)}."
    relative = "" if found.relative is None else f" ({signed_percent(found.relative)})"
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
