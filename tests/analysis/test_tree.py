"""The tree of spans."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from span_files import EPOCH, Plan, attempt, raw_line, raw_span, run, write

from flowspan import semconv
from flowspan.analysis import phases, tree
from flowspan.analysis.tree import Node, Rest, Tree
from flowspan.read import trace_files


def build(tmp_path: Path, root: Plan, *, everything: bool = False) -> Tree:
    """Write a trace, read it and build its tree."""
    file = tmp_path / "traces.jsonl"
    write(file, root)
    return tree.build(trace_files.load(file).spans, everything=everything)


def outline(built: Tree) -> list[str]:
    """Write a tree as names, indented by two spaces per level."""
    lines: list[str] = []
    stack: list[tuple[int, Node | Rest]] = [(0, root) for root in reversed(built.roots)]
    while stack:
        depth, node = stack.pop()
        if isinstance(node, Rest):
            lines.append("  " * depth + f"... {len(node.spans)} {node.name}")
            continue
        lines.append("  " * depth + node.span.name)
        stack.extend((depth + 1, child) for child in reversed(node.children))
    return lines


def segments(built: Tree, name: str) -> list[tuple[str, float, float]]:
    """List the segments of the span with a name: phase, start and end in seconds."""
    node = next(n for n in tree.walk(built) if isinstance(n, Node) and n.span.name == name)
    return [
        (part.phase.rpartition(".")[2], (part.start - EPOCH) / 1e9, (part.end - EPOCH) / 1e9)
        for part in node.segments
    ]


def test_children_stand_below_their_parents_by_start(tmp_path: Path) -> None:
    """Their order in the file does not matter; spans of other instrumentations are included."""
    load = run("load", 1, 4, Plan("SELECT", 2, 3))
    built = build(tmp_path, run("RUN etl", 0, 10, run("save", 5, 6), load, run("RUN sub", 7, 9)))
    assert outline(built) == ["RUN etl", "  load", "    SELECT", "  save", "  RUN sub"]
    assert built.runs == 4


def test_a_run_whose_parent_is_missing_is_a_root_of_its_own(tmp_path: Path) -> None:
    """The tasks of a killed flow are shown with the id of the missing span."""
    file = tmp_path / "traces.jsonl"
    ids = write(file, run("RUN etl", 0, 9, run("a", 1, 2), run("b", 3, 4), lost=True)).span_ids
    built = tree.build(trace_files.load(file).spans)
    assert outline(built) == ["a", "b"]
    missing = [root.missing_parent for root in built.roots if isinstance(root, Node)]
    assert missing == [ids["RUN etl"]] * 2
    assert built.about.span.name == "a"


def test_parents_in_a_circle_are_shown_once_each(tmp_path: Path) -> None:
    """A broken file does not hang the program or lose spans."""
    file = tmp_path / "f.jsonl"
    spans = [raw_span(n, parentSpanId=f"{n % 3 + 1:016x}") for n in (1, 2, 3)]
    spans.append(raw_span(4, parentSpanId=f"{4:016x}"))
    file.write_text(raw_line(*spans))
    assert outline(tree.build(trace_files.load(file).spans)) == [
        "span 1",
        "  span 3",
        "    span 2",
        "span 4",
    ]


def test_nesting_deeper_than_pythons_stack_is_no_problem(tmp_path: Path) -> None:
    """A chain of thousands of spans becomes a tree."""
    file = tmp_path / "f.jsonl"
    file.write_text(raw_line(*(raw_span(n, parentSpanId=f"{n - 1:016x}") for n in range(1, 5000))))
    assert outline(tree.build(trace_files.load(file).spans))[-1] == "  " * 4998 + "span 4999"


def test_the_only_attempt_of_a_successful_run_is_not_shown(tmp_path: Path) -> None:
    """Its children move below the run, unless everything is requested."""
    once = run("load", 1, 5, attempt(1, 1, 5, Plan("SELECT", 2, 3)))
    assert outline(build(tmp_path, once)) == ["load", "  SELECT"]
    assert outline(build(tmp_path / "..", once, everything=True))[:2] == ["load", "  attempt 1"]


@pytest.mark.parametrize(
    "attempts",
    [(attempt(1, 1, 5, error="no"),), (attempt(1, 1, 2, error="no"), attempt(2, 3, 5))],
)
def test_attempts_are_shown_if_one_failed(tmp_path: Path, attempts: tuple[Plan, ...]) -> None:
    """A failed attempt is always shown, even if a later attempt succeeded."""
    built = build(tmp_path, run("load", 1, 5, *attempts))
    assert outline(built) == ["load", *(f"  {one.name}" for one in attempts)]


def test_same_named_siblings_are_told_apart_by_their_run_names(tmp_path: Path) -> None:
    """A name that is unique among its siblings gets no alias."""
    tasks = [run("load", n, n + 1, run_name=f"load-{n}") for n in range(2)]
    built = build(tmp_path, run("RUN etl", 0, 9, *tasks, run("save", 5, 6, run_name="save-x")))
    nodes = [node for node in tree.walk(built) if isinstance(node, Node)]
    assert [node.alias for node in nodes] == [None, "load-0", "load-1", None]


def test_many_same_named_siblings_are_collapsed_to_the_telling_ones(tmp_path: Path) -> None:
    """Failures and the slowest stay; one line counts the rest by result."""
    tasks = [run("load", n, n + 1 + n / 100) for n in range(28)]
    tasks[:2] = [run("load", n, n + 0.1, error="no", result="failure") for n in range(2)]
    built = build(tmp_path, run("RUN etl", 0, 60, *tasks, run("save", 50, 51)))
    assert outline(built) == ["RUN etl", *["  load"] * 10, "  ... 18 load", "  save"]
    rest = next(node for node in tree.walk(built) if isinstance(node, Rest))
    shown = [n.span for n in tree.walk(built) if isinstance(n, Node) and n.span.name == "load"]
    assert rest.results == {"success": 18}
    assert [span.failed for span in shown] == [True] * 2 + [False] * 8
    assert min(span.duration for span in shown[2:]) > max(span.duration for span in rest.spans)


def test_twenty_siblings_are_not_collapsed_and_neither_are_any_on_request(tmp_path: Path) -> None:
    """A line for each of them is still readable."""
    tasks = [run("load", n, n + 1) for n in range(20)]
    assert len(outline(build(tmp_path, run("RUN etl", 0, 60, *tasks)))) == 21
    (tmp_path / "traces.jsonl").unlink()
    tasks.append(run("load", 30, 31))
    assert len(outline(build(tmp_path, run("RUN etl", 0, 60, *tasks), everything=True))) == 22


def test_waits_before_a_span_end_where_it_starts(tmp_path: Path) -> None:
    """They are in the order in which they occur, and the axis includes them."""
    built = build(tmp_path, run("RUN etl", 10, 20, late=5.0, infrastructure=2.0, queue=1.0))
    assert segments(built, "RUN etl") == [
        ("late", 2, 7),
        ("infrastructure", 7, 9),
        ("queue", 9, 10),
        ("execution", 10, 20),
    ]
    assert (built.start, built.end) == (EPOCH + 2 * 10**9, EPOCH + 20 * 10**9)


def test_waits_inside_a_span_come_before_its_execution(tmp_path: Path) -> None:
    """Dependencies first, then concurrency, then execution; the engine's own time is the rest."""
    totals: dict[str, Any] = {
        "dependencies": 2.0,
        "concurrency": 3.0,
        "execution": 4.0,
        "orchestration": 1.0,
    }
    assert segments(build(tmp_path, run("load", 0, 10, **totals)), "load") == [
        ("dependencies", 0, 2),
        ("concurrency", 2, 5),
        ("execution", 5, 9),
        ("orchestration", 9, 10),
    ]


@pytest.mark.parametrize(("running", "start"), [(3.0, 3), (0.5, 1), (9.0, 5)])
def test_execution_begins_when_the_state_became_running(
    tmp_path: Path, running: float, start: float
) -> None:
    """It never begins inside a wait, or so late that its total would exceed the span's end."""
    plan = run("load", 0, 10, dependencies=1.0, execution=5.0, orchestration=4.0)
    plan.running = running
    (execution,) = [part for part in segments(build(tmp_path, plan), "load") if "exec" in part[0]]
    assert execution == ("execution", start, start + 5)


def test_attempts_tell_exactly_when_a_run_executed_and_waited_to_retry(tmp_path: Path) -> None:
    """The gaps between attempts are the retry wait, whatever the totals suggest."""
    attempts = attempt(1, 2, 4, error="no"), attempt(2, 7, 8)
    built = build(
        tmp_path, run("load", 0, 9, *attempts, dependencies=1.0, retry=3.0, execution=3.0)
    )
    assert segments(built, "load") == [
        ("dependencies", 0, 1),
        ("orchestration", 1, 2),
        ("execution", 2, 4),
        ("retry", 4, 7),
        ("execution", 7, 8),
        ("orchestration", 8, 9),
    ]


def test_retries_without_attempt_spans_are_spread_evenly(tmp_path: Path) -> None:
    """The run count gives the number of stretches of execution."""
    built = build(tmp_path, run("load", 0, 10, retry=4.0, execution=6.0, count=3))
    assert segments(built, "load") == [
        ("execution", 0, 2),
        ("retry", 2, 4),
        ("execution", 4, 6),
        ("retry", 6, 8),
        ("execution", 8, 10),
    ]


def test_a_pause_lies_inside_the_execution(tmp_path: Path) -> None:
    """Execution before and after the pause adds up to the total."""
    assert segments(build(tmp_path, run("load", 0, 10, pause=4.0, execution=6.0)), "load") == [
        ("execution", 0, 3),
        ("pause", 3, 7),
        ("execution", 7, 10),
    ]


@pytest.mark.parametrize(
    "totals",
    [
        {"dependencies": 1e308, "concurrency": 1e30, "execution": 5.0},
        {"dependencies": float("nan"), "queue": float("inf"), "execution": "much"},
        {"execution": -3.0, "pause": 1e9, "retry": 1e9, "count": 10**9},
        {"dependencies": True, "orchestration": 99.0, "count": "many", "retry": 1.0},
    ],
)
def test_absurd_totals_still_fill_the_span_and_no_more(
    tmp_path: Path, totals: dict[str, Any]
) -> None:
    """Segments tile the span from its start to its end."""
    parts = segments(build(tmp_path, run("load", 0, 10, **totals)), "load")
    assert (parts[0][1], parts[-1][2]) == (0, 10)
    assert all(left[2] == right[1] for left, right in itertools.pairwise(parts))


def test_spans_of_no_run_have_a_phase_of_their_own(tmp_path: Path) -> None:
    """Their waits are unknown."""
    assert segments(build(tmp_path, Plan("GET", 0, 1)), "GET") == [(phases.OTHER, 0, 1)]


def test_a_run_that_went_on_in_another_process_counts_once(tmp_path: Path) -> None:
    """Two spans with the same run id are one run."""
    tasks = run("load", 1, 2, run_id="x"), run("load", 3, 4, run_id="x")
    assert build(tmp_path, run("RUN etl", 0, 9, *tasks)).runs == 2


def test_the_trace_is_about_its_flow_run(tmp_path: Path) -> None:
    """A span of another instrumentation that started first does not take its place."""
    built = build(tmp_path, Plan("request", 0, 9, (run("RUN etl", 1, 8),), lost=True))
    assert built.about.span.attributes[semconv.RUN_TYPE] == "flow"


def test_time_until_calls_return_is_the_engines(tmp_path: Path) -> None:
    """The caller's bar, and that of its attempt, show the engine's time after each call."""
    small = [run("RUN small", start, start + 1, run_id=str(start), exit=1.0) for start in (2, 5)]
    expected = [
        ("execution", 0, 3),
        ("orchestration", 3, 4),
        ("execution", 4, 6),
        ("orchestration", 6, 7),
        ("execution", 7, 8),
    ]
    built = build(tmp_path, run("RUN outer", 0, 8, *small, execution=6.0, orchestration=2.0))
    assert segments(built, "RUN outer") == expected
    tries = (attempt(1, 0, 8, *small, error="no"),)
    (tmp_path / "retried").mkdir()
    built = build(
        tmp_path / "retried", run("RUN outer", 0, 8, *tries, execution=6.0, orchestration=2.0)
    )
    assert segments(built, "RUN outer") == segments(built, "attempt 1") == expected
