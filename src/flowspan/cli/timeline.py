"""The commands that read traces: ``flowspan timeline``, ``flowspan diff`` and ``flowspan logs``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowspan.cli import exports, output
from flowspan.cli.hints import HOW_TO_GET_LOGS, floor_of
from flowspan.cli.options import (
    FOLDER,
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
    from flowspan.analysis.one_trace import Analysis
    from flowspan.read.log_files import Logs
    from flowspan.read.source import TraceSource
    from flowspan.read.span import Trace


def timeline(
    context: typer.Context,
    trace: Annotated[
        str,
        typer.Argument(
            metavar=WANTED,
            help="A trace id, the id of any run in it, or (default) the run that ended last; "
            "latest~1 is the one before.",
            show_default=False,
        ),
    ] = "latest",
    *,
    file: File = FOLDER,
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
        typer.Option("--all", help="Collapse nothing, whatever the number of spans or log lines."),
    ] = False,
    top: Annotated[
        int, typer.Option(metavar="N", min=0, help="List so many tasks by their share.")
    ] = 10,
    with_logs: Annotated[
        bool, typer.Option("--logs", help="Show log lines below the spans they belong to.")
    ] = False,
    level: Annotated[
        str | None,
        typer.Option(
            metavar="LEVEL",
            help="Show log lines of this level, e.g. WARNING, or above.",
            show_default=False,
        ),
    ] = None,
    html: exports.Html = None,
    perfetto: exports.Perfetto = None,
    dot: exports.Dot = None,
) -> None:
    """Show where the time of a run went.

    Log lines come from the logs*.jsonl files beside those of the spans, and their times count from
    the left edge of the bars. 'flowspan logs' shows them in full.

    The URL of Jaeger is that of its UI, base path included, and may hold a user and a password.
    FLOWSPAN_JAEGER_HEADERS, such as 'Authorization=Bearer%20TOKEN,x-tenant=etl', is sent along.

    --html PATH writes a page that needs no other file and no network, with every span, the log
    lines that lie beside the spans, and the same numbers as --json.

    Exits with 1 if there is no such trace, or if something in its source could not be read.
    """
    exports.check(perfetto, dot, html, as_json=as_json)
    if level is not None and not with_logs:
        raise typer.BadParameter("It is the level of log lines: add --logs.", param_hint="--level")
    source = source_of(context, file, jaeger)
    if with_logs and source.log_folder is None:
        raise typer.BadParameter(f"{source.name} has spans and no log lines.", param_hint="--logs")
    if not (flow is None and since is None) and not _is_latest(trace):
        raise typer.BadParameter(
            "They choose among the latest runs: leave out the id.", param_hint="--flow, --since"
        )
    floor = floor_of(level)
    found = load_trace(source, trace, flow, read_since_option(since))
    lines = _logs_beside(source, found.trace_id, floor) if with_logs else None
    analysis = _analyse(found)
    exports.write(found, analysis, perfetto, dot)
    if as_json:
        _print_json(found, analysis, lines)
    elif not exports.is_printed(perfetto, dot, html):
        _draw(found, analysis, lines, everything=everything, top=top)
    if html is not None:
        lines = lines or _logs_for_page(source, found)
        _write_page(html, found, analysis, lines)
    problems = (*found.problems, *(lines.problems if lines else ()))
    if problems:
        output.warn(problems)
        raise typer.Exit(1)


def _is_latest(wanted: str) -> bool:
    from flowspan.read.selection import steps_back  # noqa: PLC0415 - only some commands need it

    return steps_back(wanted) is not None


def _logs_beside(source: "TraceSource", trace_id: str, floor: int) -> "Logs":
    """Read the log lines of a trace that lie beside its spans."""
    from flowspan.errors import SourceError  # noqa: PLC0415 - only some commands need it
    from flowspan.read import log_files  # noqa: PLC0415 - heavy

    try:
        found = source.logs(trace_id)
    except SourceError as error:
        note(f"{error}\n{HOW_TO_GET_LOGS}")
        return log_files.Logs((), ())
    shown = log_files.at_least(found.logs, floor)
    if not shown:
        what = "no log lines of this trace" + (" and level." if floor else ".")
        note(f"{source.log_folder} holds {what}")
    return replace(found, logs=tuple(shown))


def _logs_for_page(source: "TraceSource", trace: "Trace") -> "Logs":
    """Read the log lines of a trace, if there are any where its spans come from."""
    from flowspan.errors import SourceError  # noqa: PLC0415 - only some commands need it
    from flowspan.read.log_files import Logs  # noqa: PLC0415 - heavy

    try:
        return source.logs(trace.trace_id)
    except SourceError:
        return Logs((), ())


def _write_page(path: Path, trace: "Trace", analysis: "Analysis", lines: "Logs") -> None:
    from flowspan.views.html import timeline as page  # noqa: PLC0415 - only one option needs it

    output.write_file(path, [page.to_html(trace.spans, analysis, lines.logs)])
    if path != output.STDOUT:
        note(f"the page is in {path}: open it in a browser.")


def _analyse(trace: "Trace") -> "Analysis":
    from flowspan.analysis.one_trace import analyse  # noqa: PLC0415 - heavy

    return analyse(trace.spans)


def _print_json(trace: "Trace", analysis: "Analysis", lines: "Logs | None") -> None:
    from flowspan.analysis import log_places, tree  # noqa: PLC0415 - heavy
    from flowspan.views.json import timeline  # noqa: PLC0415 - heavy
    from flowspan.views.json import timeline as document  # noqa: PLC0415 - heavy

    found = document.as_object(analysis)
    by_span = None
    if lines is not None:
        by_span = log_places.by_span(lines.logs, tree.build(trace.spans))
    for chunk in timeline.json_chunks(trace, by_span, found):
        typer.echo(chunk, nl=False)


def _draw(
    trace: "Trace", analysis: "Analysis", lines: "Logs | None", *, everything: bool, top: int
) -> None:
    from flowspan.analysis import log_places, tree  # noqa: PLC0415 - heavy
    from flowspan.views.terminal import tasks as summary  # noqa: PLC0415 - heavy
    from flowspan.views.terminal import timeline as terminal  # noqa: PLC0415 - heavy

    console = output.console()
    unicode = console.encoding.startswith("utf")
    made = tree.build(trace.spans, everything=everything)
    placed = log_places.by_span(lines.logs if lines else (), made)
    drawn = terminal.draw(
        made,
        width=console.width,
        unicode=unicode,
        everything=everything,
        logs=log_places.by_row(placed, made),
        analysis=analysis,
    )
    output.print_lines(drawn, console)
    console.print()
    output.print_lines(
        summary.draw(analysis, width=console.width, unicode=unicode, top=top), console
    )
