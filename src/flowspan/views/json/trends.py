"""Write trends as one JSON document for other programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import orjson

from flowspan.analysis.trends.answers import seconds
from flowspan.analysis.trends.statistics import CONFIDENCE, LEVEL
from flowspan.views.trend_words import sentences

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowspan.analysis.flow_runs import FlowRun
    from flowspan.analysis.trends.answers import (
        Change,
        FlowTrends,
        Point,
        Retries,
        RowsEffect,
        TaskShare,
    )
    from flowspan.analysis.trends.statistics import Trend

VERSION: Final = 1
"""Version of the document. It goes up if a key changes or disappears, not if one is added."""


def to_json(flows: Iterable[FlowTrends]) -> bytes:
    """Write the documented document.

    ``{"version": 1, "level", "confidence", "flows": [{"name", "median", "success_rate", "target",
    "change", "tasks", "calendar", "retries", "days", "rows", "unanswered", "sentences",
    "runs"}]}``: times are integer nanoseconds since the epoch, durations seconds, shares and rates
    0 to 1, dates local, slopes per day, and null means unknown or too few runs.

    ``level`` is the p-value below which a finding is certain, ``confidence`` the confidence of the
    intervals.

    - ``change``: ``{"kind": "trend" | "step" | null, "before", "after", "p", "task", "trend",
      "step"}``; ``kind`` is null if no change is certain and large enough, ``task`` is
      ``{"name", "before", "after"}``, ``trend`` ``{"slope", "low", "high", "start", "end", "tau",
      "p"}``, ``step`` ``{"date", "before", "after", "p"}``.
    - ``tasks``: ``{"name", "share", "seconds", "is_changing", "trend", "over_time"}`` by median
      share of the critical path, the largest first; ``over_time`` is ``[{"time", "share"}]`` by
      run, or by day if there are many.
    - ``calendar``: ``{"days", "count", "inside", "outside", "p"}``, only certain effects.
    - ``retries``: ``{"count", "runs", "by_task": {name: count}, "by_error": [{"error", "count"}],
      "hours": [{"hour", "started", "retried", "p", "is_telling"}]}``.
    - ``days``: ``{"date", "finished", "succeeded", "rate"}``.
    - ``rows``: ``{"rho", "p", "follows", "explains"}``.
    - ``unanswered``: ``{"answer", "needs", "has", "of"}``.
    - ``sentences``: ``{"text", "tone": "bad" | "good" | "plain" | "unknown"}``, as in the terminal;
      their wording may change.
    - ``runs``: ``{"run_id", "trace_id", "start", "end", "duration", "result", "rows", "tasks":
      {name: {"share", "seconds", "runs", "failed"}}}`` by start.
    """
    document = {
        "version": VERSION,
        "level": LEVEL,
        "confidence": CONFIDENCE,
        "flows": [*map(_flow, flows)],
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _flow(trends: FlowTrends) -> dict[str, Any]:
    return {
        "name": trends.flow,
        "median": trends.median,
        "success_rate": trends.success_rate,
        "target": trends.target,
        "change": trends.change and _change(trends.change),
        "tasks": [*map(_task, trends.tasks)],
        "calendar": None
        if trends.calendar is None
        else [asdict(effect) for effect in trends.calendar],
        "retries": _retries(trends.retries),
        "days": [asdict(day) | {"rate": day.rate} for day in trends.days],
        "rows": trends.rows and _rows(trends.rows),
        "unanswered": [asdict(need) for need in trends.unanswered],
        "sentences": [sentence._asdict() for sentence in sentences(trends)],
        "runs": [*map(_run, trends.runs)],
    }


def _change(change: Change) -> dict[str, Any]:
    step = change.step
    return {
        "kind": change.kind,
        "before": change.before,
        "after": change.after,
        "p": change.p,
        "task": change.task and asdict(change.task),
        "trend": _trend(change.trend),
        "step": step
        and {"date": change.date, "before": step.before, "after": step.after, "p": step.p},
    }


def _trend(trend: Trend | None) -> dict[str, Any] | None:
    return None if trend is None else asdict(trend)


def _task(task: TaskShare) -> dict[str, Any]:
    return {
        "name": task.name,
        "share": task.share,
        "seconds": task.seconds,
        "is_changing": task.is_changing,
        "trend": _trend(task.trend),
        "over_time": [*map(_point, task.points)],
    }


def _point(point: Point) -> dict[str, Any]:
    return {"time": round(point.time), "share": point.value}


def _retries(retries: Retries) -> dict[str, Any]:
    return {
        "count": retries.count,
        "runs": retries.runs,
        "by_task": dict(retries.by_task),
        "by_error": [{"error": error, "count": count} for error, count in retries.by_error.items()],
        "hours": [asdict(hour) | {"is_telling": hour in retries.telling} for hour in retries.hours],
    }


def _rows(rows: RowsEffect) -> dict[str, Any]:
    return asdict(rows.correlation) | {"follows": rows.follows, "explains": rows.explains}


def _run(run: FlowRun) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "trace_id": run.trace_id,
        "start": run.start,
        "end": run.end,
        "duration": seconds(run),
        "result": run.result,
        "rows": run.rows,
        "tasks": {
            name: {
                "share": task.share,
                "seconds": task.path / 1e9,
                "runs": task.runs,
                "failed": task.failed,
            }
            for name, task in run.tasks.items()
        },
    }
