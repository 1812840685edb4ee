"""Reduce the spans of a trace to flow runs with only the data that trends need."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from flowspan import semconv
from flowspan.analysis.one_trace import analyse
from flowspan.analysis.root import is_root, root_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from flowspan.analysis.one_trace import Task
    from flowspan.read.facts import Facts
    from flowspan.read.span import Span, Trace

UNNAMED: Final = "(no name)"
"""Stands for an unknown flow; Prefect's own spans do not record its name."""


@dataclass(frozen=True, slots=True)
class TaskOfRun:
    """All runs of one task in one run of a flow, or the flow's own time.

    `path` is their time on the critical path in nanoseconds, `share` its share of the run.
    """

    path: int
    share: float
    runs: int
    failed: int


@dataclass(frozen=True, slots=True)
class Retry:
    """An attempt that failed and was retried; `error` is None if unknown."""

    task: str
    error: str | None
    time: int


@dataclass(frozen=True, slots=True)
class FlowRun:
    """One run of a flow, in however many processes; times in nanoseconds since the epoch.

    Attributes:
        flow: Name of the flow.
        run_id: The run's id, or its span's id if the span has none.
        trace_id: The id of its trace.
        start: Its first start.
        end: Its last end.
        duration: Nanoseconds over all processes, without the time between them.
        result: None if it has not ended, for example because it is suspended.
        tags: Tags of the flow run.
        rows: Rows output by its tasks, or else input, or else output by the flow; None if unknown.
        tasks: Tasks by name; flows by the name of their spans.
        started: By task, the first start of its runs.
        retries: Retries in order of time.
        is_plain: Whether it is a trace without any Prefect run.
    """

    flow: str
    run_id: str
    trace_id: str
    start: int
    end: int
    duration: int
    result: str | None
    tags: tuple[str, ...]
    rows: int | None
    tasks: Mapping[str, TaskOfRun]
    started: Mapping[str, int]
    retries: tuple[Retry, ...]
    is_plain: bool

    @property
    def has_finished(self) -> bool:
        """Whether the run counts for the success rate: cancelled runs do not."""
        return self.result in semconv.JUDGED_RESULTS

    @property
    def succeeded(self) -> bool:
        """Whether the run succeeded."""
        return self.result == "success"


def local_time(time: int) -> dt.datetime:
    """Convert nanoseconds since the epoch to local date and time, as clocks showed it then."""
    return dt.datetime.fromtimestamp(time / 1e9, dt.timezone.utc).astimezone()


def runs_of(trace: Trace, flow: str | None = None) -> list[FlowRun]:
    """List the flow runs in a trace that no other run called, in order of time.

    With a name, list all runs of this flow instead, except those that it called itself. A trace
    without any Prefect run counts as one run, named after its root.
    """
    facts = {span.span_id: span.facts for span in trace.spans}
    pieces = _pieces(trace.spans, facts, flow)
    if not pieces and not any(one.run_type for one in facts.values()):
        pieces = _plain_piece(trace.spans, flow)
    by_run: dict[str, list[tuple[Span, list[Span]]]] = defaultdict(list)
    for piece, members in pieces:
        by_run[facts[piece.span_id].run_id or piece.span_id].append((piece, members))
    found = (_run(run_id, of_run, facts) for run_id, of_run in by_run.items())
    return sorted(found, key=lambda run: run.start)


def flow_names(trace: Trace) -> set[str]:
    """Return the names of the flows in a trace, or of its root if it has no Prefect run."""
    every = [span.facts for span in trace.spans]
    if any(facts.run_type for facts in every):
        return {facts.flow_name or UNNAMED for facts in every if facts.run_type == "flow"}
    return {root.name for root, _ in _plain_piece(trace.spans, None)}


def _pieces(
    spans: Sequence[Span], facts: Mapping[str, Facts], flow: str | None
) -> list[tuple[Span, list[Span]]]:
    """Find the spans of the wanted flow runs, each with itself and all spans below it."""
    children: dict[str, list[Span]] = defaultdict(list)
    stack: list[tuple[Span, list[Span] | None]] = []
    for span in spans:
        if span.parent_span_id in facts:
            children[span.parent_span_id or ""].append(span)
        else:
            stack.append((span, None))
    found: list[tuple[Span, list[Span]]] = []
    while stack:
        span, members = stack.pop()
        if members is None and _is_wanted(span, facts, flow):
            members = []
            found.append((span, members))
        if members is not None:
            members.append(span)
        stack += [(child, members) for child in children.get(span.span_id, ())]
    return found


def _is_wanted(span: Span, facts: Mapping[str, Facts], flow: str | None) -> bool:
    own = facts[span.span_id]
    if own.run_type != "flow":
        return False
    if flow is not None:
        return flow == (own.flow_name or UNNAMED)
    # A called flow is part of its caller's run, even if the caller's span is lost.
    return is_root(span)


def _plain_piece(spans: Sequence[Span], flow: str | None) -> list[tuple[Span, list[Span]]]:
    root = root_of(spans).span
    return [(root, list(spans))] if flow in (None, root.name) else []


def _run(
    run_id: str, pieces: Sequence[tuple[Span, list[Span]]], facts: Mapping[str, Facts]
) -> FlowRun:
    members = [span for _, part in pieces for span in part]
    last = max((piece for piece, _ in pieces), key=lambda piece: piece.end)
    own = facts[last.span_id]
    tasks = analyse(members, what_if=False).tasks
    is_plain = own.run_type is None
    return FlowRun(
        flow=last.name if is_plain else own.flow_name or UNNAMED,
        run_id=run_id,
        trace_id=last.trace_id,
        start=min(piece.start for piece, _ in pieces),
        end=last.end,
        duration=sum(piece.duration for piece, _ in pieces),
        result=_result(last, own),
        tags=own.tags,
        rows=_rows(tasks),
        tasks={
            _task_name(task.name, task.type): TaskOfRun(
                task.path, task.share, task.runs, task.failed
            )
            for task in tasks
        },
        started=_started(members, facts),
        retries=tuple(sorted(_retries(members, facts), key=lambda retry: retry.time)),
        is_plain=is_plain,
    )


def _result(span: Span, facts: Facts) -> str | None:
    if facts.run_type is None:
        return "failure" if span.failed else "success"
    return facts.result or semconv.result_of(facts.state_type or "", facts.state_name or "")


def _task_name(name: str, run_type: str) -> str:
    if run_type != "flow" or name.startswith(semconv.flow_span_name("")):
        return name
    return semconv.flow_span_name(name)


def _rows(tasks: Iterable[Task]) -> int | None:
    by_type = sorted(tasks, key=lambda task: task.type != "task")
    for counts in (
        [task.rows_output for task in by_type if task.type == "task"],
        [task.rows_input for task in by_type if task.type == "task"],
        [task.rows_output for task in by_type],
    ):
        if known := [count for count in counts if count is not None]:
            return sum(known)
    return None


def _name_of_run(span: Span, facts: Facts) -> str:
    if facts.run_type == "flow":
        return semconv.flow_span_name(facts.flow_name or UNNAMED)
    return facts.task_name or span.name


def _started(spans: Iterable[Span], facts: Mapping[str, Facts]) -> dict[str, int]:
    started: dict[str, int] = {}
    for span in spans:
        own = facts[span.span_id]
        if own.run_type is not None:
            name = _name_of_run(span, own)
            started[name] = min(started.get(name, span.start), span.start)
    return started


def _retries(spans: Iterable[Span], facts: Mapping[str, Facts]) -> Iterator[Retry]:
    """Yield each failed attempt that another attempt of the same run followed.

    If the attempts have no spans, yield one retry without error for each known extra run.
    """
    runs: dict[str, Span] = {}
    attempts: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        own = facts[span.span_id]
        if own.run_type is not None:
            runs[span.span_id] = span
        elif own.attempt is not None and span.parent_span_id is not None:
            attempts[span.parent_span_id].append(span)
    for span_id, span in runs.items():
        own = facts[span_id]
        name = _name_of_run(span, own)
        of_run = sorted(attempts.get(span_id, ()), key=lambda one: facts[one.span_id].attempt or 0)
        for attempt in of_run[:-1]:
            yield Retry(name, facts[attempt.span_id].error_type, attempt.end)
        if not of_run and own.retry:
            for _ in range(max(1, own.run_count - 1)):
                yield Retry(name, None, span.start)
