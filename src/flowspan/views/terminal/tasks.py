"""Write an analysis in a terminal: a table of tasks, and sentences about the whole run."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, Final

from rich.text import Text

from flowspan.text import MS, clean, human, percent
from flowspan.views.headline import reservations
from flowspan.views.table import Column, fit, legend, lines
from flowspan.views.terminal.glyphs import Glyphs, glyphs_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from flowspan.analysis.one_trace import Analysis, Task
    from flowspan.analysis.phases import Cause

TOP: Final = 10
"""Tasks listed by default."""

_MIN_NAME: Final = 16
_LEAST_WAITS: Final = 12

_MEANINGS: Final = {
    "path": "path: time on the critical path",
    "slack": "slack: spare time before it delays the run",
    "drag": "drag: time saved if it took no time",
    "2× faster": "2× faster: time saved if it ran twice as fast",
    "2x faster": "2x faster: time saved if it ran twice as fast",
}
_FEWER_ANSWERS: Final = {
    "prefect": "Prefect's own spans have no waits, links or slots: only times and parents count.",
    "plain": "no spans of runs: only times and parents count, as in Jaeger.",
}


def draw(analysis: Analysis, *, width: int, unicode: bool, top: int = TOP) -> Iterator[Text]:
    """Yield the lines of the summary.

    Args:
        analysis: The analysis to write.
        width: Maximum width of a line in cells.
        unicode: False uses only ASCII.
        top: How many tasks to list, the largest shares of the critical path first.
    """
    glyphs = glyphs_of(unicode=unicode)
    shown = analysis.tasks[:top]
    if shown:
        columns = fit(_columns(shown, glyphs, has_ended=analysis.open is None), width)
        yield from lines(columns, glyphs.more)
        if len(analysis.tasks) > len(shown):
            yield Text(
                f"{glyphs.more} {len(analysis.tasks) - len(shown):,} more: --top", "italic dim"
            )
        yield Text()
        if entries := list(filter(None, (_MEANINGS.get(column.title) for column, _ in columns))):
            yield from legend(entries, width)
            yield Text()
    for text in _sentences(analysis):
        yield from map(Text, wrap(text, width))


def _columns(tasks: Sequence[Task], glyphs: Glyphs, *, has_ended: bool) -> list[Column]:
    answers = [
        Column("slack", 6, [_time(task.slack) for task in tasks]),
        Column("drag", 5, [_time(task.drag) for task in tasks]),
        Column(glyphs.spell("2× faster"), 2, [_saved(task) for task in tasks]),
    ]
    return [
        Column("task", 0, [_name(task) for task in tasks], _MIN_NAME),
        Column("runs", 4, [Text(f"{task.runs:,}") for task in tasks]),
        Column("share", 1, [Text(percent(task.share) if task.path else "") for task in tasks]),
        Column("path", 3, [_time(task.path) for task in tasks]),
        *(answers if has_ended else ()),
        Column("waited, all runs", 7, [_waits(task.waits) for task in tasks], _LEAST_WAITS),
    ]


def _name(task: Task) -> Text:
    is_flow = task.type == "flow"
    name = Text(clean(task.name) or "(no name)", style="bold" if is_flow else "")
    return name.append(" itself", style="dim") if is_flow else name


def _time(nanoseconds: int | None) -> Text:
    if nanoseconds is None:
        return Text("?")
    return Text(human(nanoseconds) if nanoseconds >= MS // 2 else "")


def _saved(task: Task) -> Text:
    time = _time(task.saved)
    return Text(f"-{time.plain}", "green") if time and task.saved else time


def _waits(amounts: Mapping[Cause, int]) -> Text:
    told = [f"{cause} {human(amount)}" for cause, amount in amounts.items() if amount >= MS // 2]
    return Text(", ".join(told))


def _sentences(analysis: Analysis) -> Iterator[str]:
    duration = analysis.end - analysis.start
    if on_path := _parts(analysis.on_path, duration):
        yield f"critical path{'' if analysis.open is None else ' so far'}: {on_path}"
    if waited := _waits(analysis.waits).plain:
        yield f"waited, all runs: {waited}"
    if analysis.peak_concurrency:
        yield (
            f"parallel efficiency {percent(analysis.efficiency)}: {human(analysis.work)} of work,"
            f" {analysis.peak_concurrency:,} at once at most,"
            f" {analysis.mean_concurrency:.1f} on average"
        )
    if analysis.retry_cost >= MS // 2:
        on_path = human(analysis.retry_cost_on_path)
        yield f"retries cost {human(analysis.retry_cost)}, {on_path} of it on the critical path"
    if duration:
        share = percent(analysis.orchestration / duration)
        yield f"in no task: {human(analysis.orchestration)}, {share}"
    if analysis.source in _FEWER_ANSWERS:
        yield _FEWER_ANSWERS[analysis.source]
    yield from reservations(analysis)


def _parts(amounts: Mapping[Cause, int], whole: int) -> str:
    return ", ".join(f"{cause} {percent(amount / whole)}" for cause, amount in amounts.items())
