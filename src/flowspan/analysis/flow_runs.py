"""Reduce the spans of a trace to its flow runs, for lists of runs and for trends."""

from __future__ import annotations

import datetime as dt
import heapq
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from flowspan import semconv
from flowspan.analysis.one_trace import analyse
from flowspan.analysis.root import is_root, root_of
from flowspan.read.span import Span
from flowspan.read.subtree import calling_flow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from flowspan.analysis.one_trace import Task
    from flowspan.read.facts import Facts
    from flowspan.read.span import Trace

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
        name: Name of the run; None if unknown.
        run_id: The run's id, or its span's id if the span has none.
        caller: The span of the flow run that called it, if another one did.
        trace_id: The id of its trace.
        start: Its first start.
        end: Its last end, or the time up to which it is known, if it has not ended.
        last_seen: When its process was last heard of, if it has not ended.
        duration: Nanoseconds over all processes, without the time between them.
        result: ``running`` or ``lost`` if its process reported it, but not its end; None if it has
            not ended otherwise, for example because it is suspended.
        state: The name of its last state; None if unknown.
        tags: Tags of the flow run.
        rows: Rows output by its tasks, or else input, or else output by the flow; None if unknown.
        rows_output: Rows output by the leaves of the flow, as its span has them; None if unknown.
        broken: The objectives that it violated, in order of time.
        bottleneck: The task, or flow, with the largest share of its critical path, if any.
        tasks: Tasks by name; flows by the name of their spans.
        started: By task, the first start of its runs.
        retries: Retries in order of time.
        is_plain: Whether it is a trace without any Prefect run.
    """

    flow: str
    name: str | None
    run_id: str
    caller: Span | None
    trace_id: str
    start: int
    end: int
    last_seen: int | None
    duration: int
    result: str | None
    state: str | None
    tags: tuple[str, ...]
    rows: int | None
    rows_output: int | None
    broken: tuple[str, ...]
    bottleneck: Task | None
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


def runs_of(trace: Trace, flow: str | None = None, *, subflows: bool = False) -> list[FlowRun]:
    """List the flow runs in a trace that no other run called, in order of time.

    A trace without any Prefect run counts as one run, named after its root.

    Args:
        trace: The trace.
        flow: List all runs of this flow instead, except those that it called itself.
        subflows: List the runs that other runs called, too.
    """
    by_id = {span.span_id: span for span in trace.spans}
    pieces = _pieces(trace.spans, by_id, flow, subflows=subflows)
    if not pieces and not any(span.is_run for span in trace.spans):
        pieces = _plain_piece(trace.spans, flow)
    by_run: dict[str, list[tuple[Span, list[Span]]]] = defaultdict(list)
    for piece, members in pieces:
        by_run[piece.facts.run_id or piece.span_id].append((piece, members))
    found = (_run(run_id, of_run, by_id) for run_id, of_run in by_run.items())
    return sorted(found, key=lambda run: run.start)


def latest(
    traces: Iterable[Trace], flow: str | None = None, *, subflows: bool = False
) -> Iterator[FlowRun]:
    """Yield the flow runs of all traces, the one that ended last first.

    A flow run without a span has not ended, or was killed: it has no result, and is known from its
    first to its last task. A run is yielded as soon as no other trace can have a later one.

    Args:
        traces: The one that ended last first.
        flow: As for `runs_of`.
        subflows: As for `runs_of`.
    """
    waiting: list[tuple[int, int, int, FlowRun]] = []
    for number, trace in enumerate(traces):
        end = max(span.end for span in trace.spans)
        while waiting and -waiting[0][0] >= end:
            yield heapq.heappop(waiting)[-1]
        for place, run in enumerate(runs_of(_with_root(trace), flow, subflows=subflows)):
            heapq.heappush(waiting, (-run.end, number, place, run))
    while waiting:
        yield heapq.heappop(waiting)[-1]


def _with_root(trace: Trace) -> Trace:
    """Add a span for the flow run that called the tasks of a trace, if its own is missing."""
    root = root_of(trace.spans)
    called = root.span.facts
    if root.is_there or called.run_type != "task" or not called.flow_name:
        return trace
    missing = Span(
        trace_id=trace.trace_id,
        span_id=root.span_id,
        parent_span_id=None,
        name=semconv.flow_span_name(called.flow_name),
        kind="SERVER",
        start=root.start,
        end=root.end,
        attributes={
            semconv.RUN_TYPE: "flow",
            semconv.RUN_ID: called.flow_run_id or root.span_id,
            semconv.FLOW_NAME: called.flow_name,
        },
        events=(),
        links=(),
        status="UNSET",
        status_message="",
        resource=root.span.resource,
    )
    return replace(trace, spans=(missing, *trace.spans))


def flow_names(trace: Trace) -> set[str]:
    """Return the names of the flows in a trace, or of its root if it has no Prefect run."""
    every = [span.facts for span in trace.spans]
    if any(facts.run_type for facts in every):
        return {facts.flow_name or UNNAMED for facts in every if facts.run_type == "flow"}
    return {root.name for root, _ in _plain_piece(trace.spans, None)}


def _pieces(
    spans: Sequence[Span], by_id: Mapping[str, Span], flow: str | None, *, subflows: bool
) -> list[tuple[Span, list[Span]]]:
    """Find the spans of the wanted flow runs, each with itself and all spans below it."""
    children: dict[str, list[Span]] = defaultdict(list)
    stack: list[tuple[Span, tuple[list[Span], ...]]] = []  # with the pieces that it is part of
    for span in spans:
        if span.parent_span_id in by_id:
            children[span.parent_span_id or ""].append(span)
        else:
            stack.append((span, ()))
    found: list[tuple[Span, list[Span]]] = []
    while stack:
        span, around = stack.pop()
        is_called = bool(around) and not subflows
        if not is_called and _is_wanted(span, flow, subflows=subflows):
            members: list[Span] = []
            found.append((span, members))
            around = (*around, members)
        for members in around:
            members.append(span)
        stack += [(child, around) for child in children.get(span.span_id, ())]
    return found


def _is_wanted(span: Span, flow: str | None, *, subflows: bool) -> bool:
    if span.facts.run_type != "flow":
        return False
    if flow is not None:
        return flow == (span.facts.flow_name or UNNAMED)
    # A called flow is part of its caller's run, even if the caller's span is lost.
    return subflows or is_root(span)


def _plain_piece(spans: Sequence[Span], flow: str | None) -> list[tuple[Span, list[Span]]]:
    root = root_of(spans).span
    return [(root, list(spans))] if flow in (None, root.name) else []


def _run(
    run_id: str, pieces: Sequence[tuple[Span, list[Span]]], by_id: Mapping[str, Span]
) -> FlowRun:
    tops = {piece.span_id: piece.as_root() for piece, _ in pieces}
    members = [tops.get(span.span_id, span) for _, part in pieces for span in part]
    last = max((piece for piece, _ in pieces), key=lambda piece: piece.end)
    own = last.facts
    analysis = analyse(members, what_if=False)
    is_plain = own.run_type is None
    return FlowRun(
        flow=last.name if is_plain else own.flow_name or UNNAMED,
        name=own.run_name,
        run_id=run_id,
        caller=calling_flow(last, by_id),
        trace_id=last.trace_id,
        start=min(piece.start for piece, _ in pieces),
        end=last.end,
        last_seen=None if last.open is None else last.open.last_seen,
        duration=sum(piece.duration for piece, _ in pieces),
        result=_result(last, own),
        state=own.state_name,
        tags=own.tags,
        rows=_rows(analysis.tasks),
        rows_output=own.rows_output,
        broken=tuple(_broken(piece for piece, _ in pieces)),
        bottleneck=analysis.bottleneck,
        tasks={
            _task_name(task.name, task.type): TaskOfRun(
                task.path, task.share, task.runs, task.failed
            )
            for task in analysis.tasks
        },
        started=_started(members),
        retries=tuple(sorted(_retries(members), key=lambda retry: retry.time)),
        is_plain=is_plain,
    )


def _broken(spans: Iterable[Span]) -> list[str]:
    """Return the names of the objectives that a flow run violated, each once."""
    events = [event for span in spans for event in span.events]
    named = (
        event.attributes.get(semconv.SLO_OBJECTIVE)
        for event in sorted(events, key=lambda event: event.time)
        if event.name == semconv.SLO_VIOLATED
    )
    return list(dict.fromkeys(map(str, filter(None, named))))


def _result(span: Span, facts: Facts) -> str | None:
    if span.open is not None:
        return span.open.state
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


def _started(spans: Iterable[Span]) -> dict[str, int]:
    started: dict[str, int] = {}
    for span in spans:
        if span.is_run:
            name = _name_of_run(span, span.facts)
            started[name] = min(started.get(name, span.start), span.start)
    return started


def _retries(spans: Iterable[Span]) -> Iterator[Retry]:
    """Yield each failed attempt that another attempt of the same run followed.

    If the attempts have no spans, yield one retry without error for each known extra run.
    """
    runs: dict[str, Span] = {}
    attempts: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        if span.is_run:
            runs[span.span_id] = span
        elif span.facts.attempt is not None and span.parent_span_id is not None:
            attempts[span.parent_span_id].append(span)
    for span_id, span in runs.items():
        own = span.facts
        name = _name_of_run(span, own)
        of_run = sorted(attempts.get(span_id, ()), key=lambda one: one.facts.attempt or 0)
        for attempt in of_run[:-1]:
            yield Retry(name, attempt.facts.error_type, attempt.end)
        if not of_run and own.retry:
            for _ in range(max(1, own.run_count - 1)):
                yield Retry(name, None, span.start)
