"""The option ``--since`` of those commands that have it."""

import datetime as dt
from typing import Final

import typer

SINCE_HELP: Final = (
    "Look at runs that ended since then: an age such as 30d or 12h, or a date such as 2026-11-01."
)


def read_since_option(text: str | None) -> int:
    """Tell the time in nanoseconds since the epoch; 0, the beginning, where there is none.

    Raises:
        typer.BadParameter: It is no such text.
    """
    from flowspan.timeline.since import parse_since  # noqa: PLC0415 - only few commands need it

    try:
        return 0 if text is None else parse_since(text, dt.datetime.now().astimezone())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since") from None
