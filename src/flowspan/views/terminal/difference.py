"""Draw the difference between two runs in a terminal: a sentence, and a line for each name."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich.text import Text

from flowspan import semconv
from flowspan.analysis.one_trace import Task
from flowspan.analysis.two_traces import Difference, PathChange, Volume
from flowspan.text import clean, human, moment
from flowspan.views.headline import difference_headline, remarks, times
from flowspan.views.table import Column, cut, fit, lines
from flowspan.views.terminal.glyphs import Glyphs, glyphs_of

_LEAST_PART: Final = 1_000
"""A change below this share of the longer run has no line of its own."""

_MIN_NAME: Final = 16
_STYLES: Final = {"success": "green", **dict.fromkeys(semconv.ERROR_RESULTS, "red")}


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of the table: a name, the remaining names, or the whole run."""

    label: Text
    before: int
    after: int
    change: PathChange | None = None


def draw(
    found: Difference, *, width: int, unicode: bool = True, everything: bool = False
) -> Iterator[Text]:
    """Yield the lines that explain a difference.

    Args:
        found: The difference to draw.
        width: Maximum width of a line in cells, except for sentences.
        unicode: False uses only ASCII, for outputs that cannot show more.
        everything: Also show names that hardly changed.
    """
    glyphs = glyphs_of(unicode=unicode)
    yield from lines(fit(_sides(found), width), glyphs.more)
    yield Text()
    yield Text(glyphs.spell(difference_headline(found)), "bold")
    for remark in remarks(found):
        yield Text(clean(remark), "yellow")
    yield Text()
    rows = list(_rows(found, glyphs, everything=everything))
    columns = _columns(rows, glyphs)
    yield from lines(fit(columns, width), glyphs.more)
    yield Text()
    yield cut(Text("A, B, change: time on the critical path", "dim"), width, glyphs.more)


def _sides(found: Difference) -> list[Column]:
    sides = (found.before, found.after)
    results = (side.result or "" for side in sides)

    def column(title: str, rank: int, texts: Iterable[str | None], style: str = "") -> Column:
        return Column(title, rank, [Text(clean(text), style) for text in texts], _MIN_NAME)

    return [
        column("", 0, ("A", "B")),
        column("flow", 1, (side.name for side in sides), "bold"),
        column("run", 4, (side.run_name for side in sides)),
        Column("result", 3, [Text(clean(r), _STYLES.get(r, "")) for r in results], _MIN_NAME),
        Column("duration", 2, [Text(human(side.duration)) for side in sides]),
        column("started", 5, (moment(side.analysis.start) for side in sides), "dim"),
        column("trace", 6, (side.trace_id for side in sides), "dim"),
    ]


def _rows(found: Difference, glyphs: Glyphs, *, everything: bool) -> Iterator[_Row]:
    least = max(found.before.duration, found.after.duration) // _LEAST_PART
    shown = [c for c in found.changes if everything or abs(c.path) > least or _is_other(c)]
    for change in shown:
        yield _Row(Text(change.title), _path(change.before), _path(change.after), change)
    rest = [change for change in found.changes if change not in shown]
    if rest:
        before = sum(_path(change.before) for change in rest)
        after = sum(_path(change.after) for change in rest)
        yield _Row(Text(f"{glyphs.more} {len(rest):,} more", "dim"), before, after)
    yield _Row(Text("the whole run", "bold"), found.before.duration, found.after.duration)


def _is_other(change: PathChange) -> bool:
    """Check whether the number of runs, retries or failures changed."""
    old, new = change.before, change.after
    return old is None or new is None or any(_count(old, new, get) for get in _COUNTS.values())


def _path(task: Task | None) -> int:
    return task.path if task else 0


_COUNTS: Final[dict[str, Callable[[Task], int]]] = {
    "runs": lambda task: task.runs,
    "retries": lambda task: task.retries,
    "failed": lambda task: task.failed,
}


def _count(old: Task, new: Task, get: Callable[[Task], int]) -> bool:
    return get(old) != get(new)


def _columns(rows: Sequence[_Row], glyphs: Glyphs) -> list[Column]:
    def texts(write: Callable[[PathChange], str]) -> list[Text]:
        return [Text(glyphs.spell(write(row.change)) if row.change else "") for row in rows]

    return [
        Column("task", 0, [row.label for row in rows], _MIN_NAME),
        Column("A", 2, [Text(human(row.before)) for row in rows]),
        Column("B", 3, [Text(human(row.after)) for row in rows]),
        Column("change", 1, [_signed(row.after - row.before) for row in rows]),
        Column("mostly", 4, texts(_mostly), _MIN_NAME),
        *(
            Column(name, rank, [_pair(row.change, get, glyphs) for row in rows])
            for rank, (name, get) in enumerate(_COUNTS.items(), 7)
        ),
        Column("rows", 5, texts(lambda change: _volume(change, _row_counts, glyphs))),
        Column("rows per second", 6, texts(lambda change: _volume(change, _rates, glyphs))),
    ]


def _signed(change: int) -> Text:
    if not change:
        return Text("0")
    return Text(
        f"{'+' if change > 0 else '-'}{human(abs(change))}", "red" if change > 0 else "green"
    )


def _mostly(change: PathChange) -> str:
    if change.before is None or change.after is None:
        return "new" if change.before is None else "gone"
    return change.cause or ""


def _pair(change: PathChange | None, get: Callable[[Task], int], glyphs: Glyphs) -> Text:
    """Write a count of both sides, only once if they are equal, and empty if both are 0."""
    if change is None:
        return Text()
    old, new = (get(task) if task else 0 for task in (change.before, change.after))
    if old == new:
        return Text(f"{new:,}" if new else "")
    return Text(f"{old:,} {glyphs.arrow} {new:,}")


def _volume(change: PathChange, write: Callable[[Volume, Glyphs], str], glyphs: Glyphs) -> str:
    return write(change.volume, glyphs) if change.volume else ""


def _row_counts(volume: Volume, glyphs: Glyphs) -> str:
    old, new = volume.rows
    if old == new:
        return f"{new:,}"
    return f"{old:,} {glyphs.arrow} {new:,} ({times(volume.ratio)})"


def _rates(volume: Volume, glyphs: Glyphs) -> str:
    old, new = volume.rates
    return f"{old:,.0f} {glyphs.arrow} {new:,.0f} ({times(1 / volume.per_row)})"
