"""Read how far back a user wants to look."""

import datetime as dt
import re
from typing import Final

_SECONDS: Final = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_AGO: Final = re.compile(rf"([0-9]{{1,9}})\s*([{''.join(_SECONDS)}])")


def parse_since(text: str, now: dt.datetime) -> int:
    """Tell the time that a text such as ``30d``, ``12h`` or ``2026-11-01`` means.

    Args:
        text: A whole number of weeks, days, hours, minutes or seconds (``w``, ``d``, ``h``, ``m``,
            ``s``) before now; or an ISO 8601 date, which begins at midnight, or date and time. They
            are local unless the text has an offset from UTC.
        now: With its offset from UTC.

    Returns:
        Nanoseconds since the epoch.

    Raises:
        ValueError: It is none of these, or lies before 1970 or after now.
    """
    text = text.strip()
    try:
        if ago := _AGO.fullmatch(text):
            # Counted in seconds, so a day has 24 hours also where clocks are changed.
            then = now.timestamp() - int(ago[1]) * _SECONDS[ago[2]]
        else:
            then = dt.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            f"{text!r} is neither an age such as 30d or 12h nor a date such as 2026-11-01."
        ) from None
    if not 0 <= then <= now.timestamp():
        raise ValueError(f"{text!r} lies {'before 1970' if then < 0 else 'in the future'}.")
    return int(then) * 1_000_000_000
