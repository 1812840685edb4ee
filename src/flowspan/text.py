"""Format times, durations and external values for people to read in a terminal."""

import math
from datetime import datetime, timezone
from typing import Final
from unicodedata import category

from rich.cells import cell_len, set_cell_size

MS: Final = 1_000_000
SECOND: Final = 1_000 * MS
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR


def human(nanoseconds: int) -> str:
    """Format a duration for people: ``12 ms``, ``3.41 s``, ``2 m 05 s``."""
    if nanoseconds < MS:
        tenths = f"{nanoseconds / MS:.1f}"
        return "0 ms" if nanoseconds <= 0 else "<0.1 ms" if tenths == "0.0" else f"{tenths} ms"
    if nanoseconds < SECOND - MS // 2:
        return f"{nanoseconds / MS:.0f} ms"
    if nanoseconds < 60 * SECOND - 50 * MS:
        seconds = nanoseconds / SECOND
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"  # noqa: PLR2004
    seconds = round(nanoseconds / SECOND)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if not hours:
        return f"{minutes} m {seconds % 60:02} s"
    if not days:
        return f"{hours} h {minutes % 60:02} m"
    return f"{days:,} d {hours % 24:02} h"


def moment(nanoseconds: int) -> str:
    """Format a time since the epoch as local date and time with its offset from UTC."""
    try:
        time = datetime.fromtimestamp(nanoseconds // SECOND, tz=timezone.utc).astimezone()
    except (OverflowError, OSError, ValueError):
        return f"{nanoseconds} ns after 1970"
    return f"{time:%Y-%m-%d %H:%M:%S} {time.isoformat()[-6:]}"


def local(nanoseconds: int, form: str) -> str:
    """Format a time since the epoch as local time, in a form of `datetime.strftime`."""
    try:
        time = datetime.fromtimestamp(nanoseconds // SECOND, tz=timezone.utc).astimezone()
    except (OverflowError, OSError, ValueError):
        return f"{nanoseconds} ns after 1970"
    return f"{time:{form}}"


def time_of_day(nanoseconds: int) -> str:
    """Format a time since the epoch as local time of day."""
    return moment(nanoseconds).split(" ")[1]


def clock(nanoseconds: int) -> str:
    """Format a time since the epoch as ISO 8601, in local time with milliseconds.

    Args:
        nanoseconds: Any number of 64 bits; `datetime` can represent all of them.
    """
    time = datetime.fromtimestamp(nanoseconds // SECOND, tz=timezone.utc).astimezone()
    microsecond = nanoseconds % SECOND // 1_000
    return time.replace(microsecond=microsecond).isoformat(timespec="milliseconds")


def stopwatch(nanoseconds: int) -> str:
    """Format a time since a start with milliseconds: ``0:03.410``, ``1:02:05.000``."""
    ms = abs(nanoseconds) // MS
    minutes, seconds = ms // 60_000, f"{ms // 1_000 % 60:02}.{ms % 1_000:03}"
    sign = "-" if nanoseconds < 0 and ms else ""
    if minutes < 60:  # noqa: PLR2004
        return f"{sign}{minutes}:{seconds}"
    return f"{sign}{minutes // 60}:{minutes % 60:02}:{seconds}"


def clean(value: object) -> str:
    """Make an external value safe for one line of a terminal: no escapes, no line breaks."""
    return printable(" ".join(("" if value is None else str(value)).split()))


def printable(line: str) -> str:
    """Replace characters that move the cursor or change colours, and make every space plain."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else " " if category(c) == "Zs" else "�" for c in line)


def cut(text: str, width: int) -> str:
    """Shorten a text to at most `width` cells."""
    return text if cell_len(text) <= width else set_cell_size(text, max(0, width - 1)) + "…"


def percent(share: float) -> str:
    """Format a share from 0 to 1: ``61 %``; a small one that is not 0 is ``<1 %``."""
    return "<1 %" if 0 < share < 0.005 else f"{share:.0%}".replace("%", " %")  # noqa: PLR2004


def rate(share: float) -> str:
    """Write a rate of 0 to 1 in percent; rounded down, since 100 % must mean all."""
    return "100 %" if share == 1 else f"{math.floor(round(share * 1000, 6)) / 10:.1f} %"


def signed_percent(ratio: float) -> str:
    """Write by which part of it something grew, in percent with a sign: ``+12 %``."""
    return f"{ratio * 100:+.0f} %"
