"""Tell under which span a log line stands, and in which row of a tree that shows only some spans.

Pure: records and spans in, records by span id out.
"""

from collections.abc import Iterable, Mapping, Sequence

from flowspan.analysis.root import root_of
from flowspan.analysis.tree import Rest, Tree, walk
from flowspan.read.log_files import Log
from flowspan.read.span import Span


def by_span(logs: Iterable[Log], spans: Sequence[Span]) -> dict[str, list[Log]]:
    """Put each record under its span, in the given order; the spans are a trace's, by start.

    The span of a record may not be there: not sampled, or lost with its process. Then the record
    belongs to the span of its task run, else to that of its flow run, else to what the trace is
    about.
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


def by_row(placed: Mapping[str, Iterable[Log]], tree: Tree) -> dict[str, list[Log]]:
    """Put the records of spans without a row into the row that stands for them, by its key."""
    rows = _rows(tree)
    found: dict[str, list[Log]] = {}
    for span_id, logs in placed.items():
        found.setdefault(rows[span_id], []).extend(logs)
    return {key: sorted(logs, key=lambda log: log.time) for key, logs in found.items()}


def _at(spans: Sequence[Span], time: int) -> Span:
    """Choose among the spans of a run, one for each process that took it up, by start."""
    begun = [span for span in spans if span.start <= time]
    return begun[-1] if begun else spans[0]


def _rows(tree: Tree) -> dict[str, str]:
    """Tell for each span the key of its row, or of the nearest row above it."""
    rows: dict[str, str] = {}
    for node in walk(tree):
        spans = node.spans if isinstance(node, Rest) else (node.span,)
        rows |= {span.span_id: node.key for span in spans}
    parents = {span.span_id: span.parent_span_id or "" for span in tree.spans}
    for span_id in parents:
        trail: list[str] = []
        above = span_id
        while above not in rows:  # ends: of each circle, and each chain, one has a row as a root
            trail.append(above)
            above = parents[above]
        rows |= dict.fromkeys(trail, rows[above])
    return rows
