"""Write trends as one HTML page without scripts or network, with each chart's numbers in a table.

All text from traces is escaped, and the page's security policy forbids everything that it does not
need.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Final

from flowspan.analysis.flow_runs import local_time
from flowspan.analysis.trends.answers import seconds, weekday_medians
from flowspan.text import clean, moment, rate
from flowspan.views.html import charts
from flowspan.views.html.charts import Bar, Mark, TrendLine
from flowspan.views.trend_words import duration, growth, percent, sentences

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from flowspan.analysis.flow_runs import FlowRun
    from flowspan.analysis.trends.answers import FlowTrends, Hour, TaskShare

_LABELED_DAYS: Final = 10


def to_html(flows: Sequence[FlowTrends]) -> str:
    """Return the page of at least one flow."""
    style = (
        resources.files("flowspan.views.html").joinpath("assets", "trends.css").read_text("utf-8")
    )
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'"
    start = min(flow.runs[0].start for flow in flows)
    end = max(run.end for flow in flows for run in flow.runs)
    names = [_plain(flow.flow) for flow in flows]
    title = f"Trends of {names[0]}" if len(flows) == 1 else f"Trends of {len(flows):,} flows"
    links = "".join(f'<li><a href="#flow-{n}">{name}</a></li>' for n, name in enumerate(names))
    contents = f'<nav aria-label="Flows"><ul>{links}</ul></nav>' if len(flows) > 1 else ""
    sections = "\n".join(_section(number, flow) for number, flow in enumerate(flows))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="faint">from {moment(start)} to {moment(end)}; durations are those of runs that succeeded,
and a change is reported only if p &lt; 0.01</p>
{contents}
</header>
<main>
{sections}
</main>
</body>
</html>
"""


def _section(number: int, flow: FlowTrends) -> str:
    parts = [
        f'<section id="flow-{number}" aria-labelledby="name-{number}">',
        f'<h2 id="name-{number}">{_plain(flow.flow)}</h2>',
        _numbers(flow),
        _answers(flow),
        '<div class="charts">',
        *(made(flow) for made in (_duration, _tasks, _success, _weekdays, _rows, _retries)),
        "</div></section>",
    ]
    return "\n".join(filter(None, parts))


def _numbers(flow: FlowTrends) -> str:
    told = {"runs": f"{len(flow.runs):,}"}
    if flow.median is not None:
        told["median duration"] = duration(flow.median)
    if flow.success_rate is not None:
        told["success"] = rate(flow.success_rate)
    if flow.target is not None:
        told["target of success"] = percent(flow.target)
    change = flow.change
    if change is not None and change.kind is not None:
        told["change"] = growth(change.before, change.after)
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in told.items())
    return f"<dl>{items}</dl>"


def _answers(flow: FlowTrends) -> str:
    items = (f'<li class="{one.tone}">{_plain(one.text)}</li>' for one in sentences(flow))
    return f'<ul class="answers">{"".join(items)}</ul>'


def _duration(flow: FlowTrends) -> str:
    marks = [
        Mark(run.start, seconds(run), _kind(run), f"{moment(run.start)}: {duration(seconds(run))}")
        for run in flow.runs
        if run.result is not None
    ]
    if not marks:
        return ""
    chart = charts.over_time(marks, _fit(flow), duration, f"Duration of {flow.flow} over time")
    rows = [
        (moment(run.start), run.result or "not ended", duration(seconds(run)), _count(run.rows))
        for run in flow.runs
    ]
    table = _table(("start", "result", "duration", "rows"), rows, numbers=(2, 3))
    note = "Crosses are runs that did not succeed; the dashed line is the change."
    return _figure("Duration over time", chart, f"{len(rows):,} runs", table, note)


def _fit(flow: FlowTrends) -> Iterator[TrendLine]:
    """Yield the line of the certain change, if any, through the runs that succeeded."""
    change = flow.change
    if change is None or change.kind is None:
        return
    first, last = flow.timed[0].start, flow.timed[-1].start
    if change.kind == "trend":
        yield TrendLine([(first, change.before), (last, change.after)], "fit")
        return
    at = next(run.start for run in flow.timed if local_time(run.start).date() == change.date)
    corners = [(first, change.before), (at, change.before), (at, change.after)]
    yield TrendLine([*corners, (last, change.after)], "fit")


def _kind(run: FlowRun) -> str:
    return "run" if run.succeeded else "failed"


def _tasks(flow: FlowTrends) -> str:
    shown = [task for task in flow.tasks if task.share > 0]
    if not shown:
        return ""
    head = "".join(
        f'<th scope="col"{" class=number" * is_number}>{name}</th>'
        for name, is_number in (
            ("task", False),
            ("share", True),
            ("time", True),
            ("share over time", False),
            ("change", True),
        )
    )
    body = "".join(map(_task, shown))
    return (
        '<div><h3>Share of the critical path</h3><div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></div>"
    )


def _task(task: TaskShare) -> str:
    name = _plain(task.name)
    trend = task.trend
    change = ""
    if trend is not None and task.is_changing:
        change = f"{percent(max(0.0, trend.start))} → {percent(min(1.0, trend.end))}"
    chart = charts.spark([(p.time, p.value) for p in task.points], f"Share of {task.name}")
    return (
        f'<tr><th scope="row">{name}</th><td class="number">{percent(task.share)}</td>'
        f'<td class="number">{duration(task.seconds)}</td><td>{chart}</td>'
        f'<td class="number">{change}</td></tr>'
    )


def _success(flow: FlowTrends) -> str:
    if not flow.days:
        return ""
    every = -(-len(flow.days) // _LABELED_DAYS)
    columns = [
        Bar(
            f"{day.date:%d %b}" if number % every == 0 else "",
            day.rate,
            "missed" if day in flow.missed else "bar",
            f"{day.date}: {day.succeeded} of {day.finished}",
        )
        for number, day in enumerate(flow.days)
    ]
    chart = charts.bars(columns, 1.0, percent, f"Success of {flow.flow} by day", flow.target)
    rows = [
        (str(day.date), f"{day.finished:,}", f"{day.succeeded:,}", rate(day.rate))
        for day in flow.days
    ]
    table = _table(("day", "finished", "succeeded", "rate"), rows, numbers=(1, 2, 3))
    note = "The dashed line is the target." if flow.target is not None else ""
    return _figure("Success by day", chart, f"{len(rows):,} days", table, note)


def _weekdays(flow: FlowTrends) -> str:
    if flow.calendar is None:
        return ""
    found = [*weekday_medians(flow.timed)]
    highest = max(value for _, value, _ in found)
    columns = [
        Bar(name, value, "bar", f"{name}: {duration(value)}, {count} runs")
        for name, value, count in found
    ]
    chart = charts.bars(columns, highest, duration, f"Duration of {flow.flow} by weekday")
    rows = [(name, duration(value), f"{count:,}") for name, value, count in found]
    table = _table(("weekday", "median duration", "runs"), rows, numbers=(1, 2))
    return _figure("Duration by weekday", chart, "weekdays", table)


def _retries(flow: FlowTrends) -> str:
    found = flow.retries
    if not found.count:
        return ""
    by_hour = {hour.hour: hour for hour in found.hours}
    columns = [_hour(by_hour.get(hour), hour, found.telling) for hour in range(24)]
    highest = max(bar.y for bar in columns)
    chart = charts.bars(columns, highest, percent, f"Retried tasks of {flow.flow} by hour")
    rows = [
        (f"{hour.hour:02}:00", f"{hour.started:,}", f"{hour.retried:,}") for hour in found.hours
    ]
    table = _table(("hour", "tasks started", "retried"), rows, numbers=(1, 2))
    by_task = _counts("task", found.by_task.items())
    by_error = _counts("error", ((name or "(unknown)", n) for name, n in found.by_error.items()))
    figure = _figure("Retried tasks by hour of the day", chart, "hours", table)
    return f"{figure}<div><h3>Retries</h3>{by_task}{by_error}</div>"


def _hour(found: Hour | None, hour: int, telling: Sequence[Hour]) -> Bar:
    label = f"{hour:02}" if hour % 3 == 0 else ""
    if found is None:
        return Bar(label, 0.0, "bar", f"{hour:02}:00: no tasks")
    title = f"{hour:02}:00: {found.retried:,} of {found.started:,} tasks retried"
    return Bar(
        label, found.retried / found.started, "telling" if found in telling else "bar", title
    )


def _rows(flow: FlowTrends) -> str:
    if flow.rows is None:
        return ""
    counted = sorted((run.rows, seconds(run)) for run in flow.timed if run.rows is not None)
    marks = [Mark(n, took, "run", f"{n:,} rows: {duration(took)}") for n, took in counted]
    chart = charts.against(marks, _short, duration, f"Duration of {flow.flow} against rows")
    rows = [(f"{n:,}", duration(took)) for n, took in counted]
    table = _table(("rows", "duration"), rows, numbers=(0, 1))
    return _figure("Duration against rows", chart, f"{len(rows):,} runs", table)


def _counts(noun: str, counts: Iterable[tuple[str, int]]) -> str:
    most = Counter(dict(counts)).most_common()
    return _table((noun, "retries"), [(name, f"{number:,}") for name, number in most], numbers=(1,))


def _figure(title: str, chart: str, what: str, table: str, note: str = "") -> str:
    caption = f'<figcaption class="faint">{note}</figcaption>' if note else ""
    return (
        f"<div><h3>{title}</h3><figure>{chart}{caption}</figure>"
        f"<details><summary>Table: {what}</summary>{table}</details></div>"
    )


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[int]) -> str:
    kinds = [' class="number"' if place in numbers else "" for place in range(len(titles))]
    head = "".join(
        f'<th scope="col"{kind}>{_plain(text)}</th>'
        for kind, text in zip(kinds, titles, strict=True)
    )
    body = "".join(
        f"<tr>{''.join(f'<td{k}>{_plain(t)}</td>' for k, t in zip(kinds, row, strict=True))}</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _short(number: float) -> str:
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:g} {letter}"
    return f"{number:g}"


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _plain(text: str) -> str:
    return escape(clean(text))
