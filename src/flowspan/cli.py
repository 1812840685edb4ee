"""The ``flowspan`` command."""

import datetime as dt
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from flowspan import _output
from flowspan import demo as example
from flowspan._messages import fail, note
from flowspan._options import FOLDER
from flowspan._version import __version__
from flowspan.collector.cli import app as collector_app
from flowspan.timeline.cli import diff, logs, timeline
from flowspan.trends.cli import trends

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowspan.report.summary import Report


app = typer.Typer(
    name="flowspan",
    help="The OpenTelemetry bridge for Prefect 3.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(collector_app)
app.command()(trends)
app.command()(timeline)
app.command()(diff)
app.command()(logs)


def main() -> None:
    """Run the command line tool."""
    try:
        app()
    except Exception as error:
        from flowspan.otlp_json import SourceError  # noqa: PLC0415 - only this failure needs it

        # Details of spans stay in their file until they are shown; it may be gone by then.
        if not isinstance(error, SourceError):
            raise
        note(str(error))
        sys.exit(1)


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
    ] = FOLDER,
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
        fail(f"{error}\n{_HOW_TO_GET_METRICS}")
    report = summary.summarize(found)
    shown = report if flow is None else summary.only(report, flow)
    if shown.is_empty:
        _output.warn(found.problems)
        fail(_no_metrics(file, flow, report.flow_names))
    if as_json:
        typer.echo(summary.to_json(shown), nl=False)
    else:
        _draw_report(shown)
    if found.problems:
        _output.warn(found.problems)
        raise typer.Exit(1)


@app.command()
def demo(
    context: typer.Context,
    *,
    log: Annotated[
        example.Level,
        typer.Option(help="Show Prefect's log from this level on, too.", case_sensitive=False),
    ] = example.Level.CRITICAL,
) -> None:
    """Trace a real flow, and show its timeline and its metrics.

    It is a pipeline over the 336,776 flights that left New York in 2013, and runs on a temporary
    Prefect server. All that is written goes to .flowspan/ in the working directory, or to the
    folder that FLOWSPAN_DIR names: report.html is the timeline as a page.

    Needs data and packages: pip install 'flowspan[demo]'. Exits with 1 if the flow failed.
    """
    example.require_packages()
    folder = Path(os.environ.get("FLOWSPAN_DIR") or FOLDER)
    page = folder / "report.html"
    started = dt.datetime.now().astimezone().isoformat()
    typer.echo(
        f"Running {_below_here(example.script())} on a temporary Prefect server, "
        "some 20 seconds ..."
    )
    try:
        succeeded = example.run(example.script(), folder, log)
    except OSError as error:
        fail(f"{error.filename or folder} cannot be written: {error.strerror or error}.")
    if not succeeded:
        more = f" Prefect's log may tell more: {_own_name()} demo --log INFO"
        fail("the flow failed." + ("" if log is example.Level.INFO else more))
    typer.echo()
    timeline(context, file=folder, flow=example.FLOW, since=started, html=page)
    typer.echo()
    metrics(file=folder)
    typer.echo(f"\nThe timeline as a page: {page}")
    typer.echo(f"All of it lies in {folder}/, and the log, too: {_own_name()} timeline --logs")


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
    Console(highlight=False, width=None if sys.stdout.isatty() else _output.PIPED_WIDTH).print(
        table
    )
    if not is_well:
        raise typer.Exit(1)


def _own_name() -> str:
    """Tell what to type for this command: its name if the shell finds it by that, else its path."""
    called = Path(sys.argv[0])
    if called.stem != "flowspan" or shutil.which("flowspan") == shutil.which(called):
        return "flowspan"
    return shlex.quote(str(called))


def _below_here(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


_HOW_TO_GET_METRICS: Final = (
    "Run a flow that calls flowspan.instrument() first: with no OTEL_METRICS_EXPORTER and no OTLP\n"
    "endpoint set, which would send them elsewhere, it writes its metrics to .flowspan/ in its\n"
    "working directory. Or name a file or folder with --file PATH."
)


def _no_metrics(file: Path, flow: str | None, known: "Sequence[str]") -> str:
    if flow is None or not known:
        return f"{file} holds no metrics of runs yet.\n{_HOW_TO_GET_METRICS}"
    names = "\n".join(f"  {name}" for name in known)
    return f"{file} holds no flow {flow!r}. The flows there are:\n{names}"


def _draw_report(report: "Report") -> None:
    from flowspan.report import terminal  # noqa: PLC0415 - heavy, and only drawing needs it

    console = _output.console()
    unicode = console.encoding.startswith("utf")
    _output.print_lines(terminal.draw(report, width=console.width, unicode=unicode), console)
