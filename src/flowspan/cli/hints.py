"""Messages for when there is nothing to show: what is missing, and what to do about it."""

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowspan.read.selection import UnknownRunError


def unknown(error: "UnknownRunError", ids: "Iterable[str]", how_to_get_them: str) -> str:
    """Return a message that a run is missing, with the latest runs, or how to get some."""
    from flowspan.text import clean, moment  # noqa: PLC0415 - only a failure needs it

    if not error.known:
        return f"{error}\n{how_to_get_them}"
    known = zip(ids, error.known, strict=True)
    lines = [f"  {one}  {moment(summary.end)}  {clean(summary.name)}" for one, summary in known]
    return "\n".join([f"{error} The latest runs:", *lines])


def floor_of(level: str | None) -> int:
    """Return the lowest severity number to show."""
    from flowspan.read.log_files import parse_level  # noqa: PLC0415 - only some commands need it

    try:
        return 0 if level is None else parse_level(level)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--level") from None
