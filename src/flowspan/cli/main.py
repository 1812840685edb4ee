"""The ``flowspan`` command."""

import sys
from typing import Annotated

import typer

from flowspan._version import __version__
from flowspan.cli.collector import app as collector_app
from flowspan.cli.demo import demo
from flowspan.cli.diff import diff
from flowspan.cli.doctor import doctor
from flowspan.cli.logs import logs
from flowspan.cli.metrics import metrics
from flowspan.cli.output import note
from flowspan.cli.runs import runs
from flowspan.cli.timeline import timeline
from flowspan.cli.trends import trends
from flowspan.cli.watch import watch
from flowspan.cli.why import why

app = typer.Typer(
    name="flowspan",
    help="The OpenTelemetry bridge for Prefect 3.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(collector_app)
for command in (timeline, runs, diff, trends, logs, metrics, why, watch, demo, doctor):
    app.command()(command)


def main() -> None:
    """Run the command line tool."""
    try:
        app()
    except Exception as error:
        from flowspan.errors import SourceError  # noqa: PLC0415 - only this failure needs it

        # Details of spans are read only when they are shown; the file may be gone by then.
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
