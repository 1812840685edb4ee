"""The command ``flowspan trends``."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - Typer reads annotations at run time
from typing import TYPE_CHECKING, Annotated

import typer

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
from flowspan.cli.output import STDOUT, fail, note, warn, write_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flowspan.analysis.flow_runs import FlowRun
    from flowspan.analysis.trends.answers import FlowTrends
    from flowspan.read.lines import Problem
    from flowspan.read.span import Trace


def trends(
    context: typer.Context,
    *,
    flow: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Show only this flow, including runs that another flow called.",
            show_default=False,
        ),
    ] = None,
    since: Since = None,
    target: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            min=0,
            max=1,
            help="Share of runs that should succeed each day, e.g. 0.95. Default: the flow's "
            "min_success_rate.",
            show_default=False,
        ),
    ] = None,
    file: File = None,
    jaeger: Jaeger = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Also write a page with charts; - for standard output.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as one JSON document instead.")
    ] = False,
) -> None:
    """Show how flows change over time: slower or faster, since when, and why.

    Durations are those of successful runs. Tests: Mann-Kendall for a steady change, with the
    Theil-Sen slope; Pettitt for a step; Kruskal-Wallis for weekdays. A change is reported only if
    p < 0.01. Days and hours are local.

    Needs scipy: pip install 'flowspan[trends]'. Exits with 1 if there are no such runs, or if
    part of their source could not be read.
    """
    if as_json and html == STDOUT:
        raise typer.BadParameter(
            "Both would go to standard output: name a file for the page.",
            param_hint="--json, --html",
        )
    source = source_of(context, file, jaeger)
    _require_scipy()
    start = read_since_option(source.default_since if since is None else since)
    problems: list[Problem] = []
    runs, known = _runs(read_traces(source, problems, flow, start), flow)
    if not runs:
        warn(problems)
        fail(no_runs(source, flow, start, known))
    found = _answers(runs, target)
    if html is not None:
        from flowspan.views.html.trends import to_html  # noqa: PLC0415 - only this needs it

        write_file(html, [to_html(found).encode()])
    if as_json:
        from flowspan.views.json.trends import to_json  # noqa: PLC0415 - only this needs it

        typer.echo(to_json(found), nl=False)
    elif html != STDOUT:
        from flowspan.views.terminal.trends import draw  # noqa: PLC0415 - heavy

        output.draw(draw, found)
    if html not in (None, STDOUT):
        note(f"wrote {html}")
    if problems:
        warn(problems)
        raise typer.Exit(1)


def _require_scipy() -> None:
    try:
        import scipy  # noqa: F401, PLC0415 - an extra, and heavy
    except ModuleNotFoundError:
        fail("trends need scipy, which is not installed: pip install 'flowspan[trends]'")


def _runs(traces: Iterable[Trace], flow: str | None) -> tuple[list[FlowRun], set[str]]:
    """List all runs and the names of all flows.

    Traces that are not Prefect's count only if there are no others.
    """
    from flowspan.analysis.flow_runs import flow_names, runs_of  # noqa: PLC0415 - heavy

    found: list[FlowRun] = []
    known: set[str] = set()
    for trace in traces:
        found += runs_of(trace, flow)
        known |= flow_names(trace)
    of_prefect = [run for run in found if not run.is_plain]
    return of_prefect or found, known


def _answers(runs: Sequence[FlowRun], target: float | None) -> list[FlowTrends]:
    """Return the answers for each flow, starting with the one that ran last."""
    from flowspan.analysis.trends.answers import answer  # noqa: PLC0415 - heavy

    by_flow: dict[str, list[FlowRun]] = {}
    for run in sorted(runs, key=lambda run: run.end, reverse=True):
        by_flow.setdefault(run.flow, []).append(run)
    targets = _targets(by_flow) if target is None else dict.fromkeys(by_flow, target)
    return [answer(of_flow, targets.get(name)) for name, of_flow in by_flow.items()]


def _targets(by_flow: dict[str, list[FlowRun]]) -> dict[str, float]:
    """Return the objective for the success rate of each flow, by name or latest run's tags."""
    from flowspan.objectives.promises import objectives_for  # noqa: PLC0415 - heavy
    from flowspan.settings import Settings  # noqa: PLC0415 - same reason

    try:
        slo = Settings().slo
    except ValueError as error:
        fail(f"{error}\nOr name the target yourself: --target 0.95.")
    found = {}
    for name, runs in by_flow.items():
        promised = objectives_for(slo, name, runs[0].tags)
        if promised is not None and promised.min_success_rate is not None:
            found[name] = promised.min_success_rate.rate
    return found
