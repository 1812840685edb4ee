"""For any trace, the critical path tiles its root, and the figures of the tasks add up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from run_spans import EPOCH, SECOND, TOTALS, attempt, make_span, run
from tiling import check

from flowspan import semconv
from flowspan.analysis.one_trace import analyse

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from flowspan.read.span import Span

MOMENTS = 12
"""There are few distinct times, so that spans touch, overlap and outlive each other."""


@st.composite
def traces(draw: st.DrawFn) -> list[Span]:
    """Generate a trace in which anything may be wrong."""
    size = draw(st.integers(1, 12))
    ids = [f"{number:016x}" for number in range(1, size + 1)]
    anybody = st.sampled_from([*ids, "f" * 16])
    disorder = draw(st.sampled_from([0, 0, 0, 3]))  # of ten parents, how many are random
    unit = draw(st.sampled_from([1, 1_000, SECOND]))
    base = draw(st.sampled_from([0, EPOCH]))
    skews = draw(st.lists(st.integers(-MOMENTS, MOMENTS), min_size=2, max_size=2))
    spans: list[Span] = []
    for number, span_id in enumerate(ids):
        if draw(st.integers(0, 9)) < disorder:
            parent = draw(st.none() | anybody)
        else:
            parent = draw(st.sampled_from(ids[:number])) if number else None
        start, end = draw(st.integers(0, MOMENTS)), draw(st.integers(0, MOMENTS))
        if draw(st.integers(0, 19)):  # an end before the start is rare
            start, end = sorted((start, end))
        process = draw(st.integers(0, 1))
        skew = skews[process] if draw(st.booleans()) else 0
        role, attributes = draw(roles(unit))
        spans.append(
            make_span(
                span_id,
                parent,
                max(0, base + (start + skew) * unit),
                max(0, base + (end + skew) * unit),
                name=draw(st.sampled_from(["a", "b", "c"])) if role != "attempt" else "attempt 1",
                kind=draw(st.sampled_from(["INTERNAL", "INTERNAL", "INTERNAL", "SERVER"])),
                attributes=attributes,
                upstream=draw(st.lists(anybody, max_size=3)),
                failed=draw(st.booleans()),
                resource={"service.name": f"process {process}"},
            )
        )
    return spans


@st.composite
def roles(draw: st.DrawFn, unit: int) -> tuple[str, dict[str, Any]]:
    """Generate a span's type and attributes, which need not make sense."""
    role = draw(st.sampled_from(["task", "task", "task", "flow", "flow", "attempt", "plain"]))
    if role == "plain":
        return role, {}
    if role == "attempt":
        return role, {semconv.ATTEMPT: 1}
    seconds = st.integers(0, MOMENTS).map(lambda number: number * unit / SECOND)
    absurd = st.sampled_from([-1.0, 1e-9, 1e3, 1e18, float("nan"), float("inf"), "long", None])
    totals = draw(
        st.dictionaries(st.sampled_from([*TOTALS.values()]), seconds | absurd, max_size=4)
    )
    name = draw(st.sampled_from(["a", "b", "c"]))
    return role, {
        semconv.RUN_TYPE: role,
        semconv.RUN_ID: f"run {draw(st.integers(0, 30))}",
        semconv.RUN_COUNT: draw(st.integers(0, 3)),
        semconv.TASK_NAME if role == "task" else semconv.FLOW_NAME: name,
        semconv.TAGS: draw(st.lists(st.sampled_from(["x", "y"]), max_size=2)),
        "thread.id": draw(st.integers(0, 2)),
        **totals,
    }


def expected_extent(spans: Sequence[Span]) -> tuple[int, int] | None:
    """Return the start and end of the root; None if no span can be one, or it makes no sense."""
    ordered = sorted(spans, key=lambda span: (span.start, -span.end, span.span_id))
    ids = {span.span_id for span in spans}
    roots = [
        span
        for span in ordered
        if span.parent_span_id is None
        or (span.parent_span_id not in ids and span.kind in ("SERVER", "CONSUMER"))
    ]
    if not roots:
        return None
    of_flows = [span for span in roots if span.attributes.get(semconv.RUN_TYPE) == "flow"]
    of_runs = [span for span in roots if span.is_run]
    root = next(iter([*of_flows, *of_runs, *roots]))
    run_id = root.attributes.get(semconv.RUN_ID)
    same = [
        span
        for span in spans
        if span is root or (span.is_run and span.attributes[semconv.RUN_ID] == run_id)
    ]
    if any(span.parent_span_id is not None for span in same if span is not root):
        return None  # a run that called itself
    if len({span.attributes.get(semconv.RUN_TYPE) for span in same}) > 1:
        return None  # belongs to both a flow and a task
    return min(span.start for span in same), max(span.start + span.duration for span in same)


@given(traces(), st.randoms(use_true_random=False))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_tiles_and_adds_up(spans: list[Span], dice: random.Random) -> None:
    """There are no gaps or overlaps, sums are exact, and the order of the spans does not matter."""
    found = analyse(spans)
    event(f"{len(found.critical_path)} steps")
    check(spans, found)
    assert analyse(spans) == found
    shuffled = [*spans]
    dice.shuffle(shuffled)
    assert analyse(shuffled) == found


@given(traces())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_root(spans: list[Span]) -> None:
    """The root is the first root flow run, else run, else span, in all its processes."""
    extent = expected_extent(spans)
    found = analyse(spans)
    if extent is not None:
        assert (found.start, found.end) == extent


def nested(depth: int) -> list[Span]:
    """Make nested subflows; each waits a second for the next and works a second itself."""
    last = 2 * depth
    return [
        run(
            f"{n:016x}",
            f"{n - 1:016x}" if n else None,
            n,
            last - n,
            name="nested",
            flow=True,
            execution=last,
        )
        for n in range(depth)
    ]


@pytest.mark.parametrize("depth", [3, 5_000])
def test_nested_subflows(depth: int) -> None:
    """The path goes down to the innermost flow and up again, at any depth."""
    spans = nested(depth)
    found = analyse(spans)
    check(spans, found)
    ids = [span.span_id for span in spans]
    assert [step.span_id for step in found.critical_path] == [*ids, *reversed(ids[:-1])]


@pytest.mark.parametrize("width", [1, 3_000])
def test_mapped_tasks(width: int) -> None:
    """Among thousands of parallel runs, the one that ended last is on the path."""
    end = 10 + width / 1_000
    spans = [run("0" * 15 + "1", None, 0, end + 1, flow=True, execution=end + 1)]
    spans += [
        run(
            f"{n + 2:016x}",
            spans[0].span_id,
            1,
            10 + (n + 1) / 1_000,
            name="mapped",
            execution=9 + (n + 1) / 1_000,
        )
        for n in range(width)
    ]
    found = analyse(spans)
    check(spans, found)
    assert [s.span_id for s in found.critical_path] == [
        spans[0].span_id,
        spans[-1].span_id,
        spans[0].span_id,
    ]
    (mapped,) = (task for task in found.tasks if task.name == "mapped")
    assert mapped.runs == width


def test_circle_of_links() -> None:
    """Two tasks that wait for each other do not make the path endless."""
    spans = [
        run("a" * 16, None, 0, 10, flow=True, execution=10),
        run("b" * 16, "a" * 16, 1, 8, upstream=["c" * 16], dependencies=5, execution=2),
        run("c" * 16, "a" * 16, 1, 9, upstream=["b" * 16], dependencies=7, execution=1),
    ]
    check(spans, analyse(spans))


def test_circle_of_parents() -> None:
    """A trace whose spans are each other's parents still has a path."""
    spans = [run("a" * 16, "b" * 16, 0, 10), run("b" * 16, "a" * 16, 2, 8)]
    check(spans, analyse(spans))


def test_fire_and_forget() -> None:
    """A task that outlives its flow, which did not wait for it, ends no later than the flow."""
    spans = [
        run("a" * 16, None, 0, 10, flow=True, execution=10),
        run("b" * 16, "a" * 16, 1, 9, execution=8),
        run("c" * 16, "a" * 16, 2, 60, execution=58),
    ]
    found = analyse(spans)
    check(spans, found)
    assert found.end == EPOCH + 10 * SECOND


def test_killed_parent() -> None:
    """If the process of the flow was killed, only the runs that it called are left."""
    spans = [
        run("b" * 16, "a" * 16, 1, 4, execution=3),
        run("c" * 16, "a" * 16, 5, 9, execution=4),
    ]
    found = analyse(spans)
    check(spans, found)
    assert (found.root_id, found.start, found.end) == (
        "a" * 16,
        EPOCH + 1 * SECOND,
        EPOCH + 9 * SECOND,
    )
    assert [step.span_id for step in found.critical_path] == ["b" * 16, "a" * 16, "c" * 16]


def test_resumed_elsewhere() -> None:
    """A flow run resumed in another process lasts from its first start to its last end."""
    spans = [
        run("a" * 16, None, 0, 4, flow=True, run_id="r", execution=4),
        run("b" * 16, "a" * 16, 1, 3, execution=2),
        run("c" * 16, None, 10, 20, flow=True, run_id="r", count=2, execution=10),
        run("d" * 16, "c" * 16, 11, 19, execution=8),
    ]
    found = analyse(spans)
    check(spans, found)
    assert (found.start, found.end) == (EPOCH, EPOCH + 20 * SECOND)
    assert {step.span_id for step in found.critical_path} == {s.span_id for s in spans}


def test_attempts() -> None:
    """Attempts divide the run; the time between them is the wait for a retry."""
    spans = [
        run("a" * 16, None, 0, 10, flow=True, execution=10),
        run("b" * 16, "a" * 16, 1, 9, count=2, execution=5, retry=3),
        attempt("c" * 16, "b" * 16, 1, 1, 3, failed=True),
        attempt("d" * 16, "b" * 16, 2, 6, 9),
    ]
    found = analyse(spans)
    check(spans, found)
    told = [(s.span_id[0], s.cause, (s.end - s.start) // SECOND) for s in found.critical_path]
    assert told == [
        ("a", "execution", 1),
        ("b", "execution", 2),
        ("b", "retry", 3),
        ("b", "execution", 3),
        ("a", "execution", 1),
    ]
