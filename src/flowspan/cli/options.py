"""The options that choose which traces to read, shared by several commands."""

import datetime as dt
import os
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from flowspan.cli.hints import unknown
from flowspan.cli.output import fail, warn
from flowspan.read.source import FileSource, JaegerSource

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from flowspan.read.lines import Problem
    from flowspan.read.source import TraceSource
    from flowspan.read.span import Trace

FOLDER: Final = Path(".flowspan")
"""Where the embedded default writes."""

File: TypeAlias = Annotated[
    Path,
    typer.Option(
        "--file",
        envvar="FLOWSPAN_DIR",
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

WANTED: Final = "RUN"
"""How the help names the argument for a run."""

HOW_TO_NAME: Final = (
    "its name, its id or a trace id, or the first 8 digits of one; latest~1 is the one before the "
    "latest"
)
"""How a run is named, for the help."""

_LISTED: Final = 20
_TRACES_TO_KNOW: Final = 50  # read to list the flows of a source that searches by flow
_HEADERS: Final = "FLOWSPAN_JAEGER_HEADERS"


def source_of(context: typer.Context, file: Path, jaeger: str | None) -> "TraceSource":
    """Return the source that the options name; ``--jaeger`` wins over ``FLOWSPAN_DIR``.

    Raises:
        typer.BadParameter: Both options are given, or the URL or the headers are not valid.
    """
    if jaeger is None:
        return FileSource(file)
    given = context.get_parameter_source("file")
    if given is not None and given.name == "COMMANDLINE":
        raise typer.BadParameter("Use one or the other.", param_hint="--file, --jaeger")
    return jaeger_source(jaeger)


def jaeger_source(text: str) -> JaegerSource:
    """Return the Jaeger at a URL.

    Raises:
        typer.BadParameter: The URL or the headers are not valid.
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
