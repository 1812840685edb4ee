"""Make a tree of a trace's spans, and tell where inside each span its time went.

Pure: spans in, frozen nodes out. Nothing here recurses, since a trace may be nested deeper than
Python's stack.
"""

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple, TypeAlias

from flowspan import semconv
from flowspan.timeline.read import Span

GROUP_LIMIT: Final = 20
"""Same-named siblings that are shown one by one; more are collapsed."""

GROUP_SHOWN: Final = 10
"""Siblings of a collapsed group that are shown all the same."""

OTHER: Final = "other"
"""Phase of a span that is no run's: of another instrumentation, or the application's own."""

Role: TypeAlias = Literal["run", "attempt", "other"]


class Segment(NamedTuple):
    """A stretch of time spent in one phase, in nanoseconds since the epoch.

    Phases are the names of the attributes that hold their totals (``prefect.wait.*``,
    ``prefect.execution``, ``prefect.orchestration``), or `OTHER`.
    """

    phase: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Node:
    """A span in the tree.

    `alias` is the run's own name where siblings share the span's name; `missing_parent` is the id
    of a parent that is not among the spans.
    """

    span: Span
    role: Role
    segments: tuple[Segment, ...]
    children: tuple["Node | Rest", ...] = ()
    alias: str | None = None
    missing_parent: str | None = None

    @property
    def key(self) -> str:
        """Tells it from every other node of the tree."""
        return self.span.span_id


@dataclass(frozen=True, slots=True)
class Rest:
    """The siblings of one name that are not shown one by one."""

    name: str
    role: Role
    spans: tuple[Span, ...]
    segments: tuple[Segment, ...]

    @property
    def key(self) -> str:
        """Tells it from every other node of the tree."""
        return self.spans[0].span_id

    @property
    def results(self) -> Counter[str]:
        """How many of the spans ended with which result, spans without one left out."""
        return Counter(name for s in self.spans if (name := s.facts.result) is not None)


@dataclass(frozen=True, slots=True)
class Tree:
    """A whole trace; `start` and `end` (ns) hold the waits before the spans too."""

    roots: tuple[Node | Rest, ...]
    spans: tuple[Span, ...]
    start: int
    end: int

    @property
    def main(self) -> Span:
        """The span that the trace is about: its first flow run, run, or span that is a root."""
        roots = [node.span for node in self.roots if isinstance(node, Node)]
        flows = (s for s in roots if s.facts.run_type == "flow")
        runs = (s for s in roots if s.is_run)
        return next(itertools.chain(flows, runs, roots))

    @property
    def runs(self) -> int:
        """How many runs the trace holds; a run that moved to another process counts once."""
        runs = (span for span in self.spans if span.is_run)
        return len({span.facts.run_id or span.span_id for span in runs})


def build(spans: Collection[Span], *, everything: bool = False) -> Tree:
    """Make the tree of one trace.

    Args:
        spans: The spans of one trace, at least one, each id once.
        everything: Show the only, successful attempt of a run too, and collapse nothing.
    """
    ordered = sorted(spans, key=lambda span: (span.start, -span.end, span.span_id))
    by_id = {span.span_id: span for span in ordered}
    order, kids = _arrange(ordered, by_id)
    roles = {span.span_id: _role(span, by_id.get(span.parent_span_id or "")) for span in ordered}
    attempts = {
        parent: [child for child in children if roles[child.span_id] == "attempt"]
        for parent, children in kids.items()
    }
    shown = kids if everything else _without_quiet_attempts(order, kids, attempts)
    nodes: dict[str, Node] = {}
    for span in reversed(order):  # children before their parents
        nodes[span.span_id] = Node(
            span=span,
            role=roles[span.span_id],
            segments=_segments(
                span,
                roles[span.span_id],
                attempts.get(span.span_id, ()),
                _time_of(kids.get(span.span_id, ())),
            ),
            children=_siblings(shown.get(span.span_id, ()), nodes, everything=everything),
        )
    roots = [replace(nodes[s.span_id], missing_parent=s.parent_span_id) for s in kids[None]]
    nodes |= {node.span.span_id: node for node in roots}
    segments = [segment for node in nodes.values() for segment in node.segments]
    return Tree(
        roots=_siblings(kids[None], nodes, everything=everything),
        spans=tuple(ordered),
        start=min(segment.start for segment in segments),
        end=max(segment.end for segment in segments),
    )


def callers_first(spans: Collection[Span]) -> list[Span]:
    """Order spans so that each comes behind its caller, if that is among them; by time else."""
    ordered = sorted(spans, key=lambda span: (span.start, -span.end, span.span_id))
    return _arrange(ordered, {span.span_id: span for span in ordered})[0]


def walk(tree: Tree) -> Iterator[Node | Rest]:
    """Yield every node in the order in which it is shown."""
    stack = list(reversed(tree.roots))
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, Node):
            stack.extend(reversed(node.children))


_Kids: TypeAlias = dict[str | None, list[Span]]


def _arrange(ordered: Sequence[Span], by_id: Mapping[str, Span]) -> tuple[list[Span], _Kids]:
    """Order the spans so that parents come first, and list the children of each.

    Spans whose parents make a circle would belong nowhere; the first of them becomes a root.
    """
    wanted: _Kids = {None: []}
    for span in ordered:
        parent = span.parent_span_id
        wanted.setdefault(parent if parent in by_id else None, []).append(span)
    order: list[Span] = []
    kids: _Kids = {None: []}
    seen: set[str] = set()
    for root in (*wanted[None], *ordered):
        stack: list[tuple[str | None, Span]] = [(None, root)]
        while stack:
            parent, span = stack.pop()
            if span.span_id in seen:
                continue
            seen.add(span.span_id)
            order.append(span)
            kids.setdefault(parent, []).append(span)
            children = wanted.get(span.span_id, ())
            stack.extend((span.span_id, child) for child in reversed(children))
    return order, kids


def _role(span: Span, parent: Span | None) -> Role:
    if span.is_run:
        return "run"
    number = span.facts.attempt
    if number is not None and span.name == semconv.attempt_span_name(number):
        # An attempt whose run is missing stands for it in the tree, but is still an attempt.
        return "attempt" if parent is None or parent.is_run else "other"
    return "other"


def _without_quiet_attempts(
    order: Iterable[Span], kids: _Kids, attempts: Mapping[str | None, Sequence[Span]]
) -> _Kids:
    """Let the children of a run's only, successful attempt stand directly below the run."""
    shown = dict(kids)
    for span in order:
        own = attempts.get(span.span_id, ())
        if len(own) == 1 and not own[0].failed:
            inner = kids.get(own[0].span_id, [])
            outer = [child for child in kids[span.span_id] if child is not own[0]]
            shown[span.span_id] = sorted(outer + inner, key=lambda child: child.start)
    return shown


def _siblings(
    spans: Sequence[Span], nodes: Mapping[str, Node], *, everything: bool
) -> tuple[Node | Rest, ...]:
    """Tell same-named siblings apart, and collapse the many into one line after the last shown."""
    groups: dict[tuple[str, Role], list[Node]] = {}
    for span in spans:
        node = nodes[span.span_id]
        groups.setdefault((span.name, node.role), []).append(node)
    shown: list[tuple[int, Node | Rest]] = []
    position = {span.span_id: place for place, span in enumerate(spans)}
    for same in groups.values():
        group = (
            [replace(node, alias=node.span.facts.run_name) for node in same] if same[1:] else same
        )
        telling = group if everything or len(group) <= GROUP_LIMIT else _most_telling(group)
        shown += [(position[node.span.span_id], node) for node in telling]
        if len(telling) < len(group):
            shown.append((position[telling[-1].span.span_id], _rest(group, telling)))
    # Stable, so a rest stays behind the sibling whose place it shares.
    return tuple(node for _, node in sorted(shown, key=lambda item: item[0]))


def _most_telling(group: Sequence[Node]) -> list[Node]:
    """Choose what to show of many siblings: failures first, then those that took longest."""

    def weight(node: Node) -> tuple[bool, int]:
        return node.span.failed, sum(segment.end - segment.start for segment in node.segments)

    chosen = {id(node) for node in sorted(group, key=weight, reverse=True)[:GROUP_SHOWN]}
    return [node for node in group if id(node) in chosen]


def _rest(group: Sequence[Node], shown: Sequence[Node]) -> Rest:
    visible = {node.span.span_id for node in shown}
    hidden = [node for node in group if node.span.span_id not in visible]
    busy = [
        segment
        for node in hidden
        for segment in node.segments
        if segment.phase in (semconv.EXECUTION, OTHER)
    ]
    spans = tuple(node.span for node in hidden)
    return Rest(spans[0].name, hidden[0].role, spans, tuple(_union(busy)))


def _union(segments: Iterable[Segment]) -> Iterator[Segment]:
    """Merge segments of one phase into the stretches in which there is at least one."""
    merged: Segment | None = None
    for segment in sorted(segments, key=lambda segment: segment.start):
        if merged is None or segment.start > merged.end:
            if merged is not None:
                yield merged
            merged = segment
        elif segment.end > merged.end:
            merged = merged._replace(end=segment.end)
    if merged is not None:
        yield merged


# Where inside a run's bar its time lies. The span carries totals; only attempts carry times.
#
#     before the span         inside the span
#     late | infra | queue || deps | concurrency | orch. | exec. | retry | exec. pause exec. | orch.
#                                                          attempt 1       attempt 2


def _time_of(called: Sequence[Span]) -> tuple[int, int] | None:
    """Tell from when to when there were spans that a span called."""
    if not called:
        return None
    return called[0].start, max(span.end for span in called)


def _segments(
    span: Span, role: Role, attempts: Sequence[Span], calling: tuple[int, int] | None
) -> tuple[Segment, ...]:
    end = span.start + span.duration
    if role != "run":
        phase = semconv.EXECUTION if role == "attempt" else OTHER
        return (Segment(phase, span.start, end),)
    return (*before(span), *inside(span, end, attempts, calling))


def before(span: Span) -> list[Segment]:
    """Lay the waits that end where the span starts, the last one nearest to it."""
    cursor = span.start
    segments: list[Segment] = []
    facts = span.facts
    waits = (facts.late, facts.infrastructure, facts.queue)
    if not any(waits):
        return segments
    for name, length in zip(reversed(semconv.WAITS_BEFORE), reversed(waits), strict=True):
        start = max(0, cursor - length)
        if start < cursor:
            segments.insert(0, Segment(name, start, cursor))
        cursor = start
    return segments


def inside(
    span: Span, end: int, attempts: Sequence[Span], calling: tuple[int, int] | None
) -> list[Segment]:
    """Fill the span without a gap: waits first, then work, the engine's own time as the rest.

    Args:
        span: That of a run.
        end: When it ended.
        attempts: Its attempts, in order of time.
        calling: From when to when there was what it called, None if it called nothing.
    """
    if not (attempts or span.facts.retry or span.facts.pause):
        return _at_one_go(span, end, calling)
    # Attempts tell exact times, so they cut the waits' totals, not the other way round.
    limit = min([end, *(max(span.start, attempt.start) for attempt in attempts)])
    segments: list[Segment] = []
    cursor = span.start
    facts = span.facts
    for name, length in (
        (semconv.WAIT_DEPENDENCIES, facts.dependencies),
        (semconv.WAIT_CONCURRENCY, facts.concurrency),
    ):
        stop = min(limit, cursor + length)
        segments.append(Segment(name, cursor, stop))
        cursor = stop
    pieces = _attempt_pieces(attempts, cursor, end) or _estimated_pieces(span, cursor, end)
    between = semconv.WAIT_RETRY if facts.retry else semconv.ORCHESTRATION
    longest = max(pieces, key=lambda piece: piece[1] - piece[0])
    for place, (start, stop) in enumerate(pieces):
        gap = between if place else semconv.ORCHESTRATION
        segments.append(Segment(gap, cursor, start))
        pause = facts.pause if (start, stop) == longest else 0
        segments += _with_pause(start, stop, pause)
        cursor = stop
    segments.append(Segment(semconv.ORCHESTRATION, cursor, end))
    kept = [segment for segment in segments if segment.end > segment.start]
    return kept or [Segment(semconv.EXECUTION, span.start, end)]


def _at_one_go(span: Span, end: int, calling: tuple[int, int] | None) -> list[Segment]:
    """Fill the span of a run that executed once, as most do: the same in a tenth of the time.

    The engine has its own to do after the state became Running, and what a run calls lies in its
    execution: if that leaves a choice, it tells the engine's time apart.
    """
    facts = span.facts
    ready = min(end, span.start + facts.dependencies)
    slot = min(end, ready + facts.concurrency)
    execution = facts.execution
    if execution is None:
        execution = max(0, end - slot - facts.orchestration)
    begin = min(end, max(slot, min(facts.running_since or 0, end - execution)))
    if calling is not None:
        first, last = calling
        begin = max(begin, min(first, end - execution, last - execution))
    stop = min(end, begin + execution)
    segments = []
    if ready > span.start:
        segments.append(Segment(semconv.WAIT_DEPENDENCIES, span.start, ready))
    if slot > ready:
        segments.append(Segment(semconv.WAIT_CONCURRENCY, ready, slot))
    if begin > slot:
        segments.append(Segment(semconv.ORCHESTRATION, slot, begin))
    if stop > begin:
        segments.append(Segment(semconv.EXECUTION, begin, stop))
    if end > stop:
        segments.append(Segment(semconv.ORCHESTRATION, stop, end))
    return segments or [Segment(semconv.EXECUTION, span.start, end)]


def _attempt_pieces(attempts: Sequence[Span], start: int, end: int) -> list[tuple[int, int]]:
    pieces: list[tuple[int, int]] = []
    for attempt in attempts:
        begin = min(max(start, attempt.start), end)
        start = min(max(begin, attempt.start + attempt.duration), end)
        pieces.append((begin, start))
    return pieces


def _estimated_pieces(span: Span, start: int, end: int) -> list[tuple[int, int]]:
    """Lay execution where the state became Running, in equal parts if it was retried.

    Without that event it lies directly behind the waits. A run that does not say how long it
    executed did so until its engine's own time began.
    """
    facts = span.facts
    retry, pause, execution = facts.retry, facts.pause, facts.execution
    if execution is None:
        execution = end - start - retry - pause - facts.orchestration
    parts = min(max(2, facts.run_count), 100) if retry else 1
    part, gap = max(0, execution + pause) // parts, retry // max(1, parts - 1)
    start = max(start, min(facts.running_since or 0, end - parts * part - (parts - 1) * gap))
    pieces = []
    for number in range(parts):
        begin = min(end, start + number * (part + gap))
        pieces.append((begin, min(end, begin + part)))
    return pieces


def _with_pause(start: int, end: int, pause: int) -> list[Segment]:
    """Put a pause into the middle of a stretch of execution."""
    if pause == 0:
        return [Segment(semconv.EXECUTION, start, end)]
    pause = min(pause, end - start)
    before = start + (end - start - pause) // 2
    return [
        Segment(semconv.EXECUTION, start, before),
        Segment(semconv.WAIT_PAUSE, before, before + pause),
        Segment(semconv.EXECUTION, before + pause, end),
    ]
