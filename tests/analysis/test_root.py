"""The root of a trace is the same for the header, the analysis, trends and comparisons."""

from collections.abc import Sequence

import pytest
from made_spans import trace as put_together
from rendered import rendered
from run_spans import EPOCH, SECOND, make_span, run

from flowspan.analysis import tree
from flowspan.analysis.flow_runs import flow_names, runs_of
from flowspan.analysis.one_trace import analyse
from flowspan.analysis.root import root_of
from flowspan.analysis.two_traces import compare
from flowspan.read.span import Span
from flowspan.views.headline import headline
from flowspan.views.html.timeline import render
from flowspan.views.terminal import timeline

LOST = "killed"
"""The id of a span that was never sent."""


def deployed() -> list[Span]:
    """The caller was killed: its subflow never ended, but the deployment that it started did."""
    orphan = run("child", LOST, 0, 3, flow=True, orchestration=3.0)
    remote = run("deployed", None, 1, 9, flow=True, execution=8.0)
    remote.parent_span_id = LOST
    attributes = dict(orphan.attributes)
    del attributes["cicd.pipeline.result"]
    child = make_span(
        orphan.span_id, LOST, orphan.start, orphan.end, name=orphan.name, attributes=attributes
    )
    return [child, remote]


def test_an_orphan_does_not_take_the_place_of_a_run_that_is_a_root() -> None:
    """All views agree: the header names the flow that the headline blames."""
    spans = deployed()
    trace = put_together(*spans)
    analysis = analyse(spans)
    assert headline(analysis).startswith("the code of flow deployed itself is the bottleneck")
    built = tree.build(spans)
    title = next(iter(timeline.draw(built, width=100))).plain
    assert title.startswith("deployed  deployed-deployed  ✓ success")
    assert b"<title>deployed deployed-deployed</title>" in rendered(render, trace)
    assert compare(trace, trace).before.name == "deployed"
    assert analysis.root_id == root_of(trace.spans).span_id == "deployed"


def test_a_run_in_several_processes_is_one_and_ended_with_the_last() -> None:
    """It starts with the first process."""
    first = run("first", None, 0, 2, name="etl", flow=True, run_id="same", failed=True)
    last = run("last", None, 5, 9, name="etl", flow=True, run_id="same")
    root = root_of([first, last])
    assert (root.span, root.is_there) == (last, True)
    assert (root.start, root.end) == (EPOCH, EPOCH + 9 * SECOND)
    assert analyse([first, last]).root_id == "last"
    assert "✓ success" in next(iter(timeline.draw(tree.build([first, last]), width=100))).plain


def test_of_a_missing_run_a_task_that_it_called_tells_the_name() -> None:
    """A subflow that it called would give its own name."""
    child = run("child", LOST, 0, 3, flow=True)
    task = make_span(
        "load",
        LOST,
        EPOCH + SECOND,
        EPOCH + 2 * SECOND,
        attributes={"prefect.run.type": "task", "prefect.flow.name": "etl"},
    )
    root = root_of([child, task])
    assert (root.span, root.span_id, root.is_there) == (task, LOST, False)
    assert next(iter(timeline.draw(tree.build([child, task]), width=100))).plain.startswith(
        "etl  … not ended"
    )
    assert {found.name for found in analyse([child, task]).tasks if found.type == "flow"} == {
        "child",
        "etl",
    }


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([make_span("a", None, 0, 9), run("b", None, 1, 2), run("c", None, 3, 4, flow=True)], "c"),
        ([make_span("a", None, 0, 9), run("b", None, 1, 2)], "b"),
        ([make_span("a", "x", 0, 9), make_span("b", None, 1, 2)], "b"),
        ([make_span("a", "b", 0, 9), make_span("b", "a", 1, 2)], "a"),
        (
            [run("a", "x", 0, 9, flow=True), make_span("b", "y", 1, 2), make_span("c", "y", 3, 4)],
            "b",
        ),
    ],
)
def test_flow_runs_come_before_other_runs_and_those_before_other_spans(
    spans: Sequence[Span], expected: str
) -> None:
    """Roots come before orphans; among orphans, the largest group with one missing caller wins."""
    assert root_of(spans).span.span_id == expected


def test_trends_take_the_same_span_for_what_a_plain_trace_is_about() -> None:
    """This holds even if an orphan comes first."""
    trace = put_together(
        make_span("a", LOST, 0, 9, name="orphan"), make_span("b", None, 1, 9, name="root")
    )
    assert flow_names(trace) == {"root"}
    assert [found.flow for found in runs_of(trace)] == ["root"]


def test_a_missing_run_does_not_fail_with_what_it_called() -> None:
    """One of its tasks stands in for it, and its failure counts once."""
    attributes = {
        "prefect.run.type": "task",
        "prefect.flow.name": "etl",
        "prefect.task.name": "load",
    }
    task = make_span("load", LOST, EPOCH, EPOCH + SECOND, attributes=attributes, failed=True)
    assert {one.name: one.failed for one in analyse([task]).tasks} == {"load": 1, "etl": 0}
