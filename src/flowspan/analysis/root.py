"""Say what a trace is about."""

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
    """What a trace is about, mostly the run of a flow; times in nanoseconds since the epoch.

    Attributes:
        span: Its span, of a run in several processes the one that ended last. Where its span is
            missing, one that it called stands in: a task, which knows the name of its flow, if
            there is one.
        span_id: The id of its span.
        start: When it started, in its first process.
        end: When it ended.
    """

    span: Span
    span_id: str
    start: int
    end: int

    @property
    def is_there(self) -> bool:
        """Whether its span is in the trace. If not, it has not ended, or was killed."""
        return self.span.span_id == self.span_id


def root_of(spans: Sequence[Span], ids: Container[str] | None = None) -> Root:
    """Return what a trace is about: its first flow run, else run, else span that is a root.

    A span whose caller is missing is no root unless the caller called from another process. Only
    where there is no root at all, the trace is about the missing caller of most of these spans.

    Args:
        spans: At least one, by start.
        ids: Callers that are known. By default the ids of the spans.
    """
    known = {span.span_id for span in spans} if ids is None else ids
    topmost = [span for span in spans if span.parent_span_id not in known]
    topmost = topmost or [spans[0]]  # where all of them are in circles
    roots = [span for span in topmost if is_root(span)]
    return _run_of(_first(roots), spans) if roots else _missing(topmost)


def is_root(span: Span) -> bool:
    """Return whether a span is one that no span of its own process called."""
    return span.parent_span_id is None or span.kind in _CALLED_FROM_AFAR


def _first(spans: Sequence[Span]) -> Span:
    """Return the first of a flow run, else of a run, else of all."""
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
