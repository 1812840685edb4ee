"""The options that choose which traces to read, shared by several commands."""

import datetime as dt
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from flowspan import places
from flowspan.cli.hints import unknown
from flowspan.cli.output import fail, warn
from flowspan.read.source import FileLogSource, FileSource, JaegerSource, VictoriaLogsSource

if TYPE_CHECKING:
    import httpx

    from flowspan.places import Folders
    from flowspan.read.source import LogSource, TraceSource
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

JAEGER_HEADERS: Final = "FLOWSPAN_JAEGER_HEADERS"
VICTORIALOGS_HEADERS: Final = "FLOWSPAN_VICTORIALOGS_HEADERS"


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
    _refuse_both(context, "--jaeger")
    return JaegerSource(*_server(jaeger, "--jaeger", JAEGER_HEADERS))


def log_source_of(
    context: typer.Context, file: Path | None, victorialogs: str | None
) -> "LogSource":
    """Return the source that the options name; ``--victorialogs`` wins over ``FLOWSPAN_DIR``.

    Raises:
        typer.BadParameter: As `source_of`.
    """
    if victorialogs is None:
        return FileLogSource(files_of(file))
    _refuse_both(context, "--victorialogs")
    return VictoriaLogsSource(*_server(victorialogs, "--victorialogs", VICTORIALOGS_HEADERS))


def _refuse_both(context: typer.Context, option: str) -> None:
    given = context.get_parameter_source("file")
    if given is not None and given.name == "COMMANDLINE":
        raise typer.BadParameter("Use one or the other.", param_hint=f"--file, {option}")


def _server(text: str, option: str, variable: str) -> "tuple[httpx.URL, dict[str, str]]":
    """Return the URL that an option names, and the headers in a variable."""
    from flowspan.read.server import base_url, parse_headers  # noqa: PLC0415 - heavy

    try:
        url = base_url(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
    try:
        headers = parse_headers(os.environ.get(variable, ""))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=variable) from None
    return url, headers


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
