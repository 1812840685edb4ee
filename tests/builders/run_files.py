"""Write months of runs of one flow in OTLP JSON, with the effects that tests need."""

import datetime as dt
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import span_files
from span_files import EPOCH, Plan, attempt

from flowspan import semconv

FIRST_DAY = dt.date(2026, 9, 1)  # a Tuesday
ZONE = "Europe/Berlin"  # changes its clocks on 25 October 2026


@contextmanager
def time_zone(name: str) -> Iterator[None]:
    """Set the time zone of this process."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = name
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()


def at(day: int, hour: float = 2) -> float:
    """Return a local time of a day, counted from the first, in seconds since `EPOCH`."""
    midnight = dt.datetime.combine(FIRST_DAY + dt.timedelta(days=day), dt.time())
    moment = midnight + dt.timedelta(hours=hour)
    return moment.timestamp() - EPOCH / 1e9


def nightly(
    start: float,
    load: float = 2.0,
    extract: float = 1.0,
    *,
    flow: str = "nightly",
    result: str = "success",
    rows: int | None = None,
    retried: str | None = None,
) -> Plan:
    """Plan a run that extracts, then loads, for that many seconds.

    Args:
        start: In seconds since `EPOCH`.
        load: Seconds that the task load takes.
        extract: Seconds that the task extract takes.
        flow: Name of the flow.
        result: Result of the run.
        rows: Rows that the task load returns.
        retried: Type of the error that ends the first attempt of load, after half its time.
    """
    totals: dict[str, Any] = {} if rows is None else {"rows": rows}
    begin, end = start + extract, start + extract + load
    tries: tuple[Plan, ...] = ()
    if retried is not None:
        first = attempt(1, begin, begin + load / 2, error="no")
        first.attributes[semconv.ERROR_TYPE] = retried
        tries = (first, attempt(2, begin + load / 2, end))
        totals["count"] = 2
    tasks = (
        span_files.run("extract", start, begin, execution=extract),
        span_files.run("load", begin, end, *tries, execution=load, **totals),
    )
    for task in tasks:
        task.attributes |= {semconv.TASK_NAME: task.name, semconv.FLOW_NAME: flow}
    return span_files.run(
        f"RUN {flow}",
        start,
        end,
        *tasks,
        result=result,
        error=None if result == "success" else "it went wrong",
        execution=extract + load,
    )


def write_days(
    path: Path, days: int, plan: Callable[[int], Plan | None], *, hour: float = 2
) -> None:
    """Append a run for each day, unless the day has none."""
    for day in range(days):
        made = plan(day)
        if made is not None:
            span_files.write(path, made)


def noise(seed: int, spread: float = 0.05) -> Callable[[], float]:
    """Return a source of factors around 1."""
    source = random.Random(seed)  # noqa: S311 - the same each time
    return lambda: source.lognormvariate(0, spread)
