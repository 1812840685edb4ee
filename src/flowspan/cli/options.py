"""The options that say which traces to read, for the commands that have them."""

import datetime as dt
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

if TYPE_CHECKING:
    import httpx

    Place: TypeAlias = tuple[httpx.URL, dict[str, str]]

FOLDER: Final = Path(".flowspan")
"""Where the embedded default writes."""

Source: TypeAlias = Annotated[
    Path,
    typer.Option(
        "--file",
        envvar="FLOWSPAN_DIR",
        help="File of OTLP JSON or protobuf, folder of such files (traces*.jsonl where there"
        " are some), or - for standard input.",
    ),
]

Jaeger: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--jaeger",
        metavar="URL",
        help="Read from Jaeger instead, e.g. http://localhost:16686.",
        show_default=False,
    ),
]

SINCE_HELP: Final = (
    "Look at runs that ended since then: an age such as 30d or 12h, or a date such as 2026-11-01."
)

_HEADERS: Final = "FLOWSPAN_JAEGER_HEADERS"


def read_jaeger_option(text: str) -> "Place":
    """Tell where Jaeger is, and the headers that the environment adds.

    Raises:
        typer.BadParameter: One of the two is none.
    """
    from flowspan.read import jaeger  # noqa: PLC0415 - heavy

    try:
        url = jaeger.base_url(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--jaeger") from None
    try:
        headers = jaeger.parse_headers(os.environ.get(_HEADERS, ""))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=_HEADERS) from None
    return url, headers


def refuse_two_sources(jaeger: str | None, context: typer.Context) -> None:
    """Refuse ``--file`` beside ``--jaeger``, unless it only stands in the environment.

    Raises:
        typer.BadParameter: Both are on the command line.
    """
    source = context.get_parameter_source("file")
    if jaeger is not None and source is not None and source.name == "COMMANDLINE":
        raise typer.BadParameter("Spans come from one or the other.", param_hint="--file, --jaeger")


def read_since_option(text: str | None) -> int:
    """Tell the time in nanoseconds since the epoch; 0, the beginning, where there is none.

    Raises:
        typer.BadParameter: It is no such text.
    """
    from flowspan.read.since import parse_since  # noqa: PLC0415 - only few commands need it

    try:
        return 0 if text is None else parse_since(text, dt.datetime.now().astimezone())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since") from None
