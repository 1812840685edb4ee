"""``flowspan timeline``."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowspan.cli import formats, output
from flowspan.cli.hints import floor_of
from flowspan.cli.options import (
    HOW_TO_NAME,
    SINCE_HELP,
    WANTED,
    File,
    Jaeger,
    load_trace,
    read_since_option,
    source_of,
)
from flowspan.cli.output import note

if TYPE_CHECKING:
    from flowspan.read.log_files import Logs
    from flowspan.read.source import TraceSource


def timeline(
    context: typer.Context,
    trace: Annotated[
        str,
        typer.Argument(
            metavar=WANTED,
            help=f"Run to show: {HOW_TO_NAME}. Default: the run that ended last.",
            show_default=False,
        ),
    ] = "latest",
    *,
    file: File = None,
    jaeger: Jaeger = None,
    flow: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Show the latest run of this flow.", show_default=False),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="AGE|DATE", help=SINCE_HELP, show_default=False)
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print every span as one JSON document instead.")
    ] = False,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Collapse nothing, however many spans or log lines."),
    ] = False,
    top: Annotated[
        int, typer.Option(metavar="N", min=0, help="List the N tasks with the largest share.")
    ] = 10,
    with_logs: Annotated[
        bool, typer.Option("--logs", help="Show log lines below their spans.")
    ] = False,
    level: Annotated[
        str | None,
        typer.Option(
            metavar="LEVEL",
            help="With --logs: only lines of this level, e.g. WARNING, or above.",
            show_default=False,
        ),
    ] = None,
    follows: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Show the run while it goes on: drawn in place, or over a pipe a line for each "
            "new state.",
        ),
    ] = False,
    html: Annotated[Path | None, formats.HTML.path] = None,
    perfetto: Annotated[Path | None, formats.PERFETTO.path] = None,
    dot: Annotated[Path | None, formats.DOT.path] = None,
) -> None:
    """Show where a run spent its time.

    --logs reads the logs*.jsonl files next to those of the spans. Times of log lines count from the
    left edge of the bars. 'flowspan logs' prints the lines in full.

    --jaeger takes the URL of Jaeger's UI with its base path, and with user and password if needed.
    Set FLOWSPAN_JAEGER_HEADERS to send headers, e.g. 'Authorization=Bearer%20TOKEN,x-tenant=etl'.

    --html PATH writes a page that works offline and needs no other file. It has every span, the log
    lines next to the spans, and the same numbers as --json.

    Exits with 1 if there is no such trace, or if part of its source could not be read.
    """
    from flowspan.analysis.findings import Findings  # noqa: PLC0415 - heavy
    from flowspan.read.selection import steps_back  # noqa: PLC0415 - heavy
    from flowspan.views.wishes import Wishes  # noqa: PLC0415 - only this command needs it

    chosen = {formats.PERFETTO: perfetto, formats.DOT: dot, formats.HTML: html}
    files = {one: path for one, path in chosen.items() if path is not None}
    formats.check(files, as_json=as_json)
    if follows and (files or as_json or with_logs):
        raise typer.BadParameter(
            "It only draws the timeline: run the command again once the run has ended.",
            param_hint="--follow",
        )
    if level is not None and not with_logs:
        raise typer.BadParameter("Only log lines have a level: add --logs.", param_hint="--level")
    source = source_of(context, file, jaeger)
    if with_logs and source.log_folder is None:
        raise typer.BadParameter(f"{source.name} has spans but no log lines.", param_hint="--logs")
    if follows and not source.has_open_runs:
        raise typer.BadParameter(
            f"{source.name} has only runs that have ended.", param_hint="--follow"
        )
    if not (flow is None and since is None) and steps_back(trace) is None:
        raise typer.BadParameter(
            "They choose the latest run: leave out the id.", param_hint="--flow, --since"
        )
    floor = floor_of(level)
    found = load_trace(source, trace, flow, read_since_option(since))
    if follows:
        from flowspan.cli.follow import follow  # noqa: PLC0415 - only this needs it

        last = follow(source, found)
        if last is None:
            return
        found = last
    if with_logs:
        logs = _logs_beside(source, found.trace_id, floor)
    else:
        logs = _logs_if_any(source, found.trace_id, wanted=html is not None)
    wishes = Wishes(everything=everything, top=top, with_logs=with_logs)
    formats.write(Findings(found, logs.logs), wishes, files, as_json=as_json)
    if problems := (*found.problems, *logs.problems):
        output.warn(problems)
        raise typer.Exit(1)


def _logs_beside(source: "TraceSource", trace_id: str, floor: int) -> "Logs":
    """Read the log lines of a trace from the files next to its spans."""
    from flowspan.errors import SourceError  # noqa: PLC0415 - only some commands need it
    from flowspan.read import log_files  # noqa: PLC0415 - heavy
    from flowspan.read.source import FileLogSource  # noqa: PLC0415 - only a failure needs it

    try:
        found = source.logs(trace_id)
    except SourceError as error:
        note(f"{error}\n{FileLogSource.advice}")
        return log_files.Logs((), ())
    shown = log_files.at_least(found.logs, floor)
    if not shown:
        what = "no log lines of this trace" + (" at this level or above." if floor else ".")
        note(f"{source.log_folder} holds {what}")
    return replace(found, logs=tuple(shown))


def _logs_if_any(source: "TraceSource", trace_id: str, *, wanted: bool) -> "Logs":
    """Read the log lines of a trace if they are wanted and there are any next to its spans."""
    from flowspan.errors import SourceError  # noqa: PLC0415 - only some commands need it
    from flowspan.read.log_files import Logs  # noqa: PLC0415 - heavy

    with contextlib.suppress(SourceError):
        if wanted:
            return source.logs(trace_id)
    return Logs((), ())
