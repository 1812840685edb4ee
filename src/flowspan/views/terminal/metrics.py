"""Draw a report in a terminal: a line for each flow, and below it one for each of its tasks.

Columns that do not fit are left out, the least useful first. Readable without colour: every outcome
has its own symbol.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.cells import cell_len
from rich.text import Text

from flowspan.analysis.run_metrics import CustomMetric, FlowRuns, Report, Runs
from flowspan.text import clean, human, moment, rate
from flowspan.views.table import Column, cut, fit, legend, lines
from flowspan.views.terminal.glyphs import Glyphs, glyphs_of

_MIN_WIDTH: Final = 48
_MIN_NAME: Final = 24
_LEAST_WAIT: Final = 0.0005  # seconds: shorter waits are not shown, as in the timeline
_SMALL: Final = 1e-4  # beyond these two, numbers read best with an exponent
_LARGE: Final = 1e15
_PLAIN_STATE: Final = "Completed"

_MEANINGS: Final = {
    "success": "success: without cancelled and skipped runs",
    "p95": "p50, p95: estimated from buckets",
    "rows out": "rows: of all runs",
    "mean wait": "mean wait: per run",
}


@dataclass(frozen=True, slots=True)
class _Row:
    """A flow or task, the guides before its name, and the guides that continue below it."""

    runs: Runs
    guides: str
    below: str


def draw(report: Report, *, width: int, unicode: bool = True) -> Iterator[Text]:
    """Yield the lines of a report.

    Args:
        report: The report to draw.
        width: Maximum width of a line in cells.
        unicode: False uses only ASCII, for outputs that cannot show more.
    """
    glyphs = glyphs_of(unicode=unicode)
    width = max(width, _MIN_WIDTH)
    time = f"from {moment(report.start)} to {moment(report.end)}"
    yield cut(Text(time, "dim"), width, glyphs.more)
    if report.flows:
        yield Text()
        yield from _runs_table(list(_rows(report.flows, glyphs)), width, glyphs)
    if report.metrics:
        yield Text()
        yield from lines(fit(_metric_columns(report.metrics), width), glyphs.more)


def _rows(flows: Sequence[FlowRuns], glyphs: Glyphs) -> Iterator[_Row]:
    for flow in flows:
        yield _Row(flow, "", glyphs.through if flow.tasks else "   ")
        for number, task in enumerate(flow.tasks.values(), 1):
            is_last = number == len(flow.tasks)
            guide, under = (glyphs.last, "   ") if is_last else (glyphs.fork, glyphs.through)
            yield _Row(task, guide, under + "   ")


def _runs_table(rows: Sequence[_Row], width: int, glyphs: Glyphs) -> Iterator[Text]:
    columns = fit(_runs_columns(rows, glyphs), width)
    titles, *drawn = lines(columns, glyphs.more)
    yield titles
    for row, line in zip(rows, drawn, strict=True):
        yield line
        for text, style in _notes(row.runs):
            note = Text().append(row.below, style="dim")
            yield note.append_text(cut(Text(text, style), width - note.cell_len, glyphs.more))
    yield Text()
    yield from legend((_MEANINGS.get(column.title) for column, _ in columns), width)


def _runs_columns(rows: Sequence[_Row], glyphs: Glyphs) -> list[Column]:
    runs = [row.runs for row in rows]
    waits = [_waits(each) for each in runs]
    return [
        Column("flow / task", 0, [_label(row) for row in rows], _MIN_NAME),
        Column("runs", 1, [_count(each.count or None) for each in runs]),
        Column("success", 2, [_success(each.success_rate, glyphs) for each in runs]),
        Column("p50", 4, [_quantile(each, 0.5) for each in runs]),
        Column("p95", 3, [_quantile(each, 0.95) for each in runs]),
        Column("max", 8, [_quantile(each, 1.0) for each in runs]),
        Column("rows in", 9, [_count(each.rows.get("input")) for each in runs]),
        Column("rows out", 6, [_count(each.rows.get("output")) for each in runs]),
        Column("retries", 7, [_count(each.retries.total() or None) for each in runs]),
        Column("mean wait", 5, waits, _width_of_first(waits, glyphs)),
    ]


def _metric_columns(metrics: Sequence[CustomMetric]) -> list[Column]:
    def column(title: str, rank: int, texts: Iterable[object]) -> Column:
        return Column(title, rank, [Text(clean(text)) for text in texts], _MIN_NAME)

    return [
        column("metric", 0, (metric.name for metric in metrics)),
        column("flow", 3, (metric.flow for metric in metrics)),
        column("task", 2, (metric.task for metric in metrics)),
        column("attributes", 4, (_attributes(metric.attributes) for metric in metrics)),
        Column("last value", 1, [Text(_value(metric)) for metric in metrics]),
        Column("at", 5, [Text(moment(metric.time), "dim") for metric in metrics], 26),
    ]


def _label(row: _Row) -> Text:
    label = Text().append(row.guides, style="dim")
    if isinstance(row.runs, FlowRuns):
        return label.append(clean(row.runs.name) or "(no flow)", style="bold")
    return label.append(clean(row.runs.name) or "(no name)")


def _count(count: int | None) -> Text:
    return Text("" if count is None else f"{count:,}")


def _success(share: float | None, glyphs: Glyphs) -> Text:
    if share is None:
        return Text()
    symbol, style = (glyphs.success, "green") if share == 1 else (glyphs.failure, "red")
    return Text(f"{symbol} {rate(share):>6}", style)


def _quantile(runs: Runs, share: float) -> Text:
    seconds = runs.duration.quantile(share)
    return Text("" if seconds is None else _human(seconds))


def _waits(runs: Runs) -> Text:
    """Write the mean waits of a run, the longest first."""
    means = [  # runs that have not ended may have waited already
        (waited.total / max(runs.count, waited.count), name)
        for name, waited in runs.waits.items()
        if waited.count
    ]
    telling = sorted((mean for mean in means if mean[0] >= _LEAST_WAIT), reverse=True)
    return Text(", ".join(f"{clean(name)} {_human(mean)}" for mean, name in telling))


def _width_of_first(lists: Sequence[Text], glyphs: Glyphs) -> int:
    """Return the width that the first part of each list needs."""
    firsts = (text.plain.partition(", ") for text in lists)
    return max(
        cell_len(first) + (cell_len(glyphs.more) if rest else 0) for first, rest, _ in firsts
    )


def _human(seconds: float) -> str:
    return human(round(seconds * 1_000_000_000))


def _notes(runs: Runs) -> Iterator[tuple[str, str]]:
    """Yield the notes below a row with their style: ends but Completed, errors, violations."""
    ends = _counts({name: n for name, n in runs.states.items() if name != _PLAIN_STATE})
    errors, retried = _counts(runs.errors), _counts(runs.retries)
    if isinstance(runs, FlowRuns):
        parts = [ends, errors and f"errors in it and its tasks: {errors}"]
    else:
        parts = [
            f"{ends} ({errors})" if ends and errors else ends or errors,
            retried and f"retried after {retried}",
        ]
    if any(parts):
        yield "; ".join(filter(None, parts)), "dim" if runs.success_rate in (None, 1) else "red"
    if isinstance(runs, FlowRuns) and runs.violations:
        yield f"objectives violated: {_counts(runs.violations)}", "yellow"


def _counts(counts: Mapping[str, int]) -> str:
    most_first = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{clean(name)} {count:,}" for name, count in most_first if count)


def _attributes(attributes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(attributes.items()))


def _value(metric: CustomMetric) -> str:
    unit = clean(metric.unit).strip("{}")  # UCUM puts annotations such as {row} in braces
    return f"{_number(metric.value)} {unit}".rstrip()


def _number(value: float) -> str:
    """Write a number with six significant digits, but with all digits before the point."""
    if isinstance(value, int):
        return f"{value:,}"
    if not _SMALL <= abs(value) < _LARGE:
        return f"{value:g}"
    decimals = max(2, 5 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}".rstrip("0").rstrip(".")
