"""Take the part of a trace that is one flow run."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flowspan.read.span import Span, Trace


def below(trace: Trace, run_id: str | None) -> Trace:
    """Return the part of a trace that is a flow run, with everything that it called.

    Args:
        trace: The whole trace.
        run_id: The id of the flow run; the trace is returned as it is if this is None, or not the
            id of a flow run in it, or the part is the whole.
    """
    tops = [span for span in trace.spans if _is_flow_run(span, run_id)]
    kept = _below(tops, trace.spans)
    if not tops or len(kept) == len(trace.spans):
        return trace
    by_id = {span.span_id: span for span in trace.spans}
    roots = {top.span_id: top.as_root() for top in tops}
    return replace(
        trace,
        spans=tuple(roots.get(span.span_id, span) for span in trace.spans if span.span_id in kept),
        is_part=True,
        called_by=calling_flow(tops[-1], by_id),
    )


def calling_flow(span: Span, by_id: Mapping[str, Span]) -> Span | None:
    """Return the span of the nearest flow run above a span, if it is in the trace."""
    seen = {span.span_id}
    while (above := by_id.get(span.parent_span_id or "")) and above.span_id not in seen:
        if above.facts.run_type == "flow":
            return above
        seen.add(above.span_id)
        span = above
    return None


def _is_flow_run(span: Span, run_id: str | None) -> bool:
    own = span.facts
    return (
        bool(run_id) and own.run_type == "flow" and str(own.run_id).lower() == str(run_id).lower()
    )


def _below(tops: Iterable[Span], spans: Sequence[Span]) -> set[str]:
    """Return the ids of spans, and of all spans below them."""
    children: dict[str | None, list[str]] = defaultdict(list)
    for span in spans:
        children[span.parent_span_id].append(span.span_id)
    found: set[str] = set()
    stack = [top.span_id for top in tops]
    while stack:
        span_id = stack.pop()
        if span_id not in found:
            found.add(span_id)
            stack += children[span_id]
    return found
