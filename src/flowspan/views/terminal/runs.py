"""Write a list of flow runs in a terminal, a line each.

Columns that do not fit are left out, the least useful first. Readable without colour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.text import Text

from flowspan.text import clean, human, local, percent
from flowspan.views.headline import SHORT_ID
from flowspan.views.table import Column, fit, lines
from flowspan.views.terminal import outcomes
from flowspan.views.terminal.glyphs import glyphs_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowspan.analysis.flow_runs import FlowRun

_WIDE: Final = 100  # cells from which a start has its year
_MIN_NAME: Final = 10
_MIN_RESULT: Final = 11
_WHOLE_NAME: Final = 40  # a name is there to be copied, so it is whole or left out
_MIN_BOTTLENECK: Final = 12
_MIN_BROKEN: Final = 10


def draw(runs: Sequence[FlowRun], *, width: int, unicode: bool = True) -> Iterator[Text]:
    """Yield a line for the titles and one for each run.

    Args:
        runs: At least one.
        width: Maximum width of a line in cells.
        unicode: False uses only ASCII, for outputs that cannot show more.
    """
    form = "%Y-%m-%d %H:%M:%S" if width >= _WIDE else "%m-%d %H:%M:%S"
    columns = [
        Column("start", 1, [Text(local(run.start, form)) for run in runs]),
        Column("flow", 0, [_flow(run) for run in runs], _MIN_NAME),
        Column("run", 4, [Text(clean(run.name)) for run in runs], _WHOLE_NAME),
        Column("result", 2, [_result(run, unicode=unicode) for run in runs], _MIN_RESULT),
        Column("duration", 3, [Text(human(run.duration)) for run in runs]),
        Column("rows", 6, [_rows(run) for run in runs]),
        Column("bottleneck", 5, [_bottleneck(run) for run in runs], _MIN_BOTTLENECK),
        Column("violates", 7, [_broken(run) for run in runs], _MIN_BROKEN),
        Column("trace", 8, [Text(run.trace_id[:SHORT_ID], "dim") for run in runs], SHORT_ID),
    ]
    return lines(fit(columns, width), glyphs_of(unicode=unicode).more)


def _flow(run: FlowRun) -> Text:
    name = Text(clean(run.flow), "bold")
    if run.caller is not None:
        name.append(f" in {clean(run.caller.facts.flow_name)}", "not bold dim")
    return name


def _result(run: FlowRun, *, unicode: bool) -> Text:
    outcome = outcomes.of(run.result)
    word = outcomes.word(run.result, run.state)
    return Text(f"{outcome.glyph(unicode=unicode)} {word}", outcome.style)


def _rows(run: FlowRun) -> Text:
    return Text("" if run.rows_output is None else f"{run.rows_output:,}")


def _bottleneck(run: FlowRun) -> Text:
    task = run.bottleneck
    if task is None:
        return Text()
    # What is cut is on the right, so the share comes first.
    who = clean(task.name) + (" itself" if task.type == "flow" else "")
    return Text.assemble(f"{percent(task.share)} {who}", (f" ({task.cause})", "dim"))


def _broken(run: FlowRun) -> Text:
    return Text(", ".join(map(clean, run.broken)), "yellow")
