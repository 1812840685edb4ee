"""Runs that have not ended, in each view."""

import json
from pathlib import Path

import pytest
from rendered import rendered
from reports import Reporter
from span_files import EPOCH, run, write

from flowspan import semconv
from flowspan.analysis import one_trace, tree, two_traces
from flowspan.analysis.findings import Findings
from flowspan.analysis.flow_runs import runs_of
from flowspan.analysis.phases import OPEN
from flowspan.read import open_runs, trace_files
from flowspan.text import SECOND, time_of_day
from flowspan.views import dot, perfetto
from flowspan.views.headline import headline, remarks
from flowspan.views.html import timeline as page
from flowspan.views.json import timeline as document
from flowspan.views.terminal import timeline
from flowspan.views.wishes import Wishes

TASKS = 30


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read everything 60 seconds after `EPOCH`."""
    monkeypatch.setattr(open_runs, "time_ns", lambda: EPOCH + 60 * SECOND)


def etl(folder: Path, heard: float, *, tasks: int = 1) -> Findings:
    """Return a flow with a task that has ended, and others that have not."""
    ended = run("extract", 1, 20)
    written = write(folder / "traces.jsonl", run("RUN etl", 0, 90, ended, lost=True))
    root = written.span_ids["RUN etl"]
    process = Reporter(folder / "logs.jsonl", written.trace_id)
    process.report("RUN etl", heard, span_id=root)
    for number in range(tasks):
        process.report(
            "load",
            heard,
            start=21,
            span_id=f"{number + 2:016x}",
            parent=root,
            activity="concurrency",
            also={semconv.WAIT_CONCURRENCY: heard - 21},
        )
    return Findings(trace_files.load(folder))


def drawn(findings: Findings) -> list[str]:
    built = findings.tree
    return [text.plain for text in timeline.draw(built, width=100, analysis=findings.analysis)]


@pytest.mark.usefixtures("now")
def test_the_head_says_how_long_it_has_been_running(tmp_path: Path) -> None:
    """It counts up to now."""
    assert drawn(etl(tmp_path, 55))[0] == "etl  meaty-vicugna  ▶ running, 1 m 00 s so far"


@pytest.mark.usefixtures("now")
def test_the_head_says_when_a_lost_run_was_last_heard_of(tmp_path: Path) -> None:
    """Bars go up to then."""
    findings = etl(tmp_path, 25)
    clock = time_of_day(EPOCH + 25 * SECOND)
    title = f"etl  meaty-vicugna  ? lost: last heard of at {clock}, after 25.0 s"
    assert drawn(findings)[0] == title
    assert findings.tree.end == EPOCH + 25 * SECOND


@pytest.mark.usefixtures("now")
def test_an_open_run_is_marked_where_it_is_executing_or_waiting(tmp_path: Path) -> None:
    """Its callers only wait for it."""
    (tmp_path / "alone").mkdir()
    for findings, said in (
        (etl(tmp_path, 55), "is waiting for a concurrency slot now"),
        (etl(tmp_path / "alone", 55, tasks=0), "is executing now"),
    ):
        assert [line.strip("│ ") for line in drawn(findings) if line.endswith(" now")] == [said]


@pytest.mark.usefixtures("now")
def test_open_execution_has_a_phase_of_its_own(tmp_path: Path) -> None:
    """Waits keep theirs, and so does what has ended."""
    built = etl(tmp_path, 55).whole_tree
    phases = {
        node.span.name: {segment.phase for segment in node.segments}
        for node in tree.walk(built)
        if isinstance(node, tree.Node)
    }
    assert OPEN in phases["RUN etl"]
    assert semconv.WAIT_CONCURRENCY in phases["load"]
    assert OPEN not in phases["extract"]


@pytest.mark.usefixtures("now")
def test_many_open_siblings_are_counted(tmp_path: Path) -> None:
    """A collapsed row says how many there are."""
    lines = drawn(etl(tmp_path, 55, tasks=TASKS))
    (rest,) = (line for line in lines if "more load" in line)
    hidden = TASKS - tree.GROUP_SHOWN
    assert f"… {hidden} more load" in rest
    assert f"▶ {hidden} running" in rest


@pytest.mark.usefixtures("now")
def test_no_bottleneck_of_a_whole_is_claimed(tmp_path: Path) -> None:
    """Nobody knows yet what will take most of the time, or what would save some."""
    analysis = etl(tmp_path, 55).analysis
    assert headline(analysis).startswith("so far: load takes 65 % of the critical path")
    assert {(task.slack, task.drag, task.saved) for task in analysis.tasks} <= {
        (0, None, None),
        (None, 0, 0),
    }


@pytest.mark.usefixtures("now")
def test_json_has_no_end(tmp_path: Path) -> None:
    """It has the state instead."""
    found = json.loads(b"".join(document.render(etl(tmp_path, 25), Wishes())))
    assert found["root"]["end"] is None
    spans = {span["name"]: span for span in found["spans"]}
    assert spans["load"]["end"] is None
    assert (spans["load"]["state"], spans["load"]["activity"]) == ("lost", "concurrency")
    assert spans["load"]["last_seen"] == EPOCH + 25 * SECOND
    assert spans["extract"]["end"] == EPOCH + 20 * SECOND
    assert "state" not in spans["extract"]


@pytest.mark.usefixtures("now")
def test_perfetto_the_graph_and_the_page_say_the_state(tmp_path: Path) -> None:
    """None of them gives an end to what has not ended."""
    findings = etl(tmp_path, 25)
    events = json.loads(rendered(perfetto.render, findings.trace))["traceEvents"]
    load = next(one for one in events if one["name"] == "load" and one["ph"] == "X")
    assert (load["cat"], load["args"]["state"]) == ("task,lost", "lost")
    assert "end_ns" not in load["args"]
    assert "lost" in rendered(dot.render, findings.trace).decode()
    shown = rendered(page.render, findings.trace).decode()
    assert "lost: last heard of at " in shown
    assert "was waiting for a concurrency slot when last heard of" in shown


@pytest.mark.usefixtures("now")
def test_a_comparison_says_that_a_run_has_not_ended(tmp_path: Path) -> None:
    """Its duration is only what is known of it."""
    for heard, said in ((55, "is still running"), (25, "was lost before its end")):
        folder = tmp_path / str(heard)
        folder.mkdir()
        found = etl(folder, heard).trace
        assert remarks(two_traces.compare(found, found))[1:] == [
            f"{letter} {said}, so it may lack some of the work." for letter in "AB"
        ]


@pytest.mark.usefixtures("now")
def test_an_open_run_counts_neither_as_success_nor_as_failure(tmp_path: Path) -> None:
    """Trends take no duration from it."""
    (found,) = runs_of(etl(tmp_path, 55).trace)
    assert not found.has_finished
    assert not found.succeeded


@pytest.mark.usefixtures("now")
def test_a_run_that_waits_for_a_retry_waits_until_now(tmp_path: Path) -> None:
    """So does one that is paused, at the end of its execution."""
    process = Reporter(tmp_path / "logs.jsonl")
    waits = {"retry": semconv.WAIT_RETRY, "pause": semconv.WAIT_PAUSE}
    process.report("RUN etl", 50)
    for number, (activity, attribute) in enumerate(waits.items(), 2):
        also = {attribute: 20.0, semconv.EXECUTION: 30.0}
        ids = {"span_id": f"{number:016x}", "parent": "1".zfill(16)}
        process.report(activity, 50, start=0, activity=activity, also=also, **ids)
    built = tree.build(trace_files.load(tmp_path).spans)
    last = {node.span.name: node.segments[-1] for node in tree.walk(built) if node.role == "run"}  # type: ignore[union-attr]
    for activity, attribute in waits.items():
        assert last[activity].phase == attribute
        assert last[activity].end == EPOCH + 60 * SECOND
    assert one_trace.analyse(built.spans).open is not None
