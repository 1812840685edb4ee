"""Put the answers about a flow into words. Only significant findings are stated as certain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from flowspan.analysis.trends.statistics import LEVEL
from flowspan.text import clean, human, signed_percent

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Mapping

    from flowspan.analysis.trends.answers import (
        CalendarEffect,
        Change,
        FlowTrends,
        Hour,
        RowsEffect,
        TaskShare,
    )

Tone: TypeAlias = Literal["bad", "good", "plain", "unknown"]

_LISTED = 5


class Sentence(NamedTuple):
    """One answer, and whether it is bad news."""

    text: str
    tone: Tone


def sentences(trends: FlowTrends) -> Iterator[Sentence]:
    """Yield the sentences about a flow, the most important first."""
    if trends.change is not None:
        yield _change(trends.change)
    if trends.rows is not None:
        yield _rows(trends.rows)
    for task in trends.tasks:
        if (found := _share(task)) is not None:
            yield found
    for effect in trends.calendar or ():
        yield _calendar(effect)
    yield from _success(trends)
    yield from _retries(trends)
    if trends.unanswered:
        parts = [f"{it.answer} ({it.has:,} of {it.needs} {it.of})" for it in trends.unanswered]
        yield Sentence(f"too few yet for {', '.join(parts)}", "unknown")


def duration(seconds: float) -> str:
    """Write seconds in readable units, a negative number with its sign."""
    sign = "-" if seconds < 0 else ""
    return sign + human(round(abs(seconds) * 1e9))


def percent(share: float) -> str:
    """Write a share from 0 to 1 in percent."""
    return f"{share * 100:.3g} %" if abs(share) < 0.1 else f"{share * 100:.0f} %"  # noqa: PLR2004


def probability(p: float) -> str:
    """Write a p-value."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"  # noqa: PLR2004


def growth(before: float, after: float) -> str:
    """Write the growth in percent with a sign."""
    return signed_percent((after - before) / before) if before > 0 else "from nothing"


def day(date: dt.date) -> str:
    """Write a date with its weekday."""
    return f"{date:%a %Y-%m-%d}"


def _signed(seconds: float) -> str:
    return duration(seconds) if seconds < 0 else f"+{duration(seconds)}"


def _change(change: Change) -> Sentence:
    p = probability(change.p)
    values = f"{duration(change.before)} → {duration(change.after)}"
    values += f" ({growth(change.before, change.after)})"
    if change.kind is None and change.p < LEVEL:
        return Sentence(f"no notable change of duration: {values}, {p}", "plain")
    if change.kind is None:
        return Sentence(f"no certain change of duration over time ({p})", "plain")
    is_slower = change.after > change.before
    if change.kind == "step" and change.date is not None:
        word = "slower" if is_slower else "faster"
        text = f"a step on {day(change.date)}, {word} since: {values}, {p}"
    else:
        word = "getting slower" if is_slower else "getting faster"
        interval = f"{_signed(change.trend.low)} to {_signed(change.trend.high)}"
        text = f"{word}: {values}, {_signed(change.trend.slope)} a day (95 %: {interval}), {p}"
    if (task := change.task) is not None:
        text += f"; mostly {clean(task.name)}, {duration(task.before)} → {duration(task.after)}"
    return Sentence(text, "bad" if is_slower else "good")


def _rows(rows: RowsEffect) -> Sentence:
    rho = f"rank correlation {rows.correlation.rho:.2f}"
    if not rows.follows:
        return Sentence(f"duration does not follow rows closely ({rho})", "plain")
    text = f"duration follows rows ({rho})"
    if rows.explains is None:
        return Sentence(text, "plain")
    if rows.explains:
        return Sentence(f"{text}: their number explains the change", "plain")
    return Sentence(f"{text}, but their number does not explain the change", "plain")


def _share(task: TaskShare) -> Sentence | None:
    trend = task.trend
    if trend is None or not task.is_changing:
        return None
    word = "growing" if trend.slope > 0 else "shrinking"
    start, end = (percent(min(1.0, max(0.0, share))) for share in (trend.start, trend.end))
    text = f"{clean(task.name)} takes a {word} share of the critical path: {start} → {end}"
    return Sentence(f"{text}, {probability(trend.p)}", "plain")


def _calendar(effect: CalendarEffect) -> Sentence:
    is_longer = effect.inside > effect.outside
    word = "longer" if is_longer else "shorter"
    values = f"{duration(effect.inside)} against {duration(effect.outside)} on other days"
    more = growth(effect.outside, effect.inside)
    count = f"{effect.count} days, {probability(effect.p)}"
    return Sentence(f"{word} on {effect.days}: {values} ({more}; {count})", "plain")


def _success(trends: FlowTrends) -> Iterator[Sentence]:
    target, days = trends.target, len(trends.days)
    if target is None or not days:
        return
    aim = f"the target of {percent(target)}"
    missed = trends.missed
    if not missed:
        yield Sentence(f"success was at {aim} or above on each of {_count(days, 'day')}", "good")
        return
    worst = sorted(missed, key=lambda one: (one.rate, one.date))[:_LISTED]
    listed = ", ".join(f"{one.date} ({one.succeeded} of {one.finished})" for one in worst)
    more = f" and {len(missed) - _LISTED:,} more" if len(missed) > _LISTED else ""
    text = f"success was below {aim} on {len(missed):,} of {_count(days, 'day')}: {listed}{more}"
    yield Sentence(text, "bad")


def _retries(trends: FlowTrends) -> Iterator[Sentence]:
    found = trends.retries
    if not found.count:
        return
    noun = "retry" if found.count == 1 else "retries"
    tasks = _counts({clean(name): number for name, number in found.by_task.items()})
    errors = _counts({clean(e or "(unknown)"): number for e, number in found.by_error.items()})
    runs = f"{found.runs:,} of {_count(len(trends.runs), 'run')}"
    yield Sentence(f"{found.count:,} {noun} in {runs}: {tasks}; after {errors}", "plain")
    for hour in found.telling:
        yield Sentence(_hour(hour, trends), "plain")


def _hour(hour: Hour, trends: FlowTrends) -> str:
    others = [other for other in trends.retries.hours if other.hour != hour.hour]
    retried, started = sum(o.retried for o in others), sum(o.started for o in others)
    until = (hour.hour + 1) % 24
    return (
        f"retries are more frequent from {hour.hour:02}:00 to {until:02}:00: {hour.retried:,} of "
        f"{hour.started:,} tasks, at other hours {retried:,} of {started:,}, {probability(hour.p)}"
    )


def _counts(counts: Mapping[str, int]) -> str:
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(most) - _LISTED:,} more" if len(most) > _LISTED else ""
    return ", ".join(f"{name} {number:,}" for name, number in most[:_LISTED]) + more


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
