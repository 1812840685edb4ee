"""``flowspan metrics``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from flowspan.cli import output
from flowspan.cli.options import DEFAULT_FILES, files_of
from flowspan.cli.output import fail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowspan.places import Folders


def metrics(
    *,
    flow: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Show only this flow and its tasks.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            envvar="FLOWSPAN_DIR",
            show_default=DEFAULT_FILES,
            help="File of OTLP JSON lines, or folder of metrics*.jsonl files.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as one JSON document instead.")
    ] = False,
) -> None:
    """Show results and durations of the runs of each flow and task, over all processes.

    The success rate is the share of successes among runs that ended in success, failure, timeout
    or error; cancelled and skipped runs do not count. Durations are the time in Running states,
    without cached and skipped runs. p50 and p95 are estimated from the buckets of histograms by
    linear interpolation.

    Exits with 1 if there are no metrics, or if part of the files could not be read.
    """
    from flowspan.analysis import run_metrics  # noqa: PLC0415 - only this command needs it
    from flowspan.errors import SourceError  # noqa: PLC0415 - only two commands need it
    from flowspan.read import metric_files  # noqa: PLC0415 - only this command needs it
    from flowspan.views.json import metrics  # noqa: PLC0415 - only this command needs it

    source = files_of(file)
    try:
        found = metric_files.load(source)
    except SourceError as error:
        fail(_open_run(source) or f"{error}\n{HOW_TO_GET_METRICS}")
    report = run_metrics.summarize(found)
    shown = report if flow is None else run_metrics.only(report, flow)
    if shown.is_empty:
        output.warn(found.problems)
        fail(_no_metrics(source, flow, report.flow_names))
    if as_json:
        typer.echo(metrics.to_json(shown), nl=False)
    else:
        from flowspan.views.terminal.metrics import draw  # noqa: PLC0415 - heavy

        output.draw(draw, shown)
    if found.problems:
        output.warn(found.problems)
        raise typer.Exit(1)


HOW_TO_GET_METRICS: Final = (
    "First run a flow that calls flowspan.instrument(). It writes its metrics to .flowspan/ in\n"
    "its working directory, or to flowspan/ in Prefect's home if that is temporary, unless\n"
    "OTEL_METRICS_EXPORTER or an OTLP endpoint sends them elsewhere: flowspan doctor says where.\n"
    "Or name another file or folder with --file PATH."
)


def _open_run(source: "Path | Folders") -> str | None:
    """Return why there are no metrics, if the latest run has not ended; else None."""
    from flowspan.analysis.root import root_of  # noqa: PLC0415 - only a failure needs it
    from flowspan.errors import SourceError  # noqa: PLC0415 - same reason
    from flowspan.read import trace_files  # noqa: PLC0415 - same reason
    from flowspan.read.selection import UnknownRunError  # noqa: PLC0415 - same reason
    from flowspan.text import clean  # noqa: PLC0415 - same reason

    try:
        found = root_of(trace_files.load(source).spans).span
    except (SourceError, UnknownRunError):
        return None
    if found.open is None:
        return None
    how = "is running" if found.open.state == "running" else "was lost before its end"
    name = clean(found.facts.flow_name or found.name)
    return (
        f"{source} holds no metrics of runs yet: the latest one, of {name!r}, {how}. A run is"
        " counted at its end.\n'flowspan timeline' shows it."
    )


def _no_metrics(source: "Path | Folders", flow: str | None, known: "Sequence[str]") -> str:
    if flow is None or not known:
        return _open_run(source) or f"{source} holds no metrics of runs yet.\n{HOW_TO_GET_METRICS}"
    names = "\n".join(f"  {name}" for name in known)
    return f"{source} holds no flow {flow!r}. Its flows:\n{names}"
