"""Draw charts as SVG: plain shapes that the page's style sheet colours by class.

Every point has its value as a title, which browsers show on hover; the page has the same numbers in
tables. Text from traces is escaped here.
"""

from __future__ import annotations

import datetime as dt
import math
from html import escape
from typing import TYPE_CHECKING, Final, NamedTuple

from flowspan.analysis.flow_runs import local_time
from flowspan.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_WIDTH: Final = 520
_HEIGHT: Final = 190
_LEFT: Final = 60  # for the labels of the y-axis
_RIGHT: Final = 12
_TOP: Final = 12
_BOTTOM: Final = 28  # for the labels of the x-axis
_X_TICKS: Final = 6
_Y_TICKS: Final = 4
_DAY: Final = 86_400e9
_SPARK: Final = (160, 28)
_WIDEST_BAR: Final = 36.0


class Mark(NamedTuple):
    """A point: its place, its style sheet class and its title."""

    x: float
    y: float
    kind: str
    title: str


class TrendLine(NamedTuple):
    """A line through points."""

    points: Sequence[tuple[float, float]]
    kind: str


class Bar(NamedTuple):
    """A bar from 0 to `y`, with the label below it, which may be empty."""

    label: str
    y: float
    kind: str
    title: str


class _Axis(NamedTuple):
    """The values at both ends, and their pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        share = (value - self.low) / (self.high - self.low or 1.0)
        return self.start + share * (self.end - self.start)


def over_time(
    marks: Sequence[Mark], lines: Iterable[TrendLine], write: Callable[[float], str], title: str
) -> str:
    """Draw points and lines over time.

    Args:
        marks: At least one; x in nanoseconds since the epoch.
        lines: Trend lines; x in nanoseconds since the epoch.
        write: Formats a value of the y-axis.
        title: What the chart shows.
    """
    return _xy(marks, lines, write, title, _times(marks))


def against(
    marks: Sequence[Mark],
    write_x: Callable[[float], str],
    write_y: Callable[[float], str],
    title: str,
) -> str:
    """Draw at least one point by two numbers that are not negative."""
    ticks = [(tick, write_x(tick)) for tick in nice_ticks(max(mark.x for mark in marks), _X_TICKS)]
    return _xy(marks, (), write_y, title, ticks, from_zero=True)


def bars(
    columns: Sequence[Bar],
    highest: float,
    write: Callable[[float], str],
    title: str,
    limit: float | None = None,
) -> str:
    """Draw at least one bar, side by side, and a horizontal line at a limit."""
    x = _Axis(0, len(columns), _LEFT, _WIDTH - _RIGHT)
    y = _Axis(0, highest or 1.0, _HEIGHT - _BOTTOM, _TOP)
    wide = min(_WIDEST_BAR, 0.8 * (x.end - x.start) / len(columns))
    parts = [*_grid(y, nice_ticks(highest, _Y_TICKS), write)]
    for place, bar in enumerate(columns):
        middle, top = x.at(place + 0.5), y.at(bar.y)
        if bar.label:
            parts.append(_text(middle, _HEIGHT - 10, bar.label, "middle"))
        if bar.kind == "missed":  # draw the missing part too, or the worst bar would be blank
            parts.append(_rect("gap", (middle, wide), (y.end, top), bar.title))
        parts.append(_rect(bar.kind, (middle, wide), (top, y.start), bar.title))
    if limit is not None:
        parts.append(_path([(x.start, y.at(limit)), (x.end, y.at(limit))], "limit"))
    return _svg(parts, title)


def spark(points: Sequence[tuple[float, float]], title: str) -> str:
    """Draw a small line over time, from 0 up, through at least one point."""
    width, height = _SPARK
    times, values = [time for time, _ in points], [value for _, value in points]
    x = _Axis(min(times), max(times), 2, width - 2)
    y = _Axis(0, max(values) or 1.0, height - 2, 2)
    line = _path([(x.at(time), y.at(value)) for time, value in points], "spark")
    return _svg([line], title, _SPARK)


def nice_ticks(highest: float, count: int) -> list[float]:
    """List about `count` round numbers from 0 up to `highest`."""
    if highest <= 0 or not math.isfinite(highest):
        return [0.0]
    raw = highest / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    return [step * number for number in range(int(highest / step + 1e-9) + 1)]


def _xy(
    marks: Sequence[Mark],
    lines: Iterable[TrendLine],
    write: Callable[[float], str],
    title: str,
    ticks: Sequence[tuple[float, str]],
    *,
    from_zero: bool = False,
) -> str:
    xs = [mark.x for mark in marks]
    highest = max(mark.y for mark in marks) * 1.05
    x = _Axis(0 if from_zero else min(xs), max(xs), _LEFT + 6, _WIDTH - _RIGHT - 6)
    y = _Axis(0, highest or 1.0, _HEIGHT - _BOTTOM, _TOP)
    parts = [*_grid(y, nice_ticks(highest, _Y_TICKS), write)]
    for tick, label in ticks:
        parts.append(_text(x.at(tick), _HEIGHT - 10, label, "middle"))
    parts += [_mark(x.at(mark.x), y.at(mark.y), mark) for mark in marks]
    parts += [_path([(x.at(a), y.at(b)) for a, b in line.points], line.kind) for line in lines]
    return _svg(parts, title)


def _times(marks: Sequence[Mark]) -> list[tuple[float, str]]:
    """Choose midnights to label, or hours for less than two days."""
    first, last = min(mark.x for mark in marks), max(mark.x for mark in marks)
    start, length = local_time(int(first)), last - first
    if length < 2 * _DAY:
        step = max(1, math.ceil(length / 3_600e9 / _X_TICKS)) * 3_600e9
        places = [first + step * number for number in range(int(length // step) + 1)]
        return [(place, f"{local_time(int(place)):%H:%M}") for place in places]
    step_days = math.ceil(length / _DAY / _X_TICKS)
    days = [
        start.date() + dt.timedelta(days=number * step_days) for number in range(1, _X_TICKS + 1)
    ]
    # A local midnight: clocks may change between two of them.
    midnights = [(dt.datetime.combine(day, dt.time()).timestamp() * 1e9, day) for day in days]
    return [(place, f"{day:%d %b}") for place, day in midnights if place <= last]


def _grid(y: _Axis, ticks: Iterable[float], write: Callable[[float], str]) -> Iterator[str]:
    for tick in ticks:
        at = y.at(tick)
        yield _path([(_LEFT, at), (_WIDTH - _RIGHT, at)], "grid")
        yield _text(_LEFT - 8, at + 4, write(tick), "end")


def _mark(x: float, y: float, mark: Mark) -> str:
    title = f"<title>{_plain(mark.title)}</title>"
    if mark.kind == "failed":  # a cross, to distinguish it without colour
        shape = f"M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6"
        return f'<path class="failed" d="{shape}">{title}</path>'
    return f'<circle class="{mark.kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.5">{title}</circle>'


def _rect(kind: str, x: tuple[float, float], y: tuple[float, float], title: str) -> str:
    """Draw a rectangle from its middle and width, and its top and bottom."""
    (middle, width), (top, bottom) = x, y
    return (
        f'<rect class="{kind}" x="{middle - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" '
        f'height="{bottom - top:.1f}"><title>{_plain(title)}</title></rect>'
    )


def _path(points: Iterable[tuple[float, float]], kind: str) -> str:
    return f'<path class="{kind}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>'


def _text(x: float, y: float, label: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_plain(label)}</text>'


def _svg(parts: Iterable[str], title: str, size: tuple[int, int] = (_WIDTH, _HEIGHT)) -> str:
    width, height = size
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{_plain(title)}">{"".join(parts)}</svg>'
    )


def _plain(text: str) -> str:
    return escape(clean(text))
