"""Find trends in the runs of a flow: changes, slow times, failures, and the effect of rows.

Pure: runs in, frozen answers out. Durations are seconds here, and times of runs nanoseconds since
the epoch. Days and hours are local. An answer that needs more runs is None and listed in
`FlowTrends.unanswered`.

Runs of one day resemble each other, and tests that assume independent values would find patterns
that do not exist. So if there are enough days, the median of each day stands for its runs.
"""

from __future__ import annotations

import calendar
import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from flowspan.analysis.flow_runs import local_time
from flowspan.analysis.trends import statistics
from flowspan.analysis.trends.statistics import LEVEL, Correlation, StepChange, Trend

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from flowspan.analysis.flow_runs import FlowRun

ENOUGH_FOR_TREND: Final = 10
ENOUGH_FOR_STEP: Final = 16  # with fewer, not even the clearest step is significant
ENOUGH_FOR_ROWS: Final = 10
ENOUGH_DAYS: Final = 28
ENOUGH_OF_WEEKDAY: Final = 3
ENOUGH_RETRIED: Final = 5

_LEAST_CHANGE: Final = 0.05  # of the median: smaller changes are not reported, however certain
_LEAST_SHARE: Final = 0.01  # of the critical path: tasks with less are not tested
_LEAST_SHARE_CHANGE: Final = 0.02  # of 1, over all runs
_LEAST_EXPLAINED: Final = 0.5  # of a change, by the one task named as its cause
_CLOSE: Final = 0.7  # the lowest rank correlation at which duration follows rows
_DAY: Final = 86_400e9
_LAST_DAYS: Final = 3


class Point(NamedTuple):
    """A run, or the median of a day's runs; `time` in nanoseconds since the epoch."""

    time: float
    value: float


@dataclass(frozen=True, slots=True)
class Change:
    """The change of the duration over time; the trend is per day.

    `kind` is the description that fits best, None if no change is both certain and large enough.
    `date` is the first day after the step. `task` is the task that changed most in the same
    direction, if it explains at least half of the change.
    """

    kind: Literal["trend", "step"] | None
    trend: Trend
    step: StepChange | None
    date: dt.date | None
    before: float
    after: float
    p: float
    task: TaskChange | None


@dataclass(frozen=True, slots=True)
class TaskChange:
    """A task's median seconds on the critical path before and after a change of the flow."""

    name: str
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class TaskShare:
    """A task's share of the critical path, 0 to 1: the median over all runs, and each run in order.

    `seconds` is its median time there. `trend` is the trend of the share per day, with a p-value
    adjusted for the number of tasks.
    """

    name: str
    share: float
    seconds: float
    points: tuple[Point, ...]
    trend: Trend | None

    @property
    def is_changing(self) -> bool:
        """Whether the share grows or shrinks significantly, and by enough to matter."""
        trend = self.trend
        return (
            trend is not None
            and trend.p < LEVEL
            and abs(trend.end - trend.start) >= _LEAST_SHARE_CHANGE
        )


@dataclass(frozen=True, slots=True)
class CalendarEffect:
    """Days with longer or shorter runs than others: medians, and an adjusted p-value.

    `days` names them as in "on Mondays".
    """

    days: str
    count: int
    inside: float
    outside: float
    p: float


@dataclass(frozen=True, slots=True)
class Hour:
    """An hour of the day, with the tasks that started in it and how many of them were retried."""

    hour: int
    started: int
    retried: int
    p: float


@dataclass(frozen=True, slots=True)
class Retries:
    """Attempts that failed and were retried, and the hours in which that is more frequent."""

    count: int
    runs: int
    by_task: Mapping[str, int]
    by_error: Mapping[str | None, int]
    hours: tuple[Hour, ...]
    telling: tuple[Hour, ...]


@dataclass(frozen=True, slots=True)
class Day:
    """The finished runs among those that started on a day; cancelled runs do not count."""

    date: dt.date
    finished: int
    succeeded: int

    @property
    def rate(self) -> float:
        """The share of runs that succeeded."""
        return self.succeeded / self.finished


@dataclass(frozen=True, slots=True)
class RowsEffect:
    """Whether duration follows rows, and whether rows explain its change.

    `explains` is None if nothing changed, or duration does not follow rows.
    """

    correlation: Correlation
    follows: bool
    explains: bool | None


@dataclass(frozen=True, slots=True)
class Need:
    """An answer that lacks data: how much of what it needs, and how much it has."""

    answer: str
    needs: int
    has: int
    of: str


@dataclass(frozen=True, slots=True)
class FlowTrends:
    """All answers about one flow. `timed` are the successful runs, whose durations count."""

    flow: str
    runs: tuple[FlowRun, ...]
    timed: tuple[FlowRun, ...]
    change: Change | None
    tasks: tuple[TaskShare, ...]
    calendar: tuple[CalendarEffect, ...] | None
    retries: Retries
    days: tuple[Day, ...]
    target: float | None
    rows: RowsEffect | None
    unanswered: tuple[Need, ...]

    @property
    def median(self) -> float | None:
        """Median duration of the runs that succeeded."""
        return median(map(seconds, self.timed)) if self.timed else None

    @property
    def success_rate(self) -> float | None:
        """The share of successes among the finished runs."""
        finished = sum(day.finished for day in self.days)
        return sum(day.succeeded for day in self.days) / finished if finished else None

    @property
    def missed(self) -> tuple[Day, ...]:
        """The days with a success rate below the target."""
        return tuple(day for day in self.days if self.target and day.rate < self.target)


def seconds(run: FlowRun) -> float:
    """Return the duration of a run in seconds."""
    return run.duration / 1e9


def weekday_medians(runs: Iterable[FlowRun]) -> Iterator[tuple[str, float, int]]:
    """Yield each weekday that has runs, its median duration and its number of runs."""
    by_weekday: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        by_weekday[local_time(run.start).weekday()].append(seconds(run))
    for weekday, values in sorted(by_weekday.items()):
        yield calendar.day_name[weekday], median(values), len(values)


def answer(runs: Iterable[FlowRun], target: float | None = None) -> FlowTrends:
    """Answer every question about the runs of one flow.

    Args:
        runs: At least one run of the same flow, in any order.
        target: The share of runs that should succeed each day, if an objective sets one.
    """
    ordered = tuple(sorted(runs, key=lambda run: run.start))
    # Failed runs may end early, and cancelled runs do, so neither shows how long the work takes.
    timed = tuple(run for run in ordered if run.succeeded)
    points = _points(timed, seconds)
    days = _by_day(timed)
    change = _change(timed, points)
    return FlowTrends(
        flow=ordered[-1].flow,
        runs=ordered,
        timed=timed,
        change=change,
        tasks=_tasks(timed),
        calendar=_calendar(days, points, change) if len(days) >= ENOUGH_DAYS else None,
        retries=_retries(ordered),
        days=tuple(_days(ordered)),
        target=target,
        rows=_rows(timed, change),
        unanswered=tuple(_unanswered(timed, len(days))),
    )


def _by_day(runs: Iterable[FlowRun]) -> dict[dt.date, list[FlowRun]]:
    days: dict[dt.date, list[FlowRun]] = defaultdict(list)
    for run in runs:
        days[local_time(run.start).date()].append(run)
    return days


def _points(runs: Sequence[FlowRun], value: Callable[[FlowRun], float]) -> tuple[Point, ...]:
    """List a value by run, or by day if there are enough days."""
    days = _by_day(runs)
    groups = days.values() if len(days) >= ENOUGH_FOR_STEP else [[run] for run in runs]
    return tuple(
        Point(median(run.start for run in group), median(map(value, group))) for group in groups
    )


def _trend(points: Sequence[Point]) -> Trend | None:
    """Test for a trend per day."""
    times = [(point.time - points[0].time) / _DAY for point in points]
    return statistics.trend(times, [point.value for point in points])


# What changed


def _change(timed: Sequence[FlowRun], points: Sequence[Point]) -> Change | None:
    if len(timed) < ENOUGH_FOR_TREND or (trend := _trend(points)) is None:
        return None
    values = [point.value for point in points]
    step = statistics.step(values) if len(points) >= ENOUGH_FOR_STEP else None
    kind, p = _kind(points, trend, step)
    is_step = kind == "step" and step is not None
    before, after = (step.before, step.after) if is_step and step else (trend.start, trend.end)
    if abs(after - before) < _LEAST_CHANGE * median(values):
        kind = None
    place = points[step.index].time if step else None
    return Change(
        kind=kind,
        trend=trend,
        step=step,
        date=local_time(int(place)).date() if place else None,
        before=before,
        after=after,
        p=p,
        task=_task_of(timed, place if is_step else None, after - before) if kind else None,
    )


def _kind(
    points: Sequence[Point], trend: Trend, step: StepChange | None
) -> tuple[Literal["trend", "step"] | None, float]:
    """Choose between a trend and a step, because the test of each also responds to the other.

    The one closer to the values wins. Both p-values are adjusted for two questions.
    """
    if step is None:
        return ("trend" if trend.p < LEVEL else None), trend.p
    by_trend, by_step = statistics.holm([trend.p, step.p])
    from_trend = sum(abs(point.value - _on_line(trend, points[0], point.time)) for point in points)
    from_step = sum(
        abs(point.value - (step.before if place < step.index else step.after))
        for place, point in enumerate(points)
    )
    if by_step < LEVEL and (by_trend >= LEVEL or from_step < from_trend):
        return "step", by_step
    return ("trend" if by_trend < LEVEL else None), by_trend


def _on_line(trend: Trend, first: Point, time: float) -> float:
    return trend.start + trend.slope * (time - first.time) / _DAY


def _task_of(timed: Sequence[FlowRun], place: float | None, change: float) -> TaskChange | None:
    """Find the task whose time on the critical path changed most from before to after a step.

    Without the place of a step, compare the first third of the runs with the last.
    """
    third = max(1, len(timed) // 3)
    if place is None:
        before, after = timed[:third], timed[-third:]
    else:
        before = [run for run in timed if run.start < place]
        after = [run for run in timed if run.start >= place]
    if not (before and after):
        return None
    names = {name for run in timed for name in run.tasks}
    changes = [
        TaskChange(name, _median_path(before, name), _median_path(after, name))
        for name in sorted(names)
    ]
    sign = 1 if change > 0 else -1
    most = max(changes, key=lambda one: sign * (one.after - one.before), default=None)
    whole = median(map(seconds, after)) - median(map(seconds, before))
    if most is None or sign * (most.after - most.before) < _LEAST_EXPLAINED * abs(whole):
        return None
    return most


def _median_path(runs: Iterable[FlowRun], task: str) -> float:
    return median(_path(run, task) for run in runs)


def _path(run: FlowRun, task: str) -> float:
    return run.tasks[task].path / 1e9 if task in run.tasks else 0.0


def _share(run: FlowRun, task: str) -> float:
    return run.tasks[task].share if task in run.tasks else 0.0


def _tasks(timed: Sequence[FlowRun]) -> tuple[TaskShare, ...]:
    """Return each task's share over time, the largest first."""
    found = []
    for name in {name for run in timed for name in run.tasks}:
        points = _points(timed, lambda run, name=name: _share(run, name))  # type: ignore[misc]
        share = median(_share(run, name) for run in timed)
        is_tested = len(timed) >= ENOUGH_FOR_TREND and share >= _LEAST_SHARE
        trend = _trend(points) if is_tested else None
        found.append(TaskShare(name, share, _median_path(timed, name), points, trend))
    found.sort(key=lambda task: (-task.share, task.name))
    return tuple(_raised(found))


def _raised(tasks: Sequence[TaskShare]) -> Iterator[TaskShare]:
    tested = [task.trend.p for task in tasks if task.trend is not None]
    raised = iter(statistics.holm(tested))
    for task in tasks:
        if task.trend is None:
            yield task
        else:
            yield replace(task, trend=replace(task.trend, p=next(raised)))


# When it is slow


def _calendar(
    days: Mapping[dt.date, Sequence[FlowRun]], points: Sequence[Point], change: Change | None
) -> tuple[CalendarEffect, ...]:
    """Find weekdays and parts of the month that differ, after removing the change over time.

    One family of tests asks whether weekdays differ at all, and about each part of the month. Only
    if weekdays differ, a second family asks which ones.
    """
    values = {
        day: median(map(seconds, runs)) - _expected(day, runs, points, change)
        for day, runs in days.items()
    }
    middle = median(map(seconds, itertools.chain.from_iterable(days.values())))
    values = {day: value + middle for day, value in values.items()}
    weekdays = _groups((f"{calendar.day_name[day.weekday()]}s", day) for day in values)
    weekdays = {name: own for name, own in weekdays.items() if len(own) >= ENOUGH_OF_WEEKDAY}
    parts = _groups(
        (name, day) for name, is_in in _PARTS_OF_MONTH.items() for day in values if is_in(day)
    )
    parts = {
        name: own
        for name, own in parts.items()
        if len(own) < len(values) and len({(day.year, day.month) for day in own}) > 1
    }
    of_weekdays = statistics.differ([[values[day] for day in own] for own in weekdays.values()])
    effects = [_effect(name, own, values) for name, own in parts.items()]
    first, *others = statistics.holm([of_weekdays, *(effect.p for effect in effects)])
    telling = [replace(effect, p=p) for effect, p in zip(effects, others, strict=True)]
    # The last day is also one of the last days, so keep only the more certain effect.
    telling = sorted(filter(_is_telling, telling), key=lambda effect: effect.p)[:1]
    if first >= LEVEL:
        return tuple(telling)
    # Kruskal's test found several weekdays, so each has others to compare with.
    found = [_effect(name, own, values) for name, own in weekdays.items()]
    raised = statistics.holm([effect.p for effect in found])
    found = [replace(effect, p=p) for effect, p in zip(found, raised, strict=True)]
    return (*filter(_is_telling, found), *telling)


def _expected(
    day: dt.date, runs: Sequence[FlowRun], points: Sequence[Point], change: Change | None
) -> float:
    """Return the duration that the change over time alone predicts for a day."""
    if change is None or change.kind is None:
        return median(point.value for point in points)
    if change.kind == "step" and change.date is not None:
        return change.before if day < change.date else change.after
    return _on_line(change.trend, points[0], median(run.start for run in runs))


def _days_left(day: dt.date) -> int:
    return calendar.monthrange(day.year, day.month)[1] - day.day


_PARTS_OF_MONTH: Final[Mapping[str, Callable[[dt.date], bool]]] = {
    "the first day of the month": lambda day: day.day == 1,
    "the last day of the month": lambda day: _days_left(day) == 0,
    f"the last {_LAST_DAYS} days of the month": lambda day: _days_left(day) < _LAST_DAYS,
}


def _groups(named: Iterable[tuple[str, dt.date]]) -> dict[str, list[dt.date]]:
    groups: dict[str, list[dt.date]] = defaultdict(list)
    for name, day in named:
        groups[name].append(day)
    return groups


def _effect(name: str, own: Sequence[dt.date], values: Mapping[dt.date, float]) -> CalendarEffect:
    inside = [values[day] for day in own]
    outside = [value for day, value in values.items() if day not in set(own)]
    p = statistics.lies_apart(inside, outside)
    return CalendarEffect(name, len(own), median(inside), median(outside), p)


def _is_telling(effect: CalendarEffect) -> bool:
    is_large = abs(effect.inside - effect.outside) >= _LEAST_CHANGE * abs(effect.outside)
    return effect.p < LEVEL and is_large


# What fails


def _days(runs: Iterable[FlowRun]) -> Iterator[Day]:
    for date, of_day in sorted(_by_day(runs).items()):
        finished = [run for run in of_day if run.has_finished]
        if finished:
            yield Day(date, len(finished), sum(run.succeeded for run in finished))


def _retries(runs: Sequence[FlowRun]) -> Retries:
    found = [retry for run in runs for retry in run.retries]
    hours = tuple(_hours(runs))
    raised = statistics.holm([hour.p for hour in hours])
    hours = tuple(replace(hour, p=p) for hour, p in zip(hours, raised, strict=True))
    return Retries(
        count=len(found),
        runs=sum(bool(run.retries) for run in runs),
        by_task=Counter(retry.task for retry in found),
        by_error=Counter(retry.error for retry in found),
        hours=hours,
        telling=tuple(hour for hour in hours if hour.p < LEVEL),
    )


def _hours(runs: Iterable[FlowRun]) -> Iterator[Hour]:
    """Count started and retried tasks by hour, each task once per run.

    Retries of one task in one run have one cause, so they count once too.
    """
    started: Counter[int] = Counter()
    retried: Counter[int] = Counter()
    for run in runs:
        names = {retry.task for retry in run.retries}
        for task, time in run.started.items():
            hour = local_time(time).hour
            started[hour] += 1
            retried[hour] += task in names
    all_started, all_retried = started.total(), retried.total()
    is_enough = all_retried >= ENOUGH_RETRIED and len(started) > 1
    for hour, count in sorted(started.items()):
        hits = retried[hour]
        others = all_retried - hits, all_started - count
        yield Hour(
            hour, count, hits, statistics.more_often(hits, count, *others) if is_enough else 1.0
        )


# Whether it is the data


def _rows(timed: Sequence[FlowRun], change: Change | None) -> RowsEffect | None:
    counted = [run for run in timed if run.rows is not None]
    if len(counted) < ENOUGH_FOR_ROWS:
        return None
    rows = [float(run.rows or 0) for run in counted]
    durations = [seconds(run) for run in counted]
    found = statistics.correlation(rows, durations)
    if found is None:
        return None
    follows = found.rho >= _CLOSE and found.p < LEVEL
    explains = None
    if follows and change is not None and change.kind is not None:
        explains = not _changes_beyond_rows(counted, rows, durations)
    return RowsEffect(found, follows, explains)


def _changes_beyond_rows(
    runs: Sequence[FlowRun], rows: Sequence[float], durations: Sequence[float]
) -> bool:
    """Check whether the durations still change after removing the part that rows explain."""
    left = dict(zip((run.run_id for run in runs), statistics.without(rows, durations), strict=True))
    points = _points(runs, lambda run: left[run.run_id])
    trend = _trend(points)
    step = statistics.step([point.value for point in points])
    p_values = [found.p for found in (trend, step) if found is not None]
    return min(statistics.holm(p_values), default=1.0) < LEVEL


# What lacks data


def _unanswered(timed: Sequence[FlowRun], days: int) -> Iterator[Need]:
    counted = sum(run.rows is not None for run in timed)
    runs = "runs that succeeded"
    for need in (
        Need("a trend", ENOUGH_FOR_TREND, len(timed), runs),
        Need("a step", ENOUGH_FOR_STEP, len(timed), runs),
        Need("weekdays and month ends", ENOUGH_DAYS, days, f"days with {runs}"),
        Need("rows against duration", ENOUGH_FOR_ROWS, counted, f"{runs} and counted rows"),
    ):
        if need.has < need.needs:
            yield need
