"""If only times and parents are known, the critical path follows Jaeger's rule."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_traces import Fixture, Plain, joined, read_fixtures, right_answers, sections_of

from flowspan.analysis.one_trace import analyse

FIXTURES = [*read_fixtures(Path(__file__).parent.parent / "fixtures" / "critical_path")]
CORRECT = [fixture for fixture in FIXTURES if fixture.fault is None]
FAULTY = [fixture for fixture in FIXTURES if fixture.fault is not None]


def path_of(spans: tuple[Plain, ...]) -> tuple[tuple[str, int, int], ...]:
    return sections_of(analyse([s.span(number) for number, s in enumerate(spans)]).critical_path)


def has_ties(spans: tuple[Plain, ...]) -> bool:
    """Check whether several paths are right because children end together after clipping."""
    return len(right_answers(spans, spans[0])) > 1


@pytest.mark.parametrize("fixture", CORRECT, ids=lambda fixture: fixture.name)
def test_equals_jaeger(fixture: Fixture) -> None:
    """The answer equals Jaeger's, or is another right one if children end together."""
    assert fixture.jaeger_ui is not None
    found = path_of(fixture.spans)
    if has_ties(fixture.spans):
        assert found in right_answers(fixture.spans, fixture.spans[0])
    else:
        assert found == joined(fixture.jaeger_ui)


@pytest.mark.parametrize("fixture", FAULTY, ids=lambda fixture: fixture.name)
def test_differs_from_jaeger_where_that_is_at_fault(fixture: Fixture) -> None:
    """No child is skipped because it ends when the next one begins, or because it begins at 0."""
    found = path_of(fixture.spans)
    assert found in right_answers(fixture.spans, fixture.spans[0])
    assert fixture.jaeger_ui is None or found != joined(fixture.jaeger_ui)


@pytest.mark.parametrize("fixture", CORRECT, ids=lambda fixture: fixture.name)
def test_the_rule_is_jaegers(fixture: Fixture) -> None:
    """The rule as written down gives Jaeger's recorded answer, which tiles the root."""
    assert fixture.jaeger_ui is not None
    root, answer = fixture.spans[0], joined(fixture.jaeger_ui)
    assert answer in right_answers(fixture.spans, root)
    assert all(before[2] == after[1] for before, after in pairwise(answer))
    assert sum(end - start for _, start, end in answer) == root.end - root.start


def test_jaegers_two_programs_agree() -> None:
    """They agree on all fixtures without ties and with a single answer, which are most of them."""
    both = [f for f in CORRECT if f.jaeger is not None and not has_ties(f.spans)]
    assert len(both) > len(FIXTURES) / 2
    assert all(
        f.jaeger_ui is not None and joined(f.jaeger_ui) == joined(f.jaeger)
        for f in both
        if f.jaeger
    )


@st.composite
def plain_traces(draw: st.DrawFn) -> tuple[Plain, ...]:
    """Generate traces with few distinct times, so that spans touch, overlap and outlive others."""
    moments = st.integers(0, draw(st.sampled_from([6, 12, 60])))
    spans: list[Plain] = []
    for number in range(draw(st.integers(1, 9))):
        start, end = sorted((draw(moments), draw(moments)))
        parent = spans[draw(st.integers(0, number - 1))].id if spans else None
        spans.append(Plain(f"{number:016x}", parent, start, end))
    return tuple(spans)


@given(plain_traces())
def test_follows_the_rule(spans: tuple[Plain, ...]) -> None:
    """The path of any trace is one that the rule allows."""
    assert path_of(spans) in right_answers(spans, spans[0])
