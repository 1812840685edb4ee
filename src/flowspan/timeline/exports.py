"""The options of ``flowspan timeline`` that write a trace for other programs."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from flowspan._messages import fail, note

if TYPE_CHECKING:
    from flowspan.timeline.analysis import Analysis
    from flowspan.timeline.read import Trace

_STDOUT: Final = Path("-")

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


def is_printed(perfetto: Path | None, dot: Path | None) -> bool:
    """Tell whether an export takes standard output, so that nothing else may go there."""
    return _STDOUT in (perfetto, dot)


def check(perfetto: Path | None, dot: Path | None, *, as_json: bool) -> None:
    """Refuse what cannot go together.

    Raises:
        typer.BadParameter: Which is what, and what to do instead.
    """
    chosen = [name for name, path in (("--perfetto", perfetto), ("--dot", dot)) if path]
    if chosen and as_json:
        raise typer.BadParameter(
            "They write different documents: run the command once for each.",
            param_hint=", ".join(["--json", *chosen]),
        )
    if perfetto is not None and perfetto == dot:
        raise typer.BadParameter(
            "Both would go to the same place: name a file for one of them.",
            param_hint="--perfetto, --dot",
        )


def write(trace: "Trace", analysis: "Analysis", perfetto: Path | None, dot: Path | None) -> None:
    """Write what is asked for, and say where; exit where that cannot be."""
    if perfetto is not None:
        from flowspan.timeline.perfetto import to_perfetto  # noqa: PLC0415 - heavy

        _write(to_perfetto(trace, analysis), perfetto, "open it in https://ui.perfetto.dev")
    if dot is not None:
        from flowspan.timeline.dot import to_dot  # noqa: PLC0415 - heavy

        _write([to_dot(trace, analysis).encode()], dot, "draw it with: dot -Tsvg -O")


def _write(pieces: Iterable[bytes], path: Path, next_step: str) -> None:
    if path == _STDOUT:
        sys.stdout.flush()
        sys.stdout.buffer.writelines(pieces)
        return
    try:
        with path.open("wb") as stream:
            stream.writelines(pieces)
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror or error}")
    note(f"wrote {path}; {next_step}")
