"""Lay out a table in a terminal. Columns that do not fit are left out, the least useful first."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len
from rich.text import Text

GAP: Final = 2
"""Cells between columns."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    `rank` is its priority for room, 0 first. Text may be cut to `least` cells, numbers may not.
    """

    title: str
    rank: int
    cells: Sequence[Text]
    least: int | None = None

    @property
    def width(self) -> int:
        """The width of its longest cell, in terminal cells."""
        return max(map(cell_len, (self.title, *(cell.plain for cell in self.cells))))

    @property
    def needs(self) -> int:
        """The smallest useful width, in terminal cells."""
        return self.width if self.least is None else min(self.least, self.width)


def fit(columns: Sequence[Column], width: int) -> list[tuple[Column, int]]:
    """Choose the columns that fit and are not empty, each with its width."""
    widths: dict[str, int] = {}
    room = width + GAP
    by_rank = sorted(columns, key=lambda column: column.rank)
    for column in by_rank:
        if any(cell.plain for cell in column.cells) and column.needs + GAP <= room:
            widths[column.title] = column.needs
            room -= column.needs + GAP
    for column in by_rank:
        if column.title in widths:
            more = min(room, column.width - column.needs)
            widths[column.title] += more
            room -= more
    return [(column, widths[column.title]) for column in columns if column.title in widths]


def lines(columns: Sequence[tuple[Column, int]], more: str) -> Iterator[Text]:
    """Yield the titles and then the rows as lines; `more` marks a cut text."""
    titles = [Text(column.title, "dim") for column, _ in columns]
    for cells in (titles, *zip(*(column.cells for column, _ in columns), strict=True)):
        line = Text()
        for (column, width), cell in zip(columns, cells, strict=True):
            fitted = cut(cell, width, more)
            padding = " " * (width - fitted.cell_len)
            parts = (padding, fitted) if column.least is None else (fitted, padding)
            line = Text.assemble(line, " " * GAP if line else "", *parts)
        line.rstrip()
        yield line


def cut(text: Text, width: int, more: str) -> Text:
    """Shorten a text that is too long; a list is cut after a whole part if possible."""
    if text.cell_len <= width:
        return text
    short = text.copy()
    short.truncate(width - cell_len(more))
    whole = text.plain.rfind(", ", 0, len(short.plain) + 2)
    return short[:whole].append(more) if whole > 0 else short.append(more)


def legend(entries: Iterable[str | None], width: int) -> Iterator[Text]:
    """Yield lines that explain a table, with as many entries side by side as fit."""
    line = ""
    for entry in filter(None, entries):
        if line and cell_len(line) + 3 + cell_len(entry) > width:
            yield Text(line, "dim")
            line = ""
        line += f"   {entry}" if line else entry
    yield Text(line, "dim")
