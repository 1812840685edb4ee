"""``flowspan diff``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowspan.cli import output
from flowspan.cli.options import FOLDER, Jaeger, load_trace, source_of
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
            metavar="TRACE_A",
            help="The run to compare with: an id as for 'flowspan timeline', a file, or (default) "
            "latest~1, the run before the latest.",
            show_default=False,
        ),
    ] = "latest~1",
    trace_b: Annotated[
        str,
        typer.Argument(
            metavar="TRACE_B",
            help="The run to explain, likewise, by default the latest.",
            show_default=False,
        ),
    ] = "latest",
    *,
    file: Annotated[
        Path,
        typer.Option(
            envvar="FLOWSPAN_DIR",
            help="File of OTLP JSON or protobuf, or folder of such files (traces*.jsonl where"
            " there are some).",
        ),
    ] = FOLDER,
    jaeger: Jaeger = None,
    flow: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Count only runs of this flow as the latest.", show_default=False
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as one JSON document instead.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Show tasks that hardly changed, too.")
    ] = False,
) -> None:
    """Explain why one run took longer than another.

    What counts is the change of each task's time on the critical path: these changes, with that of
    the flow's own time, add up to the change of the duration.

    Exits with 1 if there is no such run, or if something in its source could not be read.
    """
    from flowspan.analysis import two_traces  # noqa: PLC0415 - heavy
    from flowspan.views.json import difference  # noqa: PLC0415 - heavy

    source = source_of(context, file, jaeger)
    if not source.can_be_read_again:
        raise typer.BadParameter(
            f"{source.name} can be read but once: write it to a file.", param_hint="--file"
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
    """Load one of two traces. A file that is named in place of an id holds it by itself.

    The flow counts only where the latest run is wanted.
    """
    from flowspan.read.selection import LATEST, is_wanted, steps_back  # noqa: PLC0415 - heavy

    if not is_wanted(wanted) and Path(wanted).exists():
        return load_trace(FileSource(Path(wanted)), LATEST, flow)
    return load_trace(source, wanted, None if steps_back(wanted) is None else flow)


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
