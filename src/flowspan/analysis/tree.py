"""Build the tree of a trace's spans, and lay out the time inside each span.

Pure: spans in, frozen nodes out. Nothing here recurses, because a trace may be nested deeper than
Python's stack.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from flowspan import semconv
from flowspan.analysis.phases import (
    OPEN,
    OTHER,
    Calls,
    Segment,
    before,
    calls_of,
    inside,
    union,
    without_exits,
)
from flowspan.analysis.root import Root, root_of
from flowspan.read.span import Span

GROUP_LIMIT: Final = 20
"""The most same-named siblings that are shown one by one; more are collapsed."""

GROUP_SHOWN: Final = 10
"""Siblings of a collapsed group that are still shown."""


Role: TypeAlias = Literal["run", "attempt", "other"]


@dataclass(frozen=True, slots=True)
class Node:
    """A span in the tree.

    `alias` is the run's own name if siblings share the span's name; `missing_parent` is the id of a
    parent that is not among the spans.
    """

    span: Span
    role: Role
    segments: tuple[Segment, ...]
    children: tuple["Node | Rest", ...] = ()
    alias: str | None = None
    missing_parent: str | None = None

    @property
    def key(self) -> str:
        """The identity of the node in the tree."""
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
        """The identity of the node in the tree."""
        return self.spans[0].span_id

    @property
    def results(self) -> Counter[str]:
        """The number of spans by result, or by state if they have not ended."""
        results = (s.open.state if s.open is not None else s.facts.result for s in self.spans)
        return Counter(name for name in results if name is not None)


@dataclass(frozen=True, slots=True)
class Tree:
    """A whole trace; `start` and `end` (ns) include the waits before the spans.

    `about` is what the trace is about, `roots` are the rows without a parent row.
    """

    about: Root
    roots: tuple[Node | Rest, ...]
    spans: tuple[Span, ...]
    start: int
    end: int

    @property
    def runs(self) -> int:
        """The number of runs in the trace; a run that moved to another process counts once."""
        runs = (span for span in self.spans if span.is_run)
        return len({span.facts.run_id or span.span_id for span in runs})


def build(spans: Collection[Span], *, everything: bool = False) -> Tree:
    """Build the tree of one trace.

    Args:
        spans: The spans of one trace, at least one, each id once.
        everything: Collapse nothing, and show attempts of runs that succeeded at once, too.
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
                _calls(kids.get(span.span_id, ()), attempts.get(span.span_id, ()), kids),
            ),
            children=_siblings(shown.get(span.span_id, ()), nodes, everything=everything),
        )
    roots = [replace(nodes[s.span_id], missing_parent=s.parent_span_id) for s in kids[None]]
    nodes |= {node.span.span_id: node for node in roots}
    segments = [segment for node in nodes.values() for segment in node.segments]
    return Tree(
        about=root_of(ordered, by_id),
        roots=_siblings(kids[None], nodes, everything=everything),
        spans=tuple(ordered),
        start=min(segment.start for segment in segments),
        end=max(segment.end for segment in segments),
    )


def callers_first(spans: Collection[Span]) -> list[Span]:
    """Order spans so that each comes after its caller, if that is among them; otherwise by time."""
    ordered = sorted(spans, key=lambda span: (span.start, -span.end, span.span_id))
    return _arrange(ordered, {span.span_id: span for span in ordered})[0]


def walk(tree: Tree) -> Iterator[Node | Rest]:
    """Yield every node in display order."""
    stack = list(reversed(tree.roots))
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, Node):
            stack.extend(reversed(node.children))


_Kids: TypeAlias = dict[str | None, list[Span]]


def _arrange(ordered: Sequence[Span], by_id: Mapping[str, Span]) -> tuple[list[Span], _Kids]:
    """Order the spans so that parents come first, and list the children of each.

    If parents form a circle, its first span becomes a root, so that none is lost.
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
        # An attempt whose run is missing takes its place in the tree, but is still an attempt.
        return "attempt" if parent is None or parent.is_run else "other"
    return "other"


def _without_quiet_attempts(
    order: Iterable[Span], kids: _Kids, attempts: Mapping[str | None, Sequence[Span]]
) -> _Kids:
    """Move the children of a run's single, successful attempt directly below the run."""
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
    """Distinguish same-named siblings, and collapse many into one line after the last shown."""
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
    # A stable sort keeps a rest after the sibling whose place it shares.
    return tuple(node for _, node in sorted(shown, key=lambda item: item[0]))


def _most_telling(group: Sequence[Node]) -> list[Node]:
    """Choose which of many siblings to show: failed or open ones first, then the longest."""

    def weight(node: Node) -> tuple[bool, int]:
        is_telling = node.span.failed or node.span.open is not None
        return is_telling, sum(segment.end - segment.start for segment in node.segments)

    chosen = {id(node) for node in sorted(group, key=weight, reverse=True)[:GROUP_SHOWN]}
    return [node for node in group if id(node) in chosen]


def _rest(group: Sequence[Node], shown: Sequence[Node]) -> Rest:
    visible = {node.span.span_id for node in shown}
    hidden = [node for node in group if node.span.span_id not in visible]
    spans, role = tuple(node.span for node in hidden), hidden[0].role
    phase = OTHER if role == "other" else semconv.EXECUTION
    segments = (segment for node in hidden for segment in node.segments)
    busy = union((one.start, one.end) for one in segments if one.phase in (phase, OPEN))
    return Rest(spans[0].name, role, spans, tuple(Segment(phase, *one) for one in busy))


# The phases in a run's bar. The span carries totals; only attempts carry times.
#
#     before the span         inside the span
#     late | infra | queue || deps | concurrency | orch. | exec. | retry | exec. pause exec. | orch.
#                                                          attempt 1       attempt 2


def _calls(called: Sequence[Span], attempts: Iterable[Span], kids: _Kids) -> Calls | None:
    """Return what a span called, itself or in its attempts."""
    spans = [*called, *(child for attempt in attempts for child in kids.get(attempt.span_id, ()))]
    return calls_of(
        [span.start for span in spans], [span.end for span in spans], [s.facts for s in spans]
    )


def _segments(
    span: Span, role: Role, attempts: Sequence[Span], calls: Calls | None
) -> tuple[Segment, ...]:
    end = span.start + span.duration
    if role == "other":
        return (Segment(OTHER, span.start, end),)
    if role == "attempt":
        segments = without_exits([Segment(semconv.EXECUTION, span.start, end)], calls)
    else:
        segments = [*before(span), *inside(span, end, attempts, calls)]
    if span.open is not None:
        segments = [
            one._replace(phase=OPEN) if one.phase == semconv.EXECUTION else one for one in segments
        ]
    return tuple(segments)
