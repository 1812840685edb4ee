"""Traces that have only times and parents, and Jaeger's rule for their critical path.

The rule, from the ``CriticalPath`` folder of jaegertracing/jaeger-ui (c321fb32, August 2026) and
the package ``criticalpath`` of jaegertracing/jaeger (8498073f, August 2026; since 2.15.0):

1. Fit the children into their parents, from the root down. A child that begins at or after its
   parent's end, or ends at or before its parent's start, is dropped with everything below it;
   other parts outside the parent are cut off. So a child that outlives its parent counts up to the
   parent's end.
2. Begin at the end of the root. From a moment inside a span, the span waited for the child that
   ended last until then: from that end to the moment, the path is the span itself; then it
   continues at the end of that child, inside it, by the same rule. At the child's start it returns
   to the parent. If no child is left, the path is the span down to its start.

So children that overlap the start of a chosen one are skipped: they did not delay it.

The two programs differ from the rule or from each other:

- Both look for a child that ended *before* the moment, not at it. If two children follow each other
  without a gap, the earlier one is skipped, and its time counts as its parent's.
- If children end at the same time, the first one listed is taken. Each of them is a right answer.
- The first program reads a start at 0 as "absent" and ends in an endless recursion; nothing else
  about 0 is special.
- The second one visits the spans in random order at step 1. A child of a parent that is cut later
  keeps its old length, or stays although it is outside, and the answer has sections that overlap or
  end before they start. So the first program's answer counts there.
- Times are microseconds. The second program truncates start and duration separately, so an end may
  be 1 µs early.
- The first one returns a path for each root, the second one for the first span without a parent id,
  and an error if there is none. An orphan has an empty path in the first.
- Both treat a reference of the kind ``FOLLOWS_FROM`` as a parent if there is no other. The first
  drops a CONSUMER below a PRODUCER, with everything below it; the second does not.

`right_answers` is the rule with "until" instead of "before", by enumeration: for small traces.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from run_spans import make_span

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from flowspan.analysis.one_trace import Step
    from flowspan.read.span import Span

MICROSECOND = 1_000
FIXTURES = "fixtures/critical_path"


class Plain(NamedTuple):
    """A span with nothing but times, in microseconds."""

    id: str
    parent: str | None
    start: int
    end: int

    def span(self, number: int) -> Span:
        """Return the span that flowspan's reader returns."""
        start, end = self.start * MICROSECOND, self.end * MICROSECOND
        return make_span(self.id, self.parent, start, end, name=f"span {number}")


Section: TypeAlias = tuple[str, int, int]
"""The id of a span, and the interval (µs) in which it is on the path."""

Sections: TypeAlias = tuple[Section, ...]


class Fixture(NamedTuple):
    """A trace, and the sections of its critical path by Jaeger's two programs.

    `go` is None if it varies from call to call or is an error; both are None if the program does
    not end. `fault` says why Jaeger's answer is not the right one.
    """

    name: str
    why: str
    spans: tuple[Plain, ...]
    jaeger_ui: Sections | None
    jaeger: Sections | None
    fault: str | None


def read_fixtures(folder: Path) -> Iterator[Fixture]:
    """Read the fixtures: one per file, or one per line."""
    for path in sorted(folder.glob("*.json")):
        yield _fixture(path.stem, json.loads(path.read_text()))
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(path.read_text().splitlines()):
            yield _fixture(f"{path.stem}-{number}", json.loads(line))


def _fixture(name: str, raw: dict[str, Any]) -> Fixture:
    return Fixture(
        name,
        raw.get("why", ""),
        tuple(Plain(*span) for span in raw["spans"]),
        _sections(raw["jaeger_ui"]),
        _sections(raw["jaeger"]),
        raw.get("fault"),
    )


def _sections(raw: list[list[Any]] | None) -> Sections | None:
    return None if raw is None else tuple((str(i), int(start), int(end)) for i, start, end in raw)


def joined(sections: Iterable[Section]) -> Sections:
    """Sort sections by time, and join neighbours of one span."""
    found: list[Section] = []
    for section in sorted(sections, key=lambda section: section[1:]):
        if found and found[-1][0] == section[0] and found[-1][2] == section[1]:
            found[-1] = (section[0], found[-1][1], section[2])
        else:
            found.append(section)
    return tuple(found)


def sections_of(path: Iterable[Step]) -> Sections:
    """Convert flowspan's answer to sections; all its times must be whole microseconds."""
    whole = [*path]
    assert all(s.start % MICROSECOND == 0 == s.end % MICROSECOND for s in whole)
    return joined((s.span_id, s.start // MICROSECOND, s.end // MICROSECOND) for s in whole)


def right_answers(spans: Sequence[Plain], root: Plain) -> set[Sections]:
    """Return all paths that follow the rule; there are several if children end together."""
    below: dict[str | None, list[Plain]] = {}
    for span in spans:
        below.setdefault(span.parent, []).append(span)

    def inside(span: Plain, moment: int, children: Sequence[Plain]) -> set[Sections]:
        """Yield all ways from a moment inside a span down to its start."""
        last = max((child.end for child in children if child.end <= moment), default=span.start)
        own = ((span.id, last, moment),) if last < moment else ()
        chosen = [child for child in children if child.end == last]
        return {
            (*before, *within, *own)
            for child in chosen
            for within in whole(child)
            for before in inside(span, child.start, children)
        } or {own}

    def whole(span: Plain) -> set[Sections]:
        return inside(span, span.end, [*_fitted(below.get(span.id, ()), span)])

    return {joined(answer) for answer in whole(root)}


def _fitted(children: Iterable[Plain], parent: Plain) -> Iterator[Plain]:
    """Clip spans to their parent; spans without length are then on no path."""
    for child in children:
        start, end = max(child.start, parent.start), min(child.end, parent.end)
        if start < end:
            yield child._replace(start=start, end=end)
