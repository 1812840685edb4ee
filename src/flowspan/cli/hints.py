"""What commands say where there is nothing to show, and what to do about it."""

from typing import TYPE_CHECKING, Final

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowspan.read.selection import UnknownRunError

HOW_TO_GET_LOGS: Final = (
    "Run a flow that calls flowspan.instrument() first: with no OTEL_LOGS_EXPORTER and no OTLP\n"
    "endpoint set, which would send them elsewhere, and FLOWSPAN_LOGS not false, it writes its\n"
    "log lines to .flowspan/ in its working directory. Or name a file or folder with --file PATH."
)


def unknown(error: "UnknownRunError", ids: "Iterable[str]", how_to_get_them: str) -> str:
    """Say that a run is not there, and which are, or how to get some."""
    from flowspan.text import clean, moment  # noqa: PLC0415 - only a failure needs it

    if not error.known:
        return f"{error}\n{how_to_get_them}"
    known = zip(ids, error.known, strict=True)
    lines = [f"  {one}  {moment(summary.end)}  {clean(summary.name)}" for one, summary in known]
    return "\n".join([f"{error} The latest there are:", *lines])


def floor_of(level: str | None) -> int:
    """Tell the least severity number to show."""
    from flowspan.read.log_files import parse_level  # noqa: PLC0415 - only some commands need it

    try:
        return 0 if level is None else parse_level(level)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--level") from None
