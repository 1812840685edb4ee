"""The command ``flowspan runs``."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Final

import typer

from flowspan import semconv
from flowspan.cli import output
from flowspan.cli.options import (
    File,
    Jaeger,
    Since,
    no_runs,
    read_since_option,
    read_traces,
    source_of,
)
from flowspan.cli.output import STDOUT, fail, warn, write_file

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from flowspan.analysis.flow_runs import FlowRun
    from flowspan.read.lines import Problem
    from flowspan.read.span import Trace

_RESULTS: Final = (*semconv.RESULTS, "running", "lost")


def runs(
    context: typer.Context,
    *,
    flow: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Only runs of this flow, including those that another flow called.",
            show_default=False,
        ),
    ] = None,
    since: Since = None,
    result: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RESULT",
            help=f"Only runs with this result: {', '.join(_RESULTS)}. Repeat it for more.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="List the latest N runs.")] = 20,
    subflows: Annotated[
        bool, typer.Option("--subflows", help="Also list the runs that other flow runs called.")
    ] = False,
    file: File = None,
    jaeger: Jaeger = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the runs as a JSON list instead.")
    ] = False,
) -> None:
    """List flow runs, the one that ended last first.

    Columns that do not fit are left out. 'rows' are those that the last tasks returned, 'violates'
    names the objectives that the run violated. 'flowspan timeline' takes the name of a run or the
    digits in the column 'trace'.

    Exits with 1 if there are no such runs, or if part of their source could not be read.
    """
    wanted = _read_results(result)
    source = source_of(context, file, jaeger)
    start = read_since_option(source.default_since if since is None else since)
    problems: list[Problem] = []
    known: set[str] = set()
    results: Counter[str] = Counter()
    traces = _noting_flows(read_traces(source, problems, flow, start), known)
    found = [*islice(_listed(traces, flow, wanted, results, subflows=subflows), limit)]
    if not found:
        warn(problems)
        fail(_no_result(wanted, results) if results else no_runs(source, flow, start, known))
    if as_json:
        from flowspan.views.json.runs import to_json  # noqa: PLC0415 - heavy

        write_file(STDOUT, [to_json(found)])
    else:
        from flowspan.views.terminal.runs import draw  # noqa: PLC0415 - heavy

        output.draw(draw, found)
    if problems:
        warn(problems)
        raise typer.Exit(1)


def _read_results(texts: Iterable[str] | None) -> Collection[str]:
    found = [text.strip().lower() for text in texts or ()]
    for text in found:
        if text not in _RESULTS:
            raise typer.BadParameter(
                f"{text!r} is no result. Results are {', '.join(_RESULTS)}.", param_hint="--result"
            )
    return found


def _noting_flows(traces: Iterable[Trace], known: set[str]) -> Iterator[Trace]:
    """Yield traces, and add the names of their flows to `known`."""
    from flowspan.analysis.flow_runs import flow_names  # noqa: PLC0415 - heavy

    for trace in traces:
        known |= flow_names(trace)
        yield trace


def _listed(
    traces: Iterable[Trace],
    flow: str | None,
    wanted: Collection[str],
    results: Counter[str],
    *,
    subflows: bool,
) -> Iterator[FlowRun]:
    """Yield the runs with a wanted result, the latest first, and count the results of all."""
    from flowspan.analysis.flow_runs import latest  # noqa: PLC0415 - heavy

    for run in latest(traces, flow, subflows=subflows):
        results[run.result or run.state or "not ended"] += 1
        if not wanted or run.result in wanted:
            yield run


def _no_result(wanted: Iterable[str], results: Counter[str]) -> str:
    there = ", ".join(f"{count:,} {result}" for result, count in results.most_common())
    return f"none of these runs has the result {' or '.join(wanted)}: {there}."
