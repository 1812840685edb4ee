"""The ``flowspan`` command."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from flowspan._version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console
    from rich.text import Text

    from flowspan.otlp_json import Problem
    from flowspan.report.summary import Report
    from flowspan.timeline.read import Trace, UnknownTraceError

_PIPED_WIDTH: Final = 120
_WARNINGS_SHOWN: Final = 10

app = typer.Typer(
    name="flowspan",
    help="The OpenTelemetry bridge for Prefect 3.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line tool."""
    app()


def _print_version(value: bool) -> None:  # noqa: FBT001 - Typer's callback signature
    if value:
        typer.echo(f"flowspan {__version__}")
        raise typer.Exit


@app.callback()
def _flowspan(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """The OpenTelemetry bridge for Prefect 3."""


@app.command()
def timeline(
    trace: Annotated[
        str,
        typer.Argument(
            metavar="TRACE_ID|FLOW_RUN_ID|latest",
            help="A trace id, the id of any run in it, or (default) the run that ended last.",
            show_default=False,
        ),
    ] = "latest",
    *,
    file: Annotated[
        Path,
        typer.Option(
            envvar="FLOWSPAN_DIR",
            help="File of OTLP JSON lines, or folder of traces*.jsonl files.",
        ),
    ] = Path(".flowspan"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print every span as one JSON document instead.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Collapse nothing, whatever the number of spans.")
    ] = False,
) -> None:
    """Show where the time of a run went.

    Exits with 1 if there is no such trace, or if something in the files could not be read.
    """
    from flowspan.timeline import read  # noqa: PLC0415 - only this command needs it

    try:
        found = read.load(file, trace)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="TRACE_ID|FLOW_RUN_ID|latest") from None
    except read.SourceError as error:
        _fail(f"{error}\n{_HOW_TO_GET_SPANS}")
    except read.UnknownTraceError as error:
        _warn(error.problems)
        _fail(_unknown(error))
    if as_json:
        typer.echo(read.to_json(found), nl=False)
    else:
        _draw(found, everything=everything)
    if found.problems:
        _warn(found.problems)
        raise typer.Exit(1)


@app.command()
def metrics(
    *,
    flow: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Show only this flow and its tasks.", show_default=False),
    ] = None,
    file: Annotated[
        Path,
        typer.Option(
            envvar="FLOWSPAN_DIR",
            help="File of OTLP JSON lines, or folder of metrics*.jsonl files.",
        ),
    ] = Path(".flowspan"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as one JSON document instead.")
    ] = False,
) -> None:
    """Show how the runs of each flow and task went, added up over all processes.

    The success rate is the share of success among success, failure, timeout and error: cancelled
    and skipped runs do not count. Durations are the time in Running states, cached and skipped runs
    left out; p50 and p95 are estimated from the buckets of histograms, by linear interpolation.

    Exits with 1 if there are no metrics, or if something in the files could not be read.
    """
    from flowspan.otlp_json import SourceError  # noqa: PLC0415 - only two commands need it
    from flowspan.report import read, summary  # noqa: PLC0415 - only this command needs it

    try:
        found = read.load(file)
    except SourceError as error:
        _fail(f"{error}\n{_HOW_TO_GET_METRICS}")
    report = summary.summarize(found)
    shown = report if flow is None else summary.only(report, flow)
    if shown.is_empty:
        _warn(found.problems)
        _fail(_no_metrics(file, flow, report.flow_names))
    if as_json:
        typer.echo(summary.to_json(shown), nl=False)
    else:
        _draw_report(shown)
    if found.problems:
        _warn(found.problems)
        raise typer.Exit(1)


@app.command()
def doctor() -> None:
    """Check what would be recorded here, where it would go, and what would double it.

    Exits with 1 if something is wrong.
    """
    from rich.console import Console  # noqa: PLC0415 - only the commands that print need it
    from rich.table import Table  # noqa: PLC0415 - likewise
    from rich.text import Text  # noqa: PLC0415 - likewise

    from flowspan.doctor import Verdict, examine  # noqa: PLC0415 - imports Prefect

    styles = {Verdict.WELL: "green", Verdict.NOTE: "dim", Verdict.WRONG: "bold red"}
    table = Table.grid(padding=(0, 2))
    is_well = True
    for finding in examine():
        table.add_row(
            Text(finding.verdict.value, style=styles[finding.verdict]),
            Text(finding.subject),
            Text(finding.detail),
        )
        is_well = is_well and finding.verdict is not Verdict.WRONG
    Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH).print(table)
    if not is_well:
        raise typer.Exit(1)


_HOW_TO_GET_SPANS: Final = (
    "Run a flow that calls flowspan.instrument() first: with no OTEL_* endpoint set it writes its\n"
    "spans to .flowspan/ in its working directory. Or name a file or folder with --file PATH."
)


_HOW_TO_GET_METRICS: Final = (
    "Run a flow that calls flowspan.instrument() first: with no OTEL_METRICS_EXPORTER and no OTLP\n"
    "endpoint set, which would send them elsewhere, it writes its metrics to .flowspan/ in its\n"
    "working directory. Or name a file or folder with --file PATH."
)


def _fail(message: str) -> NoReturn:
    typer.echo(f"flowspan: {message}", err=True)
    raise typer.Exit(1)


def _warn(problems: "Sequence[Problem]") -> None:
    for problem in problems[:_WARNINGS_SHOWN]:
        typer.echo(f"flowspan: warning: {problem}", err=True)
    if len(problems) > _WARNINGS_SHOWN:
        more = len(problems) - _WARNINGS_SHOWN
        typer.echo(f"flowspan: warning: {more:,} more like these", err=True)


def _unknown(error: "UnknownTraceError") -> str:
    from flowspan.timeline.terminal import moment  # noqa: PLC0415 - only a failure needs it

    if not error.known:
        return f"{error}\n{_HOW_TO_GET_SPANS}"
    lines = [f"  {known.trace_id}  {moment(known.end)}  {known.name}" for known in error.known]
    return "\n".join([f"{error} The latest traces there are:", *lines])


def _no_metrics(file: Path, flow: str | None, known: "Sequence[str]") -> str:
    if flow is None or not known:
        return f"{file} holds no metrics of runs yet.\n{_HOW_TO_GET_METRICS}"
    names = "\n".join(f"  {name}" for name in known)
    return f"{file} holds no flow {flow!r}. The flows there are:\n{names}"


def _draw(trace: "Trace", *, everything: bool) -> None:
    from flowspan.timeline import terminal, tree  # noqa: PLC0415 - heavy, and only drawing needs it

    console = _console()
    lines = terminal.draw(
        tree.build(trace.spans, everything=everything),
        width=console.width,
        unicode=console.encoding.startswith("utf"),
        everything=everything,
    )
    _print(lines, console)


def _draw_report(report: "Report") -> None:
    from flowspan.report import terminal  # noqa: PLC0415 - heavy, and only drawing needs it

    console = _console()
    unicode = console.encoding.startswith("utf")
    _print(terminal.draw(report, width=console.width, unicode=unicode), console)


def _console() -> "Console":
    """Make a console as wide as the terminal; a pipe has no width, so it gets a stable one."""
    from rich.console import Console  # noqa: PLC0415 - heavy, and only drawing needs it

    if hasattr(sys.stdout, "reconfigure"):  # a name may hold what the output's encoding lacks
        sys.stdout.reconfigure(errors="replace")
    columns = os.environ.get("COLUMNS", "")
    width = None
    if not sys.stdout.isatty():
        width = int(columns) if columns.isdecimal() and int(columns) else _PIPED_WIDTH
    return Console(width=width, highlight=False, soft_wrap=False)


def _print(lines: "Iterable[Text]", console: "Console") -> None:
    for line in lines:
        console.print(line, no_wrap=True, overflow="crop", crop=True)
