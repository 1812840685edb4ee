"""Write log records as terminal lines: complete and easy to grep, or short below a span."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from flowspan.read.log_files import LEVELS, Log
from flowspan.text import clean, clock, cut, printable, stopwatch

_STYLES: Final = {
    "TRACE": "dim",
    "DEBUG": "dim",
    "INFO": "green",
    "WARNING": "yellow",
    "ERROR": "red",
    "CRITICAL": "bold red",
}
_LEVEL_WIDTH: Final = max(map(len, LEVELS))
_NOTHING: Final = "-"  # fills the column if a record has no level or no run
_WIDEST_PLACE: Final = 40  # longer places are not cut; they shift the rest of their line
_SHOWN_AT_EITHER_END: Final = 5
_WIDEST_FIELD: Final = 32


def write(logs: Sequence[Log]) -> Iterator[Text]:
    """Yield one line for each record, and its further lines indented below it.

    The format is ``time LEVEL flow/task-run message  key=value ...``. Nothing is cut or wrapped, so
    a terminal and a pipe show the same. Further lines are the rest of a multi-line message, and the
    stack of an exception.
    """
    places = [clean(log.place) or _NOTHING for log in logs]
    widths = (width for width in map(cell_len, places) if width <= _WIDEST_PLACE)
    width = max(widths, default=0)
    for log, place in zip(logs, places, strict=True):
        first, *more = _lines(log.message) or [""]
        line = Text.assemble((clock(log.time), "dim"), " ", _level(log), " ")
        line.append(place.ljust(len(place) + width - cell_len(place)), style="cyan")
        line.append(f" {first}")
        for name, value in log.fields.items():
            line.append(f"  {clean(name)}=", style="dim").append(printable(value))
        line.rstrip()
        yield line
        for text in more:
            yield _indented(text)
        for text in _lines(log.stack or log.exception):
            # In a stack, frames are indented and exceptions are not.
            yield _indented(text, "dim" if text.startswith(" ") else "red")


def shorten(logs: Sequence[Log], start: int, *, everything: bool, unicode: bool) -> Iterator[Text]:
    """Yield a line for each record, and one for its exception; if many, only the first and last.

    Args:
        logs: The records of one span, in order of time.
        start: The zero of the times shown, in nanoseconds since the epoch.
        everything: Show all records.
        unicode: False uses only ASCII for flowspan's own glyphs.
    """
    hidden = logs[_SHOWN_AT_EITHER_END:-_SHOWN_AT_EITHER_END]
    if everything or len(hidden) <= 1:  # the line that counts hidden records takes room too
        yield from _short_lines(logs, start)
        return
    yield from _short_lines(logs[:_SHOWN_AT_EITHER_END], start)
    counts = Counter(log.level for log in hidden)
    grave = [f"{counts[level]:,} {level}" for level in LEVELS[3:] if counts[level]]
    more = f"{'…' if unicode else '...'} {len(hidden):,} more"
    yield Text(f"{more}, {', '.join(grave)}" if grave else more, style="dim italic")
    yield from _short_lines(logs[-_SHOWN_AT_EITHER_END:], start)


def _short_lines(logs: Iterable[Log], start: int) -> Iterator[Text]:
    for log in logs:
        line = Text.assemble((stopwatch(log.time - start), "dim"), " ", _level(log), " ")
        indent = " " * line.cell_len
        line.append(clean(log.message))
        for name, value in log.fields.items():
            line.append(f"  {clean(name)}=", style="dim").append(cut(clean(value), _WIDEST_FIELD))
        yield line
        if log.exception:
            yield Text(indent + clean(log.exception), style="red")


def _level(log: Log) -> Text:
    name = cut(clean(log.level), _LEVEL_WIDTH) or _NOTHING
    style = _STYLES.get(name, "")
    return Text(set_cell_size(name, _LEVEL_WIDTH), style=style)


def _indented(text: str, style: str = "") -> Text:
    return Text(f"    {text}" if text else "", style)


def _lines(text: str) -> list[str]:
    return [printable(line.expandtabs()).rstrip() for line in text.splitlines()]
