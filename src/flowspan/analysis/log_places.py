"""Find the span of each log line, and its row in a tree that shows only some spans.

Pure: records and spans in, records by span id out.
"""

from collections.abc import Iterable, Mapping, Sequence

from flowspan.analysis.root import root_of
from flowspan.analysis.tree import Rest, Tree, walk
from flowspan.read.log_files import Log
from flowspan.read.span import Span, Trace


def by_span(logs: Iterable[Log], spans: Sequence[Span]) -> dict[str, list[Log]]:
    """Group the records of a trace by span, in the given order. Pass the spans by start.

    The span of a record may be missing: not sampled, or lost with its process. Then the record
    belongs to the span of its task run, else of its flow run, else to the root of the trace.
    """
    about = root_of(spans).span.span_id
    ids = {span.span_id for span in spans}
    runs: dict[str, list[Span]] = {}
    for span in spans:
        if span.is_run:
            runs.setdefault(str(span.facts.run_id).lower(), []).append(span)
    found: dict[str, list[Log]] = {}
    for log in logs:
        owner = log.span_id if log.span_id in ids else None
        for run_id in (log.task_run_id, log.flow_run_id):
            if owner is None and run_id in runs:
                owner = _at(runs[run_id], log.time).span_id
        found.setdefault(owner or about, []).append(log)
    return found


def within(logs: Iterable[Log], trace: Trace) -> list[Log]:
    """Return the records that belong to a trace, or to the part of one that it is.

    A record of a span that is missing belongs to a part if its task run or flow run does.
    """
    if not trace.is_part:
        return list(logs)
    ids = {span.span_id for span in trace.spans}
    ids |= {str(span.facts.run_id).lower() for span in trace.spans if span.is_run}
    return [
        log for log in logs if not ids.isdisjoint((log.span_id, log.task_run_id, log.flow_run_id))
    ]


def by_row(placed: Mapping[str, Iterable[Log]], tree: Tree) -> dict[str, list[Log]]:
    """Group records by the key of a row; spans without a row of their own fall to the row above."""
    rows = _rows(tree)
    found: dict[str, list[Log]] = {}
    for span_id, logs in placed.items():
        found.setdefault(rows[span_id], []).extend(logs)
    return {key: sorted(logs, key=lambda log: log.time) for key, logs in found.items()}


def _at(spans: Sequence[Span], time: int) -> Span:
    """Choose the span of a run at a time. A run has one span per process, sorted by start."""
    begun = [span for span in spans if span.start <= time]
    return begun[-1] if begun else spans[0]


def _rows(tree: Tree) -> dict[str, str]:
    """Map each span to the key of its row, or of the nearest row above it."""
    rows: dict[str, str] = {}
    for node in walk(tree):
        spans = node.spans if isinstance(node, Rest) else (node.span,)
        rows |= {span.span_id: node.key for span in spans}
    parents = {span.span_id: span.parent_span_id or "" for span in tree.spans}
    for span_id in parents:
        trail: list[str] = []
        above = span_id
        while above not in rows:  # ends: one span of each circle or chain has a row, as a root
            trail.append(above)
            above = parents[above]
        rows |= dict.fromkeys(trail, rows[above])
    return rows
