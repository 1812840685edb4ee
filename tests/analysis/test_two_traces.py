"""The explanation of the difference between two runs."""

import json
from typing import Any

import pytest
from hypothesis import given
from made_spans import run, span, trace, traces

from flowspan import semconv
from flowspan.analysis.one_trace import Analysis, Task
from flowspan.analysis.two_traces import Difference, Side, compare, difference
from flowspan.read.span import Trace
from flowspan.views.headline import difference_headline, remarks
from flowspan.views.json.difference import to_json
from flowspan.views.terminal.difference import draw

SECOND = 1_000_000_000


def task(
    name: str,
    path: dict[str, float],
    *,
    type_: str = "task",
    rows: int | None = None,
    rows_input: int | None = None,
    execution: float = 1.0,
    runs: int = 1,
    retries: int = 0,
    failed: int = 0,
) -> Task:
    """Make a task as in an analysis; times in seconds."""
    on_path = {cause: round(time * SECOND) for cause, time in path.items()}
    total = sum(on_path.values())
    return Task(
        name=name,
        type=type_,
        runs=runs,
        failed=failed,
        retries=retries,
        duration=total,
        execution=round(execution * SECOND),
        path=total,
        share=0.5,
        cause=None,
        slack=0,
        drag=None,
        saved=None,
        waits={},
        rows_input=rows_input,
        rows_output=rows,
        on_path=on_path,
    )


def side(*tasks: Task, name: str = "etl", result: str = "success", trace_id: str = "a") -> Side:
    """Make a run whose critical path consists of its tasks' paths."""
    analysis = Analysis(
        source="flowspan",
        root_id="1",
        start=0,
        end=sum(one.path for one in tasks),
        critical_path=(),
        tasks=tasks,
        on_path={},
        waits={},
        work=0,
        peak_concurrency=1,
        mean_concurrency=1.0,
        efficiency=1.0,
        retry_cost=0,
        retry_cost_on_path=0,
        orchestration=0,
        workers=(),
        late_clocks=(),
    )
    return Side(trace_id, name, None, result, analysis)


def of(before: list[Task], after: list[Task]) -> Difference:
    """Return the difference between two runs of one flow."""
    return difference(side(*before), side(*after, trace_id="b"))


def text(found: Difference, *, width: int = 120, **how: Any) -> list[str]:
    """Draw a difference as plain lines."""
    return [line.plain for line in draw(found, width=width, **how)]


def test_the_largest_change_explains_the_difference() -> None:
    """The sentence names the cause, and the larger number of rows."""
    found = of(
        [
            task("transform", {"execution": 3.0}, rows=1_000, execution=3.0),
            task("load", {"execution": 8.0}),
        ],
        [
            task("transform", {"execution": 6.9}, rows=2_100, execution=6.3),
            task("load", {"execution": 8.3}),
        ],
    )
    assert difference_headline(found) == (
        "B took 4.20 s longer (+38 %): transform explains 3.90 s of it "
        "(execution; 2.1\u00d7 the rows)"
    )


def test_more_rows_are_told_from_slower_rows() -> None:
    """Output rows are compared, else input rows, with the time per row."""
    before = task("transform", {"execution": 3.0}, rows=1_000, rows_input=5, execution=3.0)
    slower = task("transform", {"execution": 6.0}, rows=1_000, rows_input=9, execution=6.0)
    both = task("transform", {"execution": 9.0}, rows=1_500, execution=9.0)
    assert "(execution; 2.0\u00d7 the time per row)" in difference_headline(of([before], [slower]))
    found = of([before], [both])
    assert "(execution; 1.5\u00d7 the rows; 2.0\u00d7 the time per row)" in difference_headline(
        found
    )
    volume = found.changes[0].volume
    assert volume is not None
    assert (volume.direction, volume.ratio, volume.per_row) == ("output", 1.5, 2.0)
    assert volume.rates == pytest.approx((1_000 / 3, 1_500 / 9))
    only_input = task("a", {"execution": 1.0}, rows_input=10)
    found = of([only_input], [only_input])
    assert found.changes[0].volume is not None
    assert found.changes[0].volume.direction == "input"


def test_rows_of_nothing_have_no_rate() -> None:
    """Zero rows, and rows known on one side only, cause no division."""
    for rows, execution in ((0, 1.0), (None, 1.0), (5, 0.0)):
        found = of(
            [task("a", {"execution": 1.0}, rows=7)],
            [task("a", {"queue": 3.0}, rows=rows, execution=execution)],
        )
        assert found.changes[0].volume is None


def test_the_cause_is_that_of_the_change() -> None:
    """It is not the longest cause in either run."""
    found = of(
        [task("load", {"execution": 9.0, "concurrency": 1.0})],
        [task("load", {"execution": 8.5, "concurrency": 6.0})],
    )
    assert found.changes[0].cause == "concurrency"
    assert found.changes[0].by_cause == {"execution": -SECOND // 2, "concurrency": 5 * SECOND}
    assert "(concurrency)" in difference_headline(found)


def test_retries_failures_and_runs_are_told() -> None:
    """Each is shown with its number in both runs."""
    found = of(
        [task("fetch", {"execution": 1.0}, runs=4)],
        [task("fetch", {"execution": 1.0, "retry": 5.0}, runs=5, retries=3, failed=1)],
    )
    assert difference_headline(found).endswith(
        "(retry; 5 runs, 4 before; 3 retries, 0 before; 1 failed, 0 before)"
    )


def test_new_and_gone_tasks_are_named() -> None:
    """The change of a name on one side only is its whole time."""
    found = of(
        [task("old", {"execution": 1.0}), task("same", {"execution": 1.0})],
        [task("new", {"execution": 4.0}), task("same", {"execution": 1.0})],
    )
    assert [(change.name, change.path) for change in found.changes] == [
        ("new", 4 * SECOND),
        ("old", -SECOND),
        ("same", 0),
    ]
    assert difference_headline(found).endswith("new adds 4.00 s (new), other changes save 1.00 s")
    lines = text(found)
    assert any(line.startswith("new") and "+4.00 s  new" in line for line in lines)
    assert any(line.startswith("old") and "-1.00 s  gone" in line for line in lines)


def test_a_task_and_a_flow_of_one_name_are_two() -> None:
    """For the flow, only its own time counts."""
    found = of(
        [task("etl", {"execution": 1.0}), task("etl", {"orchestration": 1.0}, type_="flow")],
        [task("etl", {"execution": 1.0}), task("etl", {"orchestration": 3.0}, type_="flow")],
    )
    assert [(change.type, change.path) for change in found.changes] == [
        ("flow", 2 * SECOND),
        ("task", 0),
    ]
    assert "etl itself explains 2.00 s of it (orchestration)" in difference_headline(found)


def test_what_got_shorter_is_explained_likewise() -> None:
    """This also holds if something else took longer."""
    found = of(
        [task("a", {"execution": 9.0}), task("b", {"execution": 1.0})],
        [task("a", {"execution": 4.0}), task("b", {"execution": 3.0})],
    )
    assert difference_headline(found) == (
        "B took 3.00 s less (-30 %): a saves 5.00 s (execution), other changes add 2.00 s"
    )


def test_no_difference_is_told_as_such() -> None:
    """This also holds if two changes cancel out, or nothing took any time."""
    assert difference_headline(
        of([task("a", {"execution": 2.0})], [task("a", {"execution": 2.0})])
    ) == ("Both took 2.00 s.")
    empty = of([task("a", {})], [task("a", {})])
    assert (difference_headline(empty), empty.relative) == ("Both took 0 ms.", None)
    from_nothing = of([task("a", {})], [task("a", {"execution": 2.0})])
    assert difference_headline(from_nothing).startswith("B took 2.00 s longer: a explains")


def test_what_is_hard_to_compare_is_said() -> None:
    """Remarks cover different flows, a failed run and the same run twice."""
    one = task("a", {"execution": 1.0})
    said = remarks(difference(side(one), side(one, name="elt", result="failure", trace_id="b")))
    assert said == [
        "These are different flows: A is 'etl', B is 'elt'.",
        "B ended with failure, so it may lack some of the work.",
    ]
    assert remarks(difference(side(one), side(one))) == ["A and B are the same run."]


def test_the_table_adds_up_and_hides_what_did_not_change() -> None:
    """Everything is shown on request, and a change of counts always."""
    before = [task("slow", {"execution": 2.0}), task("retried", {"execution": 1.0})]
    before += [task(f"quiet {n}", {"execution": 1.0}) for n in range(3)]
    after = [task("slow", {"execution": 4.0}), task("retried", {"execution": 1.0}, retries=2)]
    after += [task(f"quiet {n}", {"execution": 1.0001}) for n in range(3)]
    found = of(before, after)
    table = text(found)[6:-2]
    assert [line.split("  ")[0] for line in table] == [
        "task",
        "slow",
        "retried",
        "… 3 more",
        "the whole run",
    ]
    assert "0 → 2" in table[2]
    assert table[-1].split("  ")[-1].strip() == "+2.00 s"
    assert len(text(found, everything=True)) == len(text(found)) + 2


def test_ascii_and_narrow_outputs_are_served() -> None:
    """The least useful columns are dropped first."""
    found = of(
        [task("größer", {"execution": 3.0}, rows=1_000)],
        [task("größer", {"execution": 6.9}, rows=2_100)],
    )
    plain = "\n".join(text(found, unicode=False)).replace("größer", "")
    assert plain.isascii()
    narrow = text(found, width=40)
    assert "change" in narrow[6]
    assert "rows" not in narrow[6]
    assert max(len(line) for line in narrow if "explains" not in line) <= 40


@given(traces(), traces())
def test_the_changes_sum_to_that_of_the_duration(before: Trace, after: Trace) -> None:
    """The sums are exact to the nanosecond, and by cause for every name."""
    found = compare(before, after)
    assert sum(change.path for change in found.changes) == found.total
    for change in found.changes:
        assert sum(change.by_cause.values()) == change.path
    assert "".join(text(found))
    document = json.loads(to_json(found))
    assert sum(one["change"] for one in document["tasks"]) == document["change"]


def test_the_document_has_what_the_table_shows() -> None:
    """Its keys are stable and have a version number."""
    ms = 1_000_000
    rows = {semconv.ROWS_OUTPUT: 10, semconv.EXECUTION: 0.004}
    before = trace(
        run(1, 0, 9 * ms, type_="flow", name="RUN etl", attributes={semconv.FLOW_NAME: "etl"}),
        run(2, ms, 5 * ms, name="load", parent=1, attributes=rows),
    )
    more = {semconv.ROWS_OUTPUT: 40, semconv.EXECUTION: 0.008}
    after = trace(
        run(1, 0, 13 * ms, type_="flow", name="RUN etl", attributes={semconv.FLOW_NAME: "etl"}),
        run(2, ms, 9 * ms, name="load", parent=1, attributes=more),
    )
    document = json.loads(to_json(compare(before, after)))
    assert document["version"] == 1
    assert set(document) == {
        "version",
        "a",
        "b",
        "change",
        "relative_change",
        "headline",
        "remarks",
        "tasks",
    }
    assert (document["a"]["name"], document["a"]["duration"]) == ("etl", 9 * ms)
    assert (document["change"], document["relative_change"]) == (4 * ms, pytest.approx(4 / 9))
    load = document["tasks"][0]
    assert (load["name"], load["status"], load["change"]) == ("load", "both", 4 * ms)
    assert (load["a"]["rows_output"], load["b"]["rows_output"]) == (10, 40)
    assert load["volume"]["rows_ratio"] == 4
    assert load["volume"]["time_per_row_ratio"] == pytest.approx(0.5)
    assert load["volume"]["b_rows_per_second"] == pytest.approx(5_000)


def test_plain_traces_can_be_compared() -> None:
    """A remark says that less is known about them."""
    found = compare(trace(span(1, 0, 5, name="GET")), trace(span(1, 0, 9, name="GET")))
    assert found.total == 4
    assert sum("is unknown" in remark for remark in remarks(found)) == 2
