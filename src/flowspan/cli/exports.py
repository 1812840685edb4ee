"""The options of ``flowspan timeline`` that write a trace for other programs."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from flowspan.cli.output import STDOUT, note, write_file

if TYPE_CHECKING:
    from flowspan.analysis.one_trace import Analysis
    from flowspan.read.span import Trace

Perfetto: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--perfetto",
        metavar="PATH",
        help="Also write the trace for Perfetto or speedscope; to - for standard output.",
        show_default=False,
    ),
]

Dot: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--dot",
        metavar="PATH",
        help="Also write the graph of the runs for Graphviz; to - for standard output.",
        show_default=False,
    ),
]


Html: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--html",
        metavar="PATH",
        help="Also write a page for the browser, with its log lines; to - for standard output.",
        show_default=False,
    ),
]


def is_printed(*paths: Path | None) -> bool:
    """Tell whether an export takes standard output, so that nothing else may go there."""
    return STDOUT in paths


def check(perfetto: Path | None, dot: Path | None, html: Path | None, *, as_json: bool) -> None:
    """Refuse what cannot go together.

    Raises:
        typer.BadParameter: Which is what, and what to do instead.
    """
    chosen = {"--perfetto": perfetto, "--dot": dot, "--html": html}
    places = {name: path for name, path in chosen.items() if path is not None}
    refused = [name for name, path in places.items() if name != "--html" or path == STDOUT]
    if refused and as_json:
        raise typer.BadParameter(
            "They write different documents: run the command once for each.",
            param_hint=", ".join(["--json", *refused]),
        )
    if len(set(places.values())) < len(places):
        raise typer.BadParameter(
            "They would go to the same place: name a file for each.",
            param_hint=", ".join(places),
        )


def write(trace: "Trace", analysis: "Analysis", perfetto: Path | None, dot: Path | None) -> None:
    """Write what is asked for, and say where; exit where that cannot be."""
    if perfetto is not None:
        from flowspan.views.perfetto import to_perfetto  # noqa: PLC0415 - heavy

        _write(to_perfetto(trace, analysis), perfetto, "open it in https://ui.perfetto.dev")
    if dot is not None:
        from flowspan.views.dot import to_dot  # noqa: PLC0415 - heavy

        _write([to_dot(trace, analysis).encode()], dot, "draw it with: dot -Tsvg -O")


def _write(pieces: Iterable[bytes], path: Path, next_step: str) -> None:
    write_file(path, pieces)
    if path != STDOUT:
        note(f"wrote {path}; {next_step}")
