"""Find what a trace is about."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from flowspan.read.span import Span

_CALLED_FROM_AFAR: Final = ("SERVER", "CONSUMER")


@dataclass(frozen=True, slots=True)
class Root:
    """The subject of a trace, usually a flow run; times in nanoseconds since the epoch.

    Attributes:
        span: The span of the subject; if it ran in several processes, the one that ended last. If
            it is missing, a span that the subject called: preferably a task's, which carries the
            name of its flow.
        span_id: The id of the subject's span.
        start: The start, in its first process.
        end: The end.
    """

    span: Span
    span_id: str
    start: int
    end: int

    @property
    def is_there(self) -> bool:
        """Whether the root's span is in the trace. If not, it has not ended, or was killed."""
        return self.span.span_id == self.span_id


def root_of(spans: Sequence[Span], ids: Container[str] | None = None) -> Root:
    """Return what a trace is about: its first root that is a flow run, else any run, else any span.

    A span with a missing caller counts as a root only if the caller was in another process. If the
    trace has no root at all, it is about the missing caller of most of its spans.

    Args:
        spans: At least one, sorted by start.
        ids: Ids of known callers. By default the ids of the spans.
    """
    known = {span.span_id for span in spans} if ids is None else ids
    topmost = [span for span in spans if span.parent_span_id not in known]
    topmost = topmost or [spans[0]]  # all spans form circles
    roots = [span for span in topmost if is_root(span)]
    return _run_of(_first(roots), spans) if roots else _missing(topmost)


def is_root(span: Span) -> bool:
    """Check that no span of its own process called a span."""
    return span.parent_span_id is None or span.kind in _CALLED_FROM_AFAR


def _first(spans: Sequence[Span]) -> Span:
    """Return the first span of a flow run, else of any run, else of all."""
    by_type = {span.facts.run_type: span for span in reversed(spans)}
    return by_type.get("flow") or next(
        (span for span in spans if span.facts.run_type is not None), spans[0]
    )


def _run_of(root: Span, spans: Iterable[Span]) -> Root:
    run_id = root.facts.run_id
    processes = [root] if run_id is None else [s for s in spans if s.facts.run_id == run_id]
    last = max(processes, key=lambda span: span.start + span.duration)
    return Root(last, last.span_id, root.start, last.start + last.duration)


def _missing(orphans: Iterable[Span]) -> Root:
    groups: defaultdict[str, list[Span]] = defaultdict(list)
    for span in orphans:
        groups[span.parent_span_id or ""].append(span)
    caller, called = max(groups.items(), key=lambda group: len(group[1]))
    tasks = (span for span in called if span.facts.run_type == "task" and span.facts.flow_name)
    return Root(
        next(tasks, None) or _first(called),
        caller,
        min(span.start for span in called),
        max(span.start + span.duration for span in called),
    )
