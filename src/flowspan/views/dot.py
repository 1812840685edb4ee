"""Write the runs of a trace as a graph for Graphviz (https://graphviz.org/doc/info/lang.html).

An arrow leads from a run to a run that used its result, a dashed arrow from a caller to the run it
called. The critical path is bold.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from flowspan.analysis.tree import callers_first
from flowspan.text import clean, human, percent

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

    from flowspan.analysis.findings import Findings
    from flowspan.analysis.one_trace import Analysis
    from flowspan.read.span import Span
    from flowspan.views.wishes import Wishes

RUNS_SHOWN: Final = 5
"""The most runs of one name below one caller that are shown one by one; more are merged."""

_PATH_COLOR: Final = "#b45309"
_FAILED_COLOR: Final = "#b91c1c"
_QUIET_COLOR: Final = "#6b7280"


@dataclass(slots=True)
class _Node:
    """A run, or all runs of one name. A run in several processes has a span in each."""

    name: str
    is_flow: bool
    runs: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    open: dict[str, str] = field(default_factory=dict)  # by run: its state, if it has not ended
    duration: int = 0
    path: int = 0


def render(findings: Findings, _: Wishes) -> Iterable[bytes]:
    """Return the graph of a trace: its runs, or all its spans if it has no runs."""
    analysis = findings.analysis
    spans = callers_first(findings.trace.spans)
    shown = {span.span_id: span for span in spans if span.is_run}
    shown = shown or {span.span_id: span for span in spans}
    nearest = _nearest(spans, shown)
    keys = _keys(shown, nearest)
    nodes: dict[str, _Node] = {}
    for span_id, span in shown.items():
        node = nodes.setdefault(keys[span_id], _Node(span.name, span.facts.run_type == "flow"))
        _add(node, span)
    owners = {span_id: keys[near] for span_id, near in nearest.items()}
    callers = {span_id: owners.get(span.parent_span_id or "") for span_id, span in shown.items()}
    calls = {(caller, keys[span_id]): None for span_id, caller in callers.items() if caller}
    uses = {
        (owners[upstream], keys[span.span_id]): None
        for span in shown.values()
        for upstream in span.upstream
        if upstream in owners
    }
    steps = _walk_path(nodes, owners, analysis)
    return [f"{line}\n".encode() for line in _lines(nodes, uses, calls, steps, analysis)]


def _nearest(spans: Iterable[Span], shown: Container[str]) -> dict[str, str]:
    """Map each span to its nearest drawn ancestor, or itself. Pass callers first.

    Spans without a drawn ancestor are left out.
    """
    nearest: dict[str, str] = {}
    for span in spans:
        if span.span_id in shown:
            nearest[span.span_id] = span.span_id
        elif span.parent_span_id in nearest:
            nearest[span.span_id] = nearest[span.parent_span_id]
    return nearest


def _keys(shown: Mapping[str, Span], nearest: Mapping[str, str]) -> dict[str, str]:
    """Map each drawn span to the key of its node. Pass callers first.

    It works level by level, so that children of merged callers are counted together.
    """
    depths: dict[str, int] = {}
    levels: dict[int, list[Span]] = defaultdict(list)
    for span_id, span in shown.items():
        depths[span_id] = depths.get(nearest.get(span.parent_span_id or "", ""), 0) + 1
        levels[depths[span_id]].append(span)
    keys: dict[str, str] = {}
    key_of_run: dict[str, str] = {}
    for level in levels.values():
        groups: dict[str, list[Span]] = defaultdict(list)
        for span in level:
            caller = keys.get(nearest.get(span.parent_span_id or "", ""), "")
            groups[f"{caller}/{span.facts.run_type} {span.name}"].append(span)
        for group, members in groups.items():
            is_merged = len(set(map(_run_of, members))) > RUNS_SHOWN
            for span in members:
                run = _run_of(span)
                # A run that continued in another process stays one node.
                keys[span.span_id] = key_of_run.setdefault(run, group if is_merged else run)
    return keys


def _run_of(span: Span) -> str:
    return span.facts.run_id or span.span_id


def _add(node: _Node, span: Span) -> None:
    run = _run_of(span)
    node.runs.add(run)
    if span.failed:
        node.failed.add(run)
    if span.open is not None:
        node.open[run] = span.open.state
    node.duration += span.duration


def _walk_path(
    nodes: Mapping[str, _Node], owners: Mapping[str, str], analysis: Analysis
) -> set[frozenset[str]]:
    """Add each node's time on the critical path; return the pairs of consecutive nodes."""
    keys = []
    for step in analysis.critical_path:
        key = owners.get(step.span_id)
        if key is not None:
            nodes[key].path += step.end - step.start
            keys.append(key)
    return {frozenset(pair) for pair in itertools.pairwise(keys)}


def _lines(
    nodes: Mapping[str, _Node],
    uses: Iterable[tuple[str, str]],
    calls: Iterable[tuple[str, str]],
    steps: set[frozenset[str]],
    analysis: Analysis,
) -> Iterator[str]:
    yield "digraph flowspan {"
    yield '  graph [rankdir="LR", fontname="Helvetica", nodesep="0.25", ranksep="0.6"];'
    yield '  node [shape="box", style="rounded", fontname="Helvetica", fontsize="11"];'
    yield f'  edge [color="{_QUIET_COLOR}", arrowsize="0.7"];'
    ids = {key: f"n{number}" for number, key in enumerate(nodes)}
    for key, node in nodes.items():
        yield f"  {ids[key]} [{_attributes(_look(node, analysis))}];"
    for edges, look in ((uses, {}), (calls, {"style": "dashed", "arrowhead": "open"})):
        for source, target in edges:
            if source == target:
                continue
            own = dict(look)
            if frozenset((source, target)) in steps:
                own |= {"penwidth": "2.5", "color": _PATH_COLOR}
            yield f"  {ids[source]} -> {ids[target]}" + (f" [{_attributes(own)}];" if own else ";")
    yield "}"


def _look(node: _Node, analysis: Analysis) -> dict[str, str]:
    count = len(node.runs)
    lines = [clean(node.name) or "(no name)"]
    if count > 1:
        lines[0] += f" \u00d7{count:,}"
    duration = human(node.duration) + (" in total" if count > 1 else "")
    total = analysis.end - analysis.start
    share = f", {percent(node.path / total)} of the path" if node.path and total else ""
    lines.append(duration + share)
    look = {}
    if node.failed:
        lines.append("failed" if count == 1 else f"{len(node.failed):,} failed")
        look = {"fontcolor": _FAILED_COLOR}
    for state, number in Counter(node.open.values()).items():
        lines.append(state if count == 1 else f"{number:,} {state}")
    if node.is_flow:
        look["peripheries"] = "2"
    if node.path:
        look |= {"penwidth": "2.5", "color": _PATH_COLOR}
    return {"label": "\n".join(lines), **look}


def _attributes(attributes: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={_quoted(value)}" for name, value in attributes.items())


def _quoted(text: str) -> str:
    r"""Quote a text.

    Graphviz reads ``\"`` in quotes, then in labels escapes such as ``\N``, and HTML's entities.
    """
    escaped = text.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", "\\n") + '"'
