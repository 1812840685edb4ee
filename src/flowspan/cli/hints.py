"""Messages for when there is nothing to show: what is missing, and what to do about it."""

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from flowspan.read.selection import Summary, UnknownRunError


def unknown(error: "UnknownRunError", how_to_get_them: str, *, by_trace: bool) -> str:
    """Return a message that a run is missing, with the latest runs, or how to get some.

    If several runs may be meant, it lists these instead.

    Args:
        error: What was not found.
        how_to_get_them: What to do if there are no runs at all.
        by_trace: List the ids of traces, not of runs, if no run may be meant.
    """
    from flowspan.read.selection import AmbiguousRunError  # noqa: PLC0415 - only a failure needs it

    if not error.known:
        return f"{error}\n{how_to_get_them}"
    is_ambiguous = isinstance(error, AmbiguousRunError)
    lines = [_line(one, by_trace=by_trace and not is_ambiguous) for one in error.known]
    return "\n".join([f"{error} {'They are' if is_ambiguous else 'The latest runs'}:", *lines])


def _line(one: "Summary", *, by_trace: bool) -> str:
    from flowspan.text import clean, moment  # noqa: PLC0415 - only a failure needs it

    parts = [one.trace_id if by_trace else one.run_id or one.trace_id, moment(one.end)]
    parts += [clean(text) for text in (one.name, one.run_name, one.result) if text]
    return "  ".join(["", *parts])


def floor_of(level: str | None) -> int:
    """Return the lowest severity number to show."""
    from flowspan.read.log_files import parse_level  # noqa: PLC0415 - only some commands need it

    try:
        return 0 if level is None else parse_level(level)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--level") from None
