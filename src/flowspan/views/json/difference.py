"""Write the result of ``flowspan diff`` as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from flowspan.views.headline import difference_headline, remarks

if TYPE_CHECKING:
    from flowspan.analysis.one_trace import Task
    from flowspan.analysis.two_traces import Difference, PathChange, Side


VERSION: Final = 1
"""Version of the document. It goes up if a key changes or disappears, not if one is added."""


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
        "headline": difference_headline(found),
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


def _plain_change(change: PathChange) -> dict[str, Any]:
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
