"""Draw a tree of spans in a terminal: a line for each span, with a bar to scale.

Readable without colour: every phase has its own glyph, every result its own symbol.
"""

import itertools
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from types import MappingProxyType
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from flowspan import semconv
from flowspan.analysis.findings import Findings
from flowspan.analysis.log_places import by_row
from flowspan.analysis.one_trace import Analysis
from flowspan.analysis.phases import CAUSES, OTHER, PHASE_OF, Segment
from flowspan.analysis.root import is_root
from flowspan.analysis.tree import GROUP_LIMIT, Node, Rest, Tree
from flowspan.analysis.workers import Worker
from flowspan.read.facts import waits_of
from flowspan.read.log_files import Log
from flowspan.read.span import Span
from flowspan.text import DAY, HOUR, MINUTE, MS, SECOND, clean, cut, human, moment, percent
from flowspan.views.headline import doing, headline, part_of, so_far
from flowspan.views.looks import LOOKS
from flowspan.views.terminal import outcomes, tasks
from flowspan.views.terminal.glyphs import glyphs_of
from flowspan.views.terminal.logs import shorten
from flowspan.views.terminal.outcomes import Outcome
from flowspan.views.wishes import Wishes

_NO_LOGS: Final[Mapping[str, Sequence[Log]]] = MappingProxyType({})

# A run of seconds may wait for hours before its first span. Such waits get at most this many times
# the width of the spans themselves, and a mark where they are cut.
_LEAD_LIMIT: Final = 2

_MIN_WIDTH: Final = 48
_MIN_BAR: Final = 12
_MIN_LABEL: Final = 12
_GAP: Final = 2
_TICK_DISTANCE: Final = 11
_MOST_ON: Final = 2  # numbers of workers in a row that stands for several runs
_ALIAS_TAIL: Final = 4


# The words in a row for each wait that is long enough.
_WAITED: Final = tuple(LOOKS[wait.attribute].waited for wait in semconv.WAITS)


@dataclass(frozen=True, slots=True)
class Axis:
    """The time axis: nanoseconds at both ends, and its width in cells."""

    start: int
    end: int
    width: int
    cut: bool = False

    def cell(self, time: int) -> float:
        """Return the position of a time, in cells from the left edge."""
        return (time - self.start) * self.width / max(1, self.end - self.start)


@dataclass(frozen=True, slots=True)
class _Row:
    """A node with its parent, the guides before it, and the guides that continue below it."""

    node: Node | Rest
    parent: Node | Rest | None
    guides: str
    below: str


@dataclass(frozen=True, slots=True)
class _Layout:
    """Widths of the columns in cells; 0 leaves a column out."""

    label: int
    result: int
    duration: int
    share: int
    rows: int
    on: int
    axis: Axis


def render(findings: Findings, wishes: Wishes) -> Iterator[Text]:
    """Yield the lines of a timeline and of the summary below it."""
    tree = findings.whole_tree if wishes.everything else findings.tree
    yield from draw(
        tree,
        width=wishes.width,
        unicode=wishes.unicode,
        everything=wishes.everything,
        logs=by_row(findings.logs_by_span, tree) if wishes.with_logs else _NO_LOGS,
        analysis=findings.analysis,
        around=part_of(findings.trace),
    )
    yield Text()
    yield from tasks.draw(
        findings.analysis, width=wishes.width, unicode=wishes.unicode, top=wishes.top
    )


def draw(
    tree: Tree,
    *,
    width: int,
    unicode: bool = True,
    everything: bool = False,
    logs: Mapping[str, Sequence[Log]] = _NO_LOGS,
    analysis: Analysis | None = None,
    around: str = "",
) -> Iterator[Text]:
    """Yield the lines of a timeline.

    Args:
        tree: The tree to draw.
        width: Maximum width of a line in cells.
        unicode: False uses only ASCII, for outputs that cannot show more.
        everything: Name every wait, even those too short to matter, and show all log lines.
        logs: Log records in order of time, by the key of the row above them. Their times count from
            the left edge of the bars.
        analysis: Adds the bottleneck, the critical path on the scale of the bars, each row's share
            of it, and, if there were several processes, where each run ran.
        around: What the tree is a part of, if it is.
    """
    width = max(width, _MIN_WIDTH)
    rows = list(_rows(tree, unicode=unicode))
    shares = _shares(analysis)
    workers = analysis.workers if analysis is not None and len(analysis.workers) > 1 else ()
    numbers = {worker.process: number for number, worker in enumerate(workers, 1)}
    layout = _layout(tree, rows, width, shares, numbers)
    yield from _header(tree, unicode=unicode)
    if around:
        yield Text(cut(around, width), "dim")
    if analysis is not None and (found := headline(analysis)):
        text = glyphs_of(unicode=unicode).spell(found)
        yield from (Text(part, "bold yellow") for part in wrap(text, width))
    yield Text()
    yield _columns(layout)
    if analysis is not None and shares:
        yield _path_line(analysis, layout, unicode=unicode)
    least = 0 if everything else min(SECOND, (layout.axis.end - layout.axis.start) // 200)
    drawn: set[str] = set()
    told: set[str | None] = {None}
    for row in rows:
        phases = cells(row.node.segments, layout.axis)
        drawn.update(phase for phase in phases if phase)
        yield _line(row, phases, layout, shares, numbers, unicode=unicode)
        guides = Text().append(_fitted_guides(row.below, layout.label + _GAP), style="dim")
        room = width - guides.cell_len
        for text, style in _notes(row, max(least, MS // 2), told):
            yield Text.assemble(guides, (cut(text, room), style))
        own = logs.get(row.node.key, ())
        for line in shorten(own, layout.axis.start, everything=everything, unicode=unicode):
            line.truncate(room, overflow="ellipsis")
            yield Text.assemble(guides, line)
    yield Text()
    if workers:
        most = len(workers) if everything else GROUP_LIMIT
        yield from _lanes(workers, most, layout, unicode=unicode)
        yield Text()
    yield from _legend(drawn, width, unicode=unicode)


def cells(segments: Sequence[Segment], axis: Axis) -> list[str | None]:
    """Return the phase that each cell of the axis shows; None where the span has no time.

    A cell is filled if the span covers at least half of it, and shows the phase that covers most of
    it. Even the shortest span fills one cell.
    """
    covered: list[dict[str, float]] = [{} for _ in range(axis.width)]
    for segment in segments:
        left = min(max(0.0, axis.cell(segment.start)), axis.width)
        right = min(max(0.0, axis.cell(segment.end)), axis.width)
        for cell in range(int(left), min(axis.width, int(right) + 1)):
            share = min(right, cell + 1) - max(left, cell)
            covered[cell][segment.phase] = covered[cell].get(segment.phase, 0.0) + share
    phases = [
        max(shares, key=shares.__getitem__) if sum(shares.values()) >= 0.5 else None  # noqa: PLR2004
        for shares in covered
    ]
    if segments and not any(phases):
        longest = max(segments, key=lambda segment: segment.end - segment.start)
        middle = axis.cell((longest.start + longest.end) // 2)
        phases[min(max(0, int(middle)), axis.width - 1)] = longest.phase
    return phases


def _rows(tree: Tree, *, unicode: bool) -> Iterator[_Row]:
    glyphs = glyphs_of(unicode=unicode)
    stack: list[tuple[Node | Rest, Node | Rest | None, str, str]]
    stack = [(root, None, "", "") for root in reversed(tree.roots)]
    while stack:
        node, parent, guides, inner = stack.pop()
        children = node.children if isinstance(node, Node) else ()
        below = inner + (glyphs.through if children else "   ")
        yield _Row(node, parent, guides, below)
        if len(inner) > 240:  # noqa: PLR2004 - 80 levels: wider than any column, so cut from the left
            inner = inner[-240:]
        for child in reversed(children):
            is_last = child is children[-1]
            guide, under = (glyphs.last, "   ") if is_last else (glyphs.fork, glyphs.through)
            stack.append((child, node, inner + guide, inner + under))


def _shares(analysis: Analysis | None) -> Mapping[str, float]:
    """Return the share of the critical path by span id."""
    if analysis is None or analysis.start == analysis.end:
        return {}
    shares: Counter[str] = Counter()
    for step in analysis.critical_path:
        shares[step.span_id] += step.end - step.start
    return {span_id: time / (analysis.end - analysis.start) for span_id, time in shares.items()}


def _share(node: Node | Rest, shares: Mapping[str, float]) -> str:
    spans = (node.span,) if isinstance(node, Node) else node.spans
    share = sum(shares.get(span.span_id, 0.0) for span in spans)
    return percent(share) if share else ""


def _on(node: Node | Rest, numbers: Mapping[str, int]) -> str:
    """Return the numbers of the workers that ran the runs of a row."""
    if node.role != "run":
        return ""
    spans = (node.span,) if isinstance(node, Node) else node.spans
    found = sorted({numbers[span.process] for span in spans if span.process in numbers})
    return ",".join([*map(str, found[:_MOST_ON]), *(["…"] if found[_MOST_ON:] else [])])


def _layout(
    tree: Tree,
    rows: Sequence[_Row],
    width: int,
    shares: Mapping[str, float],
    numbers: Mapping[str, int],
) -> _Layout:
    label = max(cell_len(row.guides) + cell_len(_label(row.node).plain) for row in rows)
    result = max(8, *(cell_len(result_word(row.node)) + 2 for row in rows))
    duration = max(8, *(cell_len(_duration(row.node)) for row in rows))
    counts = [cell_len(_row_count(row.node)) for row in rows]
    rows_width = max(4, *counts) if any(counts) else 0
    share = 5 if shares else 0  # "100 %"
    on = max(2, *(cell_len(_on(row.node, numbers)) for row in rows)) if numbers else 0
    optional = sum(column + _GAP for column in (share, rows_width, on) if column)
    fixed = result + duration + 3 * _GAP + optional
    if on and fixed + _MIN_LABEL + _MIN_BAR > width:
        on, fixed = 0, fixed - on - _GAP
    # A label may take two fifths of the line; the bar gets whatever it does not need.
    label = max(_MIN_LABEL, min(label, width * 2 // 5, width - fixed - _MIN_BAR))
    bar = max(_MIN_BAR, width - fixed - label)
    return _Layout(label, result, duration, share, rows_width, on, _axis(tree, bar))


def _axis(tree: Tree, width: int) -> Axis:
    first = min(span.start for span in tree.spans)
    earliest = first - _LEAD_LIMIT * max(1, tree.end - first)
    cut = tree.start < earliest
    return Axis(earliest if cut else tree.start, tree.end, width, cut)


def _header(tree: Tree, *, unicode: bool) -> Iterator[Text]:
    main = tree.about.span
    facts = main.facts
    flow = facts.flow_name or main.attributes.get(semconv.PIPELINE_NAME) or main.name
    is_flow = facts.run_type == "flow"
    title = Text(clean(flow), style="bold")
    if is_flow and facts.run_name and facts.run_name != flow:
        title.append(f"  {clean(facts.run_name)}", style="not bold")
    outcome, word = _outcome(main), _result(main) if main.is_run else ""
    if main.is_run and not is_flow and not tree.about.is_there:  # its flow's span is missing
        outcome, word = outcomes.of(None), outcomes.word(None, None)
    first = min(span.start for span in tree.spans)
    if main.open is not None:
        word = so_far(main.open, tree.end - first)
    if word:
        symbol = outcome.glyph(unicode=unicode)
        title.append(f"  {symbol} {word}", style=f"not bold {outcome.style}")
    if main.open is None:
        title.append(f"  {human(max(0, tree.end - first))}", style="not bold")
    yield title
    runs = f"{tree.runs:,} run" + ("" if tree.runs == 1 else "s")
    services = sorted({clean(span.service) for span in tree.spans if span.service})
    service = f", service {', '.join(services)}" if services else ""
    yield Text(f"started {moment(first)}, {runs}{service}", style="dim")
    yield Text(f"trace {main.trace_id}", style="dim")


def _columns(layout: _Layout) -> Text:
    line = Text(style="dim")
    line.append(set_cell_size("span", layout.label + _GAP))
    line.append(set_cell_size("result", layout.result + _GAP))
    line.append("duration".rjust(layout.duration) + " " * _GAP)
    if layout.share:
        line.append("path".rjust(layout.share) + " " * _GAP)
    if layout.rows:
        line.append("rows".rjust(layout.rows) + " " * _GAP)
    if layout.on:
        line.append("on".rjust(layout.on) + " " * _GAP)
    line.append(_scale(layout.axis))
    return line


def _scale(axis: Axis) -> str:
    """Write the scale; each label begins in the cell of its time."""
    length = axis.end - axis.start
    step = next(step for step in _steps() if step * axis.width >= _TICK_DISTANCE * length)
    marks = [" "] * axis.width
    for number in range(length // step + 1):
        label = _tick(number * step)
        cell = int(axis.cell(axis.start + number * step))
        if cell + len(label) <= axis.width:
            marks[cell : cell + len(label)] = label
    return "".join(marks)


def _steps() -> Iterator[int]:
    """Yield round distances of ticks, from a microsecond up."""
    for power in range(3, 10):
        yield from (10**power, 2 * 10**power, 5 * 10**power)
    yield from (SECOND * seconds for seconds in (10, 20, 30))
    yield from (MINUTE * minutes for minutes in (1, 2, 5, 10, 20, 30))
    yield from (HOUR * hours for hours in (1, 2, 3, 6, 12))
    for power in itertools.count():
        yield from (DAY * 10**power, 2 * DAY * 10**power, 5 * DAY * 10**power)


def _tick(time: int) -> str:
    if time < SECOND:
        return f"{time / MS:g} ms" if time else "0"
    if time < MINUTE:
        return f"{time / SECOND:g} s"
    parts = (
        (time // DAY, "d"),
        (time % DAY // HOUR, "h"),
        (time % HOUR // MINUTE, "m"),
        (time % MINUTE // SECOND, "s"),
    )
    return " ".join(f"{value:,} {unit}" for value, unit in parts if value)


def _path_line(analysis: Analysis, layout: _Layout, *, unicode: bool) -> Text:
    """Draw the critical path by cause."""
    segments = [Segment(PHASE_OF[one.cause], one.start, one.end) for one in analysis.critical_path]
    duration = human(analysis.end - analysis.start)
    line = Text(set_cell_size("critical path", layout.label + _GAP), "yellow")
    line.append(" " * (layout.result + _GAP))
    line.append(duration.rjust(layout.duration) + " " * _GAP)
    line.append(_to_bar(layout))
    for phase, group in itertools.groupby(cells(segments, layout.axis)):
        glyph = LOOKS[phase].glyph if phase else None
        text = " " if glyph is None else glyph.unicode if unicode else glyph.ascii
        line.append(text * len(list(group)), style="yellow")
    return line


def _to_bar(layout: _Layout) -> str:
    """Return the space from the duration to the bar."""
    widths = (layout.share, layout.rows, layout.on)
    return " " * sum(width + _GAP for width in widths if width)


def _lanes(
    workers: Sequence[Worker], most: int, layout: _Layout, *, unicode: bool
) -> Iterator[Text]:
    """Draw when each worker executed tasks, on the scale of the bars."""
    title = Text("worker".ljust(layout.label + _GAP), "dim")
    title.append("runs".ljust(layout.result + _GAP) + "busy".rjust(layout.duration))
    yield title
    glyph = LOOKS[semconv.EXECUTION].glyph
    for number, worker in enumerate(workers[:most], 1):
        name = Text(f"{number} {clean(worker.name)}")
        name.truncate(layout.label, overflow="ellipsis")
        name.append(" " * (layout.label + _GAP - name.cell_len))
        name.append(f"{worker.runs:,}".ljust(layout.result + _GAP))
        name.append(human(worker.time).rjust(layout.duration) + " " * _GAP + _to_bar(layout))
        segments = [Segment(semconv.EXECUTION, *stretch) for stretch in worker.busy]
        text = glyph.unicode if unicode else glyph.ascii
        bar = (text if phase else " " for phase in cells(segments, layout.axis))
        name.append("".join(bar), style=glyph.style)
        yield name
    if len(workers) > most:
        hidden = f"{len(workers) - most:,} more"
        yield Text(f"… {hidden}" if unicode else f"... {hidden}", style="italic")


def _line(
    row: _Row,
    phases: Sequence[str | None],
    layout: _Layout,
    shares: Mapping[str, float],
    numbers: Mapping[str, int],
    *,
    unicode: bool,
) -> Text:
    node = row.node
    line = _fitted_label(row, layout.label)
    line.append(" " * (layout.label + _GAP - line.cell_len))
    word = result_word(node)
    outcome = _node_outcome(node)
    symbol = outcome.glyph(unicode=unicode) if word else " "
    line.append(set_cell_size(f"{symbol} {word}", layout.result + _GAP), style=outcome.style)
    quiet = "" if node.role == "run" else "dim"
    line.append(_duration(node).rjust(layout.duration) + " " * _GAP, style=quiet)
    if layout.share:
        line.append(_share(node, shares).rjust(layout.share) + " " * _GAP, style="yellow")
    if layout.rows:
        line.append(_row_count(node).rjust(layout.rows) + " " * _GAP)
    if layout.on:
        line.append(_on(node, numbers).rjust(layout.on) + " " * _GAP, style="dim")
    failed = isinstance(node, Node) and node.span.failed
    if layout.axis.cut and node.segments and node.segments[0].start < layout.axis.start:
        line.append("…" if unicode else "<", style="yellow")
        phases = phases[1:]
    for phase, group in itertools.groupby(phases):
        length = len(list(group))
        if phase is None:
            line.append(" " * length)
            continue
        glyph = LOOKS[phase].glyph
        style = "red" if failed and phase in (semconv.EXECUTION, OTHER) else glyph.style
        line.append((glyph.unicode if unicode else glyph.ascii) * length, style=style)
    return line


def _fitted_label(row: _Row, width: int) -> Text:
    """Cut deep guides on the left and long names on the right until the label fits."""
    label = _label(row.node)
    room = max(width // 2, width - label.cell_len)
    line = Text().append(_fitted_guides(row.guides, room), style="dim")
    room = width - line.cell_len
    if label.cell_len > room and isinstance(row.node, Node) and row.node.alias:
        tail = label[-_ALIAS_TAIL:]  # distinguishes it from its siblings
        label.truncate(room - tail.cell_len, overflow="ellipsis")
        return line.append_text(label).append_text(tail)
    label.truncate(room, overflow="ellipsis")
    return line.append_text(label)


def _fitted_guides(guides: str, room: int) -> str:
    """Keep only whole guides of the innermost levels if not all fit."""
    kept = (room - 1) // 3 * 3
    return guides if len(guides) <= room else "…" + guides[len(guides) - kept :]


def _label(node: Node | Rest) -> Text:
    style = {"run": "", "attempt": "dim", "other": "dim"}[node.role]
    if isinstance(node, Rest):
        return Text(f"… {len(node.spans):,} more {clean(node.name)}", style="italic")
    name = clean(node.span.name) or "(no name)"
    if node.span.facts.run_type == "flow":
        style = "bold"
    label = Text(name, style=style)
    alias = clean(node.alias) if node.alias else ""
    if alias.startswith(name):
        label.append(alias[len(name) :], style="dim")
    elif alias:
        label.append(f" {alias}", style="not bold dim")
    return label


def result_word(node: Node | Rest) -> str:
    """Return a word or two for how a row ended, or an empty text."""
    if isinstance(node, Rest):
        failed = sum(span.failed for span in node.spans)
        open_ = Counter(str(span.open.state) for span in node.spans if span.open is not None)
        counts = {"failed": failed, **open_}
        return ", ".join(f"{number:,} {word}" for word, number in counts.items() if number)
    if node.role == "run":
        return _result(node.span)
    if node.span.open is not None:
        return node.span.open.state
    if node.role == "attempt":
        return "failure" if node.span.failed else "success"
    return "error" if node.span.failed else ""


def _result(span: Span) -> str:
    return outcomes.word(_ending(span), span.facts.state_name)


def _outcome(span: Span) -> Outcome:
    return outcomes.of(_ending(span))


def _ending(span: Span) -> str | None:
    return span.facts.result if span.open is None else span.open.state


def _node_outcome(node: Node | Rest) -> Outcome:
    if isinstance(node, Rest):
        states = (span.open.state for span in node.spans if span.open is not None)
        return outcomes.of(
            "failure" if any(span.failed for span in node.spans) else next(states, None)
        )
    if node.role == "run" or node.span.open is not None:
        return _outcome(node.span)
    return outcomes.of("failure" if node.span.failed else "success")


def _duration(node: Node | Rest) -> str:
    return human(node.span.duration) if isinstance(node, Node) else ""


def _row_count(node: Node | Rest) -> str:
    count = node.span.facts.rows_output if isinstance(node, Node) else None
    return "" if count is None else f"{count:,}"


def _notes(row: _Row, least: int, told: set[str | None]) -> Iterator[tuple[str, str]]:
    """Yield the notes below a row with their style: missing parents, errors, objectives, waits."""
    node = row.node
    if isinstance(node, Rest):
        yield _totals(node), "dim"
        return
    if node.missing_parent not in told:
        told.add(node.missing_parent)
        yield _missing(node), "yellow"
    if now := _doing(node):
        yield now, "bold"
    message = _message(node)
    if message and message != _message(row.parent):  # an attempt's error is often its run's
        yield message, "red"
    for event in node.span.events:
        if event.name == semconv.SLO_VIOLATED:
            yield f"violates {clean(event.attributes.get(semconv.SLO_DETAIL))}", "yellow"
    waits = list(zip(waits_of(node.span.facts), _WAITED, strict=True))
    if node.role == "run" and any(length >= least for length, _ in waits):
        parts = [f"{human(length)} {where}" for length, where in waits if length >= MS // 2]
        yield f"waited {', '.join(parts)}", "dim"


def _doing(node: Node | Rest | None) -> str:
    """Return what an open row does itself; empty if it is open because of the rows below it."""
    if not isinstance(node, Node) or node.span.open is None:
        return ""
    below = (child.spans if isinstance(child, Rest) else (child.span,) for child in node.children)
    is_caller = any(span.open is not None for spans in below for span in spans)
    return "" if is_caller else doing(node.span.open)


def _message(node: Node | Rest | None) -> str:
    if not isinstance(node, Node) or not node.span.failed:
        return ""
    return clean(node.span.status_message or node.span.facts.error_type)


def _totals(rest: Rest) -> str:
    counts = [f"{name} {count:,}" for name, count in rest.results.most_common()]
    total = human(sum(span.duration for span in rest.spans))
    longest = human(max(span.duration for span in rest.spans))
    return ", ".join([*counts, f"{total} in total", f"{longest} at most"])


def _missing(node: Node) -> str:
    parent = node.missing_parent
    if is_root(node.span):
        return f"called by span {parent}, which is not in these files"
    return f"its parent {parent} is not in these files: not ended yet, or killed"


def _legend(drawn: Container[str], width: int, *, unicode: bool) -> Iterator[Text]:
    line = Text()
    for phase in CAUSES:
        if phase not in drawn:
            continue
        glyph = LOOKS[phase].glyph
        entry = Text(glyph.unicode if unicode else glyph.ascii, style=glyph.style)
        entry.append(f" {glyph.word}", style="not bold dim")
        if line and line.cell_len + 3 + entry.cell_len > width:
            yield line
            line = Text()
        line.append_text(Text("   ") if line else Text()).append_text(entry)
    yield line
