"""The options that choose which traces to read, shared by several commands."""

import datetime as dt
import os
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from flowspan import places
from flowspan.cli.hints import unknown
from flowspan.cli.output import fail, warn
from flowspan.read.source import FileLogSource, FileSource, JaegerSource, VictoriaLogsSource

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import httpx

    from flowspan.places import Folders
    from flowspan.read.lines import Problem
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

Since: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="AGE|DATE",
        help=f"{SINCE_HELP} Default: all runs in files, {JaegerSource.default_since} in Jaeger.",
        show_default=False,
    ),
]
"""The option of commands that read many runs."""

WANTED: Final = "RUN"
"""How the help names the argument for a run."""

HOW_TO_NAME: Final = (
    "its name, its id or a trace id, or the first 8 digits of one; latest~1 is the one before the "
    "latest"
)
"""How a run is named, for the help."""

_LISTED: Final = 20
_TRACES_TO_KNOW: Final = 50  # read to list the flows of a source that searches by flow
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
    return jaeger_source(jaeger)


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


def jaeger_source(text: str) -> JaegerSource:
    """Return the Jaeger at a URL.

    Raises:
        typer.BadParameter: The URL or the headers are not valid.
    """
    return JaegerSource(*_server(text, "--jaeger", JAEGER_HEADERS))


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
        fail(unknown(error, source.advice, by_trace=True))


def read_traces(
    source: "TraceSource", problems: "list[Problem]", flow: str | None, since: int
) -> "Iterator[Trace]":
    """Read every trace since a time (ns), the latest first; if that fails, print why and exit.

    Args:
        source: Where to read.
        problems: Anything that could not be read is added here.
        flow: Only traces with a run of this flow are needed.
        since: In nanoseconds since the epoch.
    """
    from flowspan.errors import SourceError  # noqa: PLC0415 - only some commands need it

    try:
        yield from source.traces(problems, flow=flow, since=since)
    except SourceError as error:
        warn(problems)
        fail(f"{error}\n{source.advice}")


def no_runs(source: "TraceSource", flow: str | None, since: int, known: "Iterable[str]") -> str:
    """Return a message that there are no runs, with the flows that there are, or how to get some.

    Args:
        source: Where to read.
        flow: The flow without runs; None if no flow has any.
        since: The time since which there are none, in nanoseconds since the epoch.
        known: The flows in the traces that were read.
    """
    from flowspan.read.selection import LATEST, missing_runs  # noqa: PLC0415 - heavy
    from flowspan.text import clean  # noqa: PLC0415 - only a failure needs it

    message = f"{source.name} holds no {missing_runs(LATEST, flow, since)}."
    if source.searches_by_flow and flow is not None:
        known = _some_flows(source, since)
    names = sorted(map(clean, known))
    if not names:
        return f"{message}\n{source.advice}"
    more = [f"  and {len(names) - _LISTED:,} more"] if len(names) > _LISTED else []
    listed = [f"  {name}" for name in names[:_LISTED]]
    return "\n".join([f"{message} Its flows:", *listed, *more])


def _some_flows(source: "TraceSource", since: int) -> set[str]:
    """Return the flows in the latest traces."""
    from flowspan.analysis.flow_runs import flow_names  # noqa: PLC0415 - heavy

    some = islice(read_traces(source, [], None, since), _TRACES_TO_KNOW)
    return set().union(*map(flow_names, some))


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
