"""Runs of flows as trends read them, without files."""

import datetime as dt
import random
from collections.abc import Callable
from typing import Any

from flowspan.analysis.flow_runs import FlowRun, Retry, TaskOfRun

FIRST_DAY = dt.date(2026, 6, 1)  # a Monday


def day_of(number: int) -> dt.date:
    """Return the date of a day, counted from the first."""
    return FIRST_DAY + dt.timedelta(days=number)


def made(day: int, seconds: float, *, hour: float = 2, **fields: Any) -> FlowRun:
    """Return a run that starts at a local hour of a day, counted from the first.

    By default it succeeds, and all of it except one second is the task load.
    """
    midnight = dt.datetime.combine(day_of(day), dt.time())
    start = round((midnight + dt.timedelta(hours=hour)).timestamp()) * 10**9
    duration = round(seconds * 1e9)
    load = duration - 10**9
    tasks = {
        "load": TaskOfRun(load, load / duration, 1, 0),
        "extract": TaskOfRun(10**9, 10**9 / duration, 1, 0),
    }
    told: dict[str, Any] = {
        "flow": "nightly",
        "name": None,
        "caller": None,
        "run_id": f"{day} {hour}",
        "trace_id": "ab" * 16,
        "start": start,
        "end": start + duration,
        "last_seen": None,
        "duration": duration,
        "result": "success",
        "state": "Completed",
        "tags": (),
        "rows": None,
        "rows_output": None,
        "broken": (),
        "bottleneck": None,
        "tasks": tasks,
        "started": {"extract": start, "load": start + 10**9},
        "retries": (),
        "is_plain": False,
    }
    return FlowRun(**(told | fields))


def retried(
    day: int, hour: float, task: str = "load", error: str | None = "TimeoutError"
) -> FlowRun:
    """Return a run in which one task failed once and was retried."""
    run = made(day, 10, hour=hour)
    return made(day, 10, hour=hour, retries=(Retry(task, error, run.start + 5 * 10**9),))


def noise(seed: int, spread: float = 0.1) -> Callable[[], float]:
    """Return a source of factors around 1."""
    source = random.Random(seed)  # noqa: S311 - the same each time
    return lambda: source.lognormvariate(0, spread)
