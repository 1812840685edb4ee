"""Show a run while it goes on, for ``flowspan timeline --follow``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import typer

from flowspan.cli.options import load_trace
from flowspan.cli.output import console, shows_unicode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console
    from rich.text import Text

    from flowspan.read.source import TraceSource
    from flowspan.read.span import Trace

_SHORTEST_PAUSE: Final = 0.25
"""Seconds between two drawings at least."""
_IDLE: Final = 3
"""How many times longer the pause is than reading and drawing: a large store must cost little."""
_HEAD: Final = 8  # lines from the title to the critical path
_INTERRUPTED: Final = 130  # the exit code of a program that Ctrl+C ends


def follow(source: TraceSource, found: Trace) -> Trace | None:
    """Show a trace until none of its runs is running.

    On a terminal it is drawn in place; then this returns the last version, which is not on the
    screen any more. Elsewhere each new state of a run is a line.
    """
    screen = console()
    watched = _watched(source, found)
    try:
        if screen.is_terminal:
            return _redraw(watched, screen)
        _print_states(watched)
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None
    return None


def _watched(source: TraceSource, found: Trace) -> Iterator[Trace]:
    """Yield a trace again and again until none of its runs is running."""
    top = found.spans[0].facts
    wanted = str(top.run_id) if found.is_part else found.trace_id
    while True:
        begun = time.monotonic()
        yield found
        if not _is_running(found):
            return
        time.sleep(max(_SHORTEST_PAUSE, _IDLE * (time.monotonic() - begun)))
        found = load_trace(source, wanted)


def _is_running(trace: Trace) -> bool:
    return any(span.open is not None and span.open.state == "running" for span in trace.spans)


def _print_states(watched: Iterator[Trace]) -> None:
    from flowspan.views.terminal.states import States  # noqa: PLC0415 - heavy

    states = States()
    for trace in watched:
        for line in states.lines(trace.spans):
            typer.echo(line)


def _redraw(watched: Iterator[Trace], screen: Console) -> Trace:
    from rich.console import Group  # noqa: PLC0415 - heavy
    from rich.live import Live  # noqa: PLC0415 - heavy

    with Live(console=screen, auto_refresh=False, transient=True) as live:
        for trace in watched:
            lines = _fitted([*_drawn(trace, screen)], screen.height)
            live.update(Group(*lines), refresh=True)
    return trace


def _drawn(trace: Trace, screen: Console) -> Iterator[Text]:
    """Yield the lines of a timeline, without the summary below it."""
    from flowspan.analysis.findings import Findings  # noqa: PLC0415 - heavy
    from flowspan.views.headline import part_of  # noqa: PLC0415 - heavy
    from flowspan.views.terminal.timeline import draw  # noqa: PLC0415 - heavy

    findings = Findings(trace)
    for line in draw(
        findings.tree,
        width=screen.width,
        unicode=shows_unicode(screen),
        analysis=findings.analysis,
        around=part_of(trace),
    ):
        line.no_wrap, line.overflow = True, "crop"
        yield line


def _fitted(lines: Sequence[Text], height: int) -> Sequence[Text]:
    """Leave out lines between the title and the last ones if there are more than fit."""
    from rich.text import Text  # noqa: PLC0415 - heavy

    room = height - 1  # the cursor is on the line below
    if len(lines) <= room or room <= _HEAD:
        return lines[:room]
    tail = room - _HEAD - 1
    hidden = len(lines) - _HEAD - tail
    return [*lines[:_HEAD], Text(f"({hidden:,} lines more)", "dim"), *lines[len(lines) - tail :]]
