"""``flowspan diff``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowspan.cli import output
from flowspan.cli.options import DEFAULT_FILES, Jaeger, load_trace, source_of
from flowspan.read.source import FileSource

if TYPE_CHECKING:
    from flowspan.analysis.two_traces import Difference
    from flowspan.read.source import TraceSource
    from flowspan.read.span import Trace


def diff(
    context: typer.Context,
    trace_a: Annotated[
        str,
        typer.Argument(
            metavar="RUN_A",
            help="Run to compare with: a name or id as for 'flowspan timeline', a file, or "
            "(default) latest~1, the run before the latest.",
            show_default=False,
        ),
    ] = "latest~1",
    trace_b: Annotated[
        str,
        typer.Argument(
            metavar="RUN_B",
            help="Run to explain, named in the same ways. Default: the latest.",
            show_default=False,
        ),
    ] = "latest",
    *,
    file: Annotated[
        Path | None,
        typer.Option(
            envvar="FLOWSPAN_DIR",
            show_default=DEFAULT_FILES,
            help="File of OTLP JSON or protobuf, or folder of such files (only traces*.jsonl"
            " if there are any).",
        ),
    ] = None,
    jaeger: Jaeger = None,
    flow: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Choose the latest among runs of this flow.", show_default=False
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as one JSON document instead.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Also show tasks that hardly changed.")
    ] = False,
) -> None:
    """Explain why one run took longer than another.

    Each task is compared by its time on the critical path. These changes and that of the flow's
    own time add up to the change of the duration.

    Exits with 1 if there is no such run, or if part of its source could not be read.
    """
    from flowspan.analysis import two_traces  # noqa: PLC0415 - heavy
    from flowspan.views.json import difference  # noqa: PLC0415 - heavy

    source = source_of(context, file, jaeger)
    if not source.can_be_read_again:
        raise typer.BadParameter(
            f"{source.name} can be read only once: save it to a file.", param_hint="--file"
        )
    before, after = (_load_side(source, wanted, flow) for wanted in (trace_a, trace_b))
    found = two_traces.compare(before, after)
    if as_json:
        typer.echo(difference.to_json(found), nl=False)
    else:
        _draw_difference(found, everything=everything)
    problems = tuple(dict.fromkeys((*before.problems, *after.problems)))
    if problems:
        output.warn(problems)
        raise typer.Exit(1)


def _load_side(source: "TraceSource", wanted: str, flow: str | None) -> "Trace":
    """Load one of two traces, from a file of its own if `wanted` names one.

    `flow` matters only if the latest run is wanted.
    """
    from flowspan.read.selection import LATEST, steps_back  # noqa: PLC0415 - heavy

    if steps_back(wanted) is not None:
        return load_trace(source, wanted, flow)
    if Path(wanted).exists():
        return load_trace(FileSource(Path(wanted)), LATEST, flow)
    return load_trace(source, wanted)


def _draw_difference(found: "Difference", *, everything: bool) -> None:
    from flowspan.views.terminal import difference  # noqa: PLC0415 - heavy

    console = output.console()
    drawn = difference.draw(
        found,
        width=console.width,
        unicode=output.shows_unicode(console),
        everything=everything,
    )
    for line in drawn:  # its sentences are wrapped, its table fits
        console.print(line)
