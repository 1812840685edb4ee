"""The options that choose which traces to read, shared by several commands."""

import datetime as dt
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from flowspan import places
from flowspan.cli.hints import unknown
from flowspan.cli.output import fail, warn
from flowspan.read.source import FileSource, JaegerSource

if TYPE_CHECKING:
    from flowspan.places import Folders
    from flowspan.read.source import TraceSource
    from flowspan.read.span import Trace

DEFAULT_FILES: Final = f"{places.FOLDER} here or above, and flowspan in PREFECT_HOME"
"""What the help says is read by default."""

File: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--file",
        envvar="FLOWSPAN_DIR",
        show_default=DEFAULT_FILES,
        help="File of OTLP JSON or protobuf, folder of such files (only traces*.jsonl if there"
        " are any), or - for standard input.",
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
    "Only runs that ended since then: an age such as 30d or 12h, or a date such as 2026-11-01."
)

WANTED: Final = "TRACE_ID|FLOW_RUN_ID|latest"
"""How the help names the argument for a trace."""

_HEADERS: Final = "FLOWSPAN_JAEGER_HEADERS"


def files_of(file: Path | None) -> "Path | Folders":
    """Return the file or folder that the option names, or the folders of the embedded files."""
    return places.to_read() if file is None else file


def source_of(context: typer.Context, file: Path | None, jaeger: str | None) -> "TraceSource":
    """Return the source that the options name; ``--jaeger`` wins over ``FLOWSPAN_DIR``.

    Raises:
        typer.BadParameter: Both options are given, or the URL or the headers are not valid.
    """
    if jaeger is None:
        return FileSource(files_of(file))
    given = context.get_parameter_source("file")
    if given is not None and given.name == "COMMANDLINE":
        raise typer.BadParameter("Use one or the other.", param_hint="--file, --jaeger")
    return _jaeger(jaeger)


def _jaeger(text: str) -> JaegerSource:
    from flowspan.read import jaeger  # noqa: PLC0415 - heavy

    try:
        url = jaeger.base_url(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--jaeger") from None
    try:
        headers = jaeger.parse_headers(os.environ.get(_HEADERS, ""))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=_HEADERS) from None
    return JaegerSource(url, headers)


def load_trace(
    source: "TraceSource", wanted: str, flow: str | None = None, since: int = 0
) -> "Trace":
    """Load a trace; if that fails, print why and exit."""
    from flowspan.errors import SourceError  # noqa: PLC0415 - only some commands need it
    from flowspan.read.selection import UnknownRunError  # noqa: PLC0415 - heavy

    try:
        return source.load(wanted, flow=flow, since=since)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=WANTED) from None
    except SourceError as error:
        fail(f"{error}\n{source.advice}")
    except UnknownRunError as error:
        warn(error.problems)
        fail(unknown(error, [known.trace_id for known in error.known], source.advice))


def read_since_option(text: str | None) -> int:
    """Return a time in nanoseconds since the epoch; 0 if no text is given.

    Raises:
        typer.BadParameter: The text is neither an age nor a date.
    """
    from flowspan.read.selection import parse_since  # noqa: PLC0415 - heavy

    try:
        return 0 if text is None else parse_since(text, dt.datetime.now().astimezone())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since") from None
