"""The path follows waits to the upstream run, the slot's holder or the worker's previous run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from run_spans import EPOCH, SECOND, attempt, run
from tiling import check

from flowspan.analysis.one_trace import analyse

if TYPE_CHECKING:
    from flowspan.read.span import Span

FLOW = "f"


def flow(end: float) -> Span:
    return run(FLOW, None, 0, end, flow=True, execution=end)


def path(*spans: Span) -> list[tuple[str, str, float, float]]:
    """Return the critical path: span, cause, start and end in seconds."""
    found = analyse(spans)
    check(spans, found)
    return [
        (s.span_id, s.cause, (s.start - EPOCH) / SECOND, (s.end - EPOCH) / SECOND)
        for s in found.critical_path
    ]


def test_upstream() -> None:
    """A task that waited for an upstream run leads to it, even if another run ended later."""
    assert path(
        flow(10),
        run("extract", FLOW, 1, 5, execution=4),
        run("report", FLOW, 1, 7, execution=6),
        run("load", FLOW, 1, 9, upstream=["extract"], dependencies=4, execution=4),
    ) == [
        (FLOW, "execution", 0, 1),
        ("extract", "execution", 1, 5),
        ("load", "execution", 5, 9),
        (FLOW, "execution", 9, 10),
    ]


def test_last_of_several_upstream() -> None:
    """The last of several upstream runs counts; the time after its end is still the wait."""
    assert path(
        flow(10),
        run("early", FLOW, 1, 3, execution=2),
        run("late", FLOW, 1, 5, execution=4),
        run("load", FLOW, 1, 9, upstream=["late", "early"], dependencies=4.5, execution=3.5),
    ) == [
        (FLOW, "execution", 0, 1),
        ("late", "execution", 1, 5),
        ("load", "dependencies", 5, 5.5),
        ("load", "execution", 5.5, 9),
        (FLOW, "execution", 9, 10),
    ]


def test_upstream_chain() -> None:
    """A chain of links is followed to its beginning."""
    assert path(
        flow(10),
        run("a", FLOW, 0, 3, execution=3),
        run("b", FLOW, 0, 6, upstream=["a"], dependencies=3, execution=3),
        run("c", FLOW, 0, 9, upstream=["b"], dependencies=6, execution=3),
        run("d", FLOW, 0, 8.9, execution=8.9),
    ) == [
        ("a", "execution", 0, 3),
        ("b", "execution", 3, 6),
        ("c", "execution", 6, 9),
        (FLOW, "execution", 9, 10),
    ]


def test_upstream_in_another_flow() -> None:
    """The upstream run may be a task of a subflow, or elsewhere in the tree."""
    assert path(
        flow(10),
        run("sub", FLOW, 1, 5, flow=True, execution=4),
        run("inner", "sub", 2, 4, execution=2),
        run("other", FLOW, 1, 4.5, execution=3.5),
        run("load", FLOW, 1, 9, upstream=["inner"], dependencies=3, execution=5),
    ) == [
        (FLOW, "execution", 0, 1),
        ("sub", "execution", 1, 2),
        ("inner", "execution", 2, 4),
        ("load", "execution", 4, 9),
        (FLOW, "execution", 9, 10),
    ]


def test_missing_upstream() -> None:
    """An upstream run that is not in the trace leaves the wait where it is."""
    assert path(
        flow(10),
        run("load", FLOW, 1, 9, upstream=["lost"], dependencies=4, execution=4),
    ) == [
        (FLOW, "execution", 0, 1),
        ("load", "dependencies", 1, 5),
        ("load", "execution", 5, 9),
        (FLOW, "execution", 9, 10),
    ]


def test_slot() -> None:
    """A task that waited for a slot leads to the run with the same tag that released it."""
    assert path(
        flow(10),
        run("first", FLOW, 1, 4.8, tags=["db"], execution=3.8),
        run("other", FLOW, 1, 4.9, tags=["web"], execution=3.9),
        run("second", FLOW, 1, 9, tags=["db", "web2"], concurrency=4, execution=4),
    ) == [
        (FLOW, "execution", 0, 1),
        ("first", "execution", 1, 4.8),
        ("second", "concurrency", 4.8, 5),
        ("second", "execution", 5, 9),
        (FLOW, "execution", 9, 10),
    ]


def test_slot_of_the_tag_that_was_released_last() -> None:
    """It is unknown which tag has a limit, so the run that ended last is the most likely."""
    told = path(
        flow(10),
        run("web", FLOW, 1, 2, tags=["web"], execution=1),
        run("db", FLOW, 1, 4.9, tags=["db"], execution=3.9),
        run("both", FLOW, 1, 9, tags=["web", "db"], concurrency=4, execution=4),
    )
    assert [step[0] for step in told] == [FLOW, "db", "both", "both", FLOW]


def test_slot_passed_on() -> None:
    """If three runs share a slot, each leads to the previous one."""
    assert [
        step[:2]
        for step in path(
            flow(10),
            run("first", FLOW, 1, 3, tags=["db"], execution=2),
            run("second", FLOW, 1, 6, tags=["db"], concurrency=2, execution=3),
            run("third", FLOW, 1, 9, tags=["db"], concurrency=5, execution=3),
        )
    ] == [
        (FLOW, "execution"),
        ("first", "execution"),
        ("second", "execution"),
        ("third", "execution"),
        (FLOW, "execution"),
    ]


def test_slot_held_elsewhere() -> None:
    """If no run here released the slot, another trace held it, and the path stays at the wait."""
    assert path(
        flow(10),
        run("other", FLOW, 1, 4, tags=["web"], execution=3),
        run("load", FLOW, 1, 9, tags=["db"], concurrency=4, execution=4),
    ) == [
        (FLOW, "execution", 0, 1),
        ("load", "concurrency", 1, 5),
        ("load", "execution", 5, 9),
        (FLOW, "execution", 9, 10),
    ]


def test_dependencies_then_slot() -> None:
    """A task that waited for both leads to the slot's holder, and on from there."""
    assert path(
        flow(10),
        run("extract", FLOW, 0, 2, execution=2),
        run("first", FLOW, 0, 5, tags=["db"], execution=5),
        run(
            "second",
            FLOW,
            0,
            9,
            tags=["db"],
            upstream=["extract"],
            dependencies=2,
            concurrency=3,
            execution=4,
        ),
    ) == [
        ("first", "execution", 0, 5),
        ("second", "execution", 5, 9),
        (FLOW, "execution", 9, 10),
    ]


def test_worker() -> None:
    """A task that waited for a worker leads to the previous run of that worker."""
    assert path(
        flow(10),
        run("a", FLOW, 1, 4.4, lane="1", execution=3.4),
        run("b", FLOW, 1, 4.45, lane="2", execution=3.45),
        run("c", FLOW, 4.5, 9, lane="1", queue=3.5, execution=4.5),
    ) == [
        (FLOW, "execution", 0, 1),
        ("a", "execution", 1, 4.4),
        ("c", "queue", 4.4, 4.5),
        ("c", "execution", 4.5, 9),
        (FLOW, "execution", 9, 10),
    ]


def test_queue_without_a_known_worker() -> None:
    """If the worker is unknown, the path stays at the wait in the queue."""
    assert path(
        flow(10),
        run("a", FLOW, 1, 4, execution=3),
        run("c", FLOW, 5, 9, queue=4, execution=4),
    ) == [
        (FLOW, "execution", 0, 1),
        ("c", "queue", 1, 5),
        ("c", "execution", 5, 9),
        (FLOW, "execution", 9, 10),
    ]


def test_clock_of_the_server_is_behind() -> None:
    """The Prefect server records a flow's end, so a task that ended a moment later was awaited."""
    assert path(flow(10), run("task", FLOW, 1, 10.02, execution=9.02)) == [
        (FLOW, "execution", 0, 1),
        ("task", "execution", 1, 10),
    ]


def test_waits_before_a_deployed_flow() -> None:
    """A subflow on a worker pool was late, then waited for its infrastructure."""
    assert path(
        flow(20),
        run("sub", FLOW, 8, 18, flow=True, late=2, infrastructure=3, execution=10),
    ) == [
        (FLOW, "execution", 0, 3),
        ("sub", "late", 3, 5),
        ("sub", "infrastructure", 5, 8),
        ("sub", "execution", 8, 18),
        (FLOW, "execution", 18, 20),
    ]


def test_called_inside_an_attempt() -> None:
    """A subflow that a task's attempt called is entered from the task."""
    assert path(
        flow(10),
        run("task", FLOW, 1, 9, execution=8),
        attempt("attempt", "task", 1, 1, 9),
        run("sub", "attempt", 2, 8, flow=True, execution=6),
    ) == [
        (FLOW, "execution", 0, 1),
        ("task", "execution", 1, 2),
        ("sub", "execution", 2, 8),
        ("task", "execution", 8, 9),
        (FLOW, "execution", 9, 10),
    ]


@pytest.mark.parametrize("wait", ["dependencies", "concurrency"])
def test_wait_longer_than_the_run(wait: str) -> None:
    """A wait longer than its run is cut to the run."""
    totals = {wait: 1_000.0}
    told = path(flow(10), run("task", FLOW, 1, 9, execution=8, **totals))  # type: ignore[arg-type]
    assert [step[:2] for step in told] == [
        (FLOW, "execution"),
        ("task", wait),
        (FLOW, "execution"),
    ]


def test_time_until_a_call_returns() -> None:
    """After the end of a called run, the engine works until the caller's code goes on."""
    spans = [
        run(FLOW, None, 0, 10, flow=True, execution=7),
        run("first", FLOW, 1, 3, flow=True, execution=2, exit=2),
        run("second", FLOW, 6, 7, execution=1, exit=1),
    ]
    assert path(*spans) == [
        (FLOW, "execution", 0, 1),
        ("first", "execution", 1, 3),
        (FLOW, "orchestration", 3, 5),
        (FLOW, "execution", 5, 6),
        ("second", "execution", 6, 7),
        (FLOW, "orchestration", 7, 8),
        (FLOW, "execution", 8, 10),
    ]
    own = next(task for task in analyse(spans).tasks if task.name == FLOW)
    assert (own.drag, own.saved) == (4 * SECOND, 2 * SECOND)


def test_time_until_calls_of_an_attempt_return() -> None:
    """The same in a run with attempts, which have exact times."""
    assert path(
        run(FLOW, None, 0, 10, flow=True, execution=5, retry=2),
        attempt("1", FLOW, 1, 0, 2, failed=True),
        attempt("2", FLOW, 2, 4, 10),
        run("step", "2", 5, 6, execution=1, exit=3),
    ) == [
        (FLOW, "execution", 0, 2),
        (FLOW, "retry", 2, 4),
        (FLOW, "execution", 4, 5),
        ("step", "execution", 5, 6),
        (FLOW, "orchestration", 6, 9),
        (FLOW, "execution", 9, 10),
    ]


def test_upstream_before_the_worker() -> None:
    """A task that another process runs waits for its upstream run first, and then for a worker."""
    spans = [
        flow(10),
        run("extract", FLOW, 1, 5, lane="1", process="a", execution=4),
        run("other", FLOW, 1, 7, lane="2", process="b", execution=6),
        run(
            "load",
            FLOW,
            8,
            9,
            lane="2",
            process="b",
            upstream=["extract"],
            dependencies=4,
            sent=4,
            queue=3,
            execution=1,
        ),
    ]
    assert path(*spans) == [
        (FLOW, "execution", 0, 1),
        ("other", "execution", 1, 7),
        ("load", "queue", 7, 8),
        ("load", "execution", 8, 9),
        (FLOW, "execution", 9, 10),
    ]
    idle = [span for span in spans if span.span_id != "other"]
    assert path(*idle) == [
        (FLOW, "execution", 0, 1),
        ("extract", "execution", 1, 5),
        ("load", "queue", 5, 8),
        ("load", "execution", 8, 9),
        (FLOW, "execution", 9, 10),
    ]
    tasks = {task.name: task for task in analyse(idle).tasks}
    assert tasks["load"].waits["dependencies"] == 4 * SECOND
    assert (tasks["extract"].drag, tasks["extract"].saved) == (4 * SECOND, 2 * SECOND)
