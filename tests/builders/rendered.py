"""What the views make of a trace, without files."""

from collections.abc import Callable, Iterable

from flowspan.analysis.findings import Findings
from flowspan.read.span import Trace
from flowspan.views.wishes import Wishes


def rendered(render: Callable[[Findings, Wishes], Iterable[bytes]], trace: Trace) -> bytes:
    """Return what a view writes."""
    return b"".join(render(Findings(trace), Wishes()))
