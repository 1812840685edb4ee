"""Say what an analysis found: in one sentence for people, and as JSON for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from flowspan.timeline.text import SECOND, clean, human

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowspan.timeline.analysis import Analysis, Task

VERSION: Final = 1
"""Of the shape of ``flowspan timeline --json``. Keys may be added; else the number goes up."""

_SPENT_ON: Final = {
    "execution": "execution",
    "queue": "waiting in the queue",
    "dependencies": "waiting for dependencies",
    "concurrency": "waiting for a concurrency slot",
    "retry": "waiting for a retry",
    "pause": "paused",
    "late": "waiting for a late start",
    "infrastructure": "waiting for infrastructure",
    "orchestration": "orchestration",
}
_LEAST_SAVING: Final = 0.001  # of the duration; less is not worth a word


def headline(analysis: Analysis) -> str:
    """Name the bottleneck in a sentence; empty where the trace has no length."""
    task = analysis.bottleneck
    if task is None or task.cause is None:
        return ""
    name = clean(task.name)
    is_code = task.cause == "execution"
    itself = f"{'the code of ' if is_code else ''}flow {name} itself"
    who = {"flow": itself, "span": f"span {name}"}.get(task.type, name)
    text = f"{who} is the bottleneck: {percent(task.share)} of the critical path"
    text += f" ({_SPENT_ON[task.cause]})"
    if task.saved is not None and task.saved > _LEAST_SAVING * (analysis.end - analysis.start):
        # Twice the speed of its code is no advice against a wait, so it says whose speed it is.
        text += f", {'' if is_code else 'its code '}2× faster saves {human(task.saved)}"
    return text


def percent(share: float) -> str:
    """Write a share of 0 to 1: ``61 %``; one that is small but not 0 is ``<1 %``."""
    return "<1 %" if 0 < share < 0.005 else f"{share:.0%}".replace("%", " %")  # noqa: PLR2004


def as_object(analysis: Analysis) -> dict[str, Any]:
    """Return the keys that an analysis adds to the JSON document of a trace.

    Names ending in nothing else are seconds, shares go from 0 to 1, and the times of
    ``critical_path`` and ``root`` are integer nanoseconds since the epoch. ``null`` is what is not
    known. See docs/json.md for the whole shape.
    """
    bottleneck = analysis.bottleneck
    duration = analysis.end - analysis.start
    return {
        "source": analysis.source,
        "root": {"span_id": analysis.root_id, "start": analysis.start, "end": analysis.end},
        "headline": headline(analysis),
        "bottleneck": None
        if bottleneck is None
        else {
            "name": bottleneck.name,
            "type": bottleneck.type,
            "share": bottleneck.share,
            "cause": bottleneck.cause,
            "saved": _seconds(bottleneck.saved),
        },
        "critical_path": [
            {"span_id": one.span_id, "start": one.start, "end": one.end, "cause": one.cause}
            for one in analysis.critical_path
        ],
        "causes": _by_cause(analysis.on_path),
        "tasks": [_task(task) for task in analysis.tasks],
        "waiting": _by_cause(analysis.waits),
        "concurrency": {
            "work": _seconds(analysis.work),
            "peak": analysis.peak_concurrency,
            "mean": analysis.mean_concurrency,
            "efficiency": analysis.efficiency,
        },
        "retry_cost": {
            "total": _seconds(analysis.retry_cost),
            "on_critical_path": _seconds(analysis.retry_cost_on_path),
        },
        "orchestration": {
            "total": _seconds(analysis.orchestration),
            "share": analysis.orchestration / duration if duration else 0.0,
        },
    }


def _task(task: Task) -> dict[str, Any]:
    return {
        "name": task.name,
        "type": task.type,
        "runs": task.runs,
        "failed": task.failed,
        "retries": task.retries,
        "share": task.share,
        "cause": task.cause,
        "path": _seconds(task.path),
        "slack": _seconds(task.slack),
        "drag": _seconds(task.drag),
        "saved": _seconds(task.saved),
        "duration": _seconds(task.duration),
        "execution": _seconds(task.execution),
        "waits": _by_cause(task.waits),
        "rows": {"input": task.rows_input, "output": task.rows_output},
    }


def _by_cause(amounts: Mapping[Any, int]) -> dict[str, float | None]:
    return {cause: _seconds(amount) for cause, amount in amounts.items()}


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / SECOND
