"""Draw trends in a terminal: a line for each flow and task, and sentences below each flow.

Columns that do not fit are left out, the least useful first. Readable without colour.
"""

from __future__ import annotations

from statistics import median
from textwrap import wrap
from typing import TYPE_CHECKING, Final, NamedTuple

from rich.text import Text

from flowspan.analysis.trends.answers import seconds
from flowspan.text import clean, moment, rate
from flowspan.views.table import Column, cut, fit, lines
from flowspan.views.terminal.glyphs import Glyphs, glyphs_of
from flowspan.views.trend_words import duration, growth, percent, sentences

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from flowspan.analysis.trends.answers import FlowTrends, TaskShare

_MIN_WIDTH: Final = 48
_MIN_NAME: Final = 20
_TASKS: Final = 8  # shown per flow, the largest shares first
_SPARKS: Final = 24  # cells of a sparkline
_TONES: Final = {"bad": "red", "good": "green", "plain": "", "unknown": "dim"}
_EXPLANATION: Final = (
    "durations: of runs that succeeded; tasks: median share of the critical path",
    "pp: percentage points",
    "a change is reported only if p < 0.01",
)


class _Row(NamedTuple):
    """A line of the table."""

    label: Text
    runs: str
    success: Text
    typical: str
    sparks: str
    change: str


def draw(flows: Sequence[FlowTrends], *, width: int, unicode: bool = True) -> Iterator[Text]:
    """Yield the lines of the trends.

    Args:
        flows: At least one flow, with at least one run each.
        width: Maximum width of a line in cells.
        unicode: False uses only ASCII, for outputs that cannot show more.
    """
    glyphs = glyphs_of(unicode=unicode)
    width = max(width, _MIN_WIDTH)
    start = min(flow.runs[0].start for flow in flows)
    end = max(run.end for flow in flows for run in flow.runs)
    yield cut(Text(f"from {moment(start)} to {moment(end)}", "dim"), width, glyphs.more)
    yield Text()
    blocks = [[*_rows(flow, start, end, glyphs)] for flow in flows]
    titles, *drawn = lines(fit(_columns(blocks), width), glyphs.more)
    yield titles
    rows = iter(drawn)
    for flow, block in zip(flows, blocks, strict=True):
        for _ in block:
            yield next(rows)
        for sentence in sentences(flow):
            yield from _bullet(glyphs.spell(sentence.text), _TONES[sentence.tone], width)
        yield Text()
    for line in wrap("; ".join(_EXPLANATION), width):
        yield Text(line, "dim")


def _columns(blocks: Iterable[Iterable[_Row]]) -> list[Column]:
    rows = [row for block in blocks for row in block]
    return [
        Column("flow / task", 0, [row.label for row in rows], _MIN_NAME),
        Column("runs", 1, [Text(row.runs) for row in rows]),
        Column("success", 4, [row.success for row in rows]),
        Column("median", 2, [Text(row.typical) for row in rows]),
        Column("over time", 3, [Text(row.sparks) for row in rows], _SPARKS),
        Column("change", 5, [Text(row.change) for row in rows]),
    ]


def _rows(flow: FlowTrends, start: int, end: int, glyphs: Glyphs) -> Iterator[_Row]:
    middle = flow.median
    values = [(float(run.start), seconds(run)) for run in flow.timed]
    yield _Row(
        Text(clean(flow.flow), "bold"),
        f"{len(flow.runs):,}",
        _success(flow),
        "" if middle is None else duration(middle),
        _sparks(values, start, end, glyphs.levels),
        _growth(flow),
    )
    shown = [task for task in flow.tasks if task.share > 0][:_TASKS]
    for task in shown:
        guide = glyphs.last if task is shown[-1] else glyphs.fork
        yield _Row(
            Text.assemble((guide, "dim"), clean(task.name)),
            "",
            Text(),
            percent(task.share),
            _sparks([(p.time, p.value) for p in task.points], start, end, glyphs.levels),
            _points(task),
        )


def _success(flow: FlowTrends) -> Text:
    share = flow.success_rate
    if share is None:
        return Text()
    return Text(rate(share), "red" if share < (flow.target or 0) else "")


def _growth(flow: FlowTrends) -> str:
    change = flow.change
    if change is None or change.kind is None:
        return ""
    return growth(change.before, change.after)


def _points(task: TaskShare) -> str:
    if task.trend is None or not task.is_changing:
        return ""
    return f"{(task.trend.end - task.trend.start) * 100:+.0f} pp"


def _sparks(values: Sequence[tuple[float, float]], start: int, end: int, levels: str) -> str:
    """Draw the medians of equal periods from 0 up; a period without a run is blank."""
    cells: dict[int, list[float]] = {}
    for time, value in values:
        place = int((time - start) / max(1, end - start) * _SPARKS)
        cells.setdefault(min(_SPARKS - 1, max(0, place)), []).append(value)
    medians = {place: median(of_cell) for place, of_cell in cells.items()}
    most = max(medians.values(), default=0.0)
    if most <= 0:
        return ""
    return "".join(
        levels[min(len(levels) - 1, int(max(0.0, medians[place]) / most * len(levels)))]
        if place in medians
        else " "
        for place in range(_SPARKS)
    )


def _bullet(text: str, style: str, width: int) -> Iterator[Text]:
    first, *rest = wrap(text, width - 4)
    yield Text.assemble("  - ", (first, style))
    for line in rest:
        yield Text.assemble("    ", (line, style))
