"""The span of a log record, and its row in a timeline."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from log_files import FLOW_RUN, OTHER_RUN, SUBFLOW_RUN, TASK_RUN, Process, of_run
from span_files import Plan, attempt, raw_line, raw_span, run, write

from flowspan.analysis import log_places, tree
from flowspan.analysis.tree import Tree
from flowspan.read import log_files, trace_files


class Trace:
    """A trace in files, and its log records."""

    def __init__(self, folder: Path, root: Plan) -> None:
        self.written = write(folder / "traces.jsonl", root)
        self.process = Process(folder / "logs.jsonl", self.written.trace_id)
        self.folder = folder

    def log(self, body: str, second: float, span: str = "", **attributes: Any) -> None:
        """Log in the span with a name, or in one that was never exported."""
        span_id = self.written.span_ids.get(span, "d" * 16)
        self.process.log(body, second, span_id=span_id, attributes=attributes)

    def tree(self, *, everything: bool = False) -> Tree:
        """Build the tree of its spans."""
        return tree.build(trace_files.load(self.folder).spans, everything=everything)

    def logged(self) -> tuple[log_files.Log, ...]:
        """Read the log records."""
        self.process.export()
        return log_files.load_trace(log_files.find_files(self.folder), self.written.trace_id).logs

    def spans(self) -> dict[str, list[str]]:
        """List messages by the name of their span."""
        return self._named(log_places.by_span(self.logged(), self.tree().spans))

    def rows(self, *, everything: bool = False) -> dict[str, list[str]]:
        """List messages by the name of their row."""
        built = self.tree(everything=everything)
        placed = log_places.by_row(log_places.by_span(self.logged(), built.spans), built)
        names = {node.key: node for node in tree.walk(built)}
        rests = {key for key, node in names.items() if isinstance(node, tree.Rest)}
        return {
            ("rest" if key in rests else name): messages
            for name, messages in self._named(placed).items()
            for key in [self.written.span_ids[name]]
        }

    def _named(self, placed: Mapping[str, list[log_files.Log]]) -> dict[str, list[str]]:
        names = {span_id: name for name, span_id in self.written.span_ids.items()}
        return {names[key]: [log.message for log in found] for key, found in placed.items()}


def test_a_record_stands_under_its_span(tmp_path: Path) -> None:
    """The span wins over the runs that the attributes name."""
    trace = Trace(tmp_path, run("RUN etl", 0, 9, run("load", 1, 5, Plan("SELECT", 2, 3))))
    with closing(trace.process):
        for second, span in enumerate(("SELECT", "load", "RUN etl", "load")):
            trace.log(f"{second}", second, span, **of_run("other", OTHER_RUN))
        assert trace.spans() == {"SELECT": ["0"], "load": ["1", "3"], "RUN etl": ["2"]}


def test_without_its_span_a_record_stands_under_the_nearest_run(tmp_path: Path) -> None:
    """That is its task run, else its flow run, else the root of the trace."""
    sub = run("RUN report", 5, 8, run_id=SUBFLOW_RUN)
    load = run("load", 1, 5, run_id=TASK_RUN.upper())
    trace = Trace(tmp_path, run("RUN etl", 0, 9, load, sub, run_id=FLOW_RUN))
    with closing(trace.process):
        trace.log("in task", 1, **of_run(task_run="load-0"))
        trace.log("in lost task", 2, **of_run("report", SUBFLOW_RUN, "render-0", OTHER_RUN))
        trace.log("in lost flow", 3, **of_run("other", OTHER_RUN))
        trace.log("in no run", 4)
        assert trace.spans() == {
            "load": ["in task"],
            "RUN report": ["in lost task"],
            "RUN etl": ["in lost flow", "in no run"],
        }


def test_of_a_run_in_two_processes_the_one_counts_that_had_begun(tmp_path: Path) -> None:
    """A record from before both processes belongs to the first one."""
    spans = run("first", 1, 2, run_id=TASK_RUN), run("second", 6, 8, run_id=TASK_RUN)
    trace = Trace(tmp_path, run("RUN etl", 0, 9, *spans))
    with closing(trace.process):
        for second in (0.5, 3, 7):
            trace.log(f"at {second}", second, **of_run(task_run="load-0"))
        assert trace.spans() == {"first": ["at 0.5", "at 3"], "second": ["at 7"]}


@pytest.mark.parametrize("everything", [False, True])
def test_a_hidden_attempt_leaves_its_records_to_its_run(tmp_path: Path, everything: bool) -> None:  # noqa: FBT001
    """They are in order of time, mixed with the run's own records."""
    load = run("load", 1, 9, attempt(1, 2, 8))
    trace = Trace(tmp_path, run("RUN etl", 0, 10, load))
    with closing(trace.process):
        for second, span in enumerate(("load", "attempt 1", "load")):
            trace.log(f"{second}", second, span)
        hidden, shown = {"load": ["0", "1", "2"]}, {"load": ["0", "2"], "attempt 1": ["1"]}
        assert trace.rows(everything=everything) == (shown if everything else hidden)


def test_collapsed_siblings_have_their_records_in_their_row(tmp_path: Path) -> None:
    """The row has the records of their descendants too."""
    tasks = [run("load", n, n + 2) for n in range(28)]
    tasks.append(run("load", 30, 31, run("inner", 30, 31, Plan("SELECT", 30, 31))))
    trace = Trace(tmp_path, run("RUN etl", 0, 60, *tasks))
    rest = next(node for node in tree.walk(trace.tree()) if isinstance(node, tree.Rest))
    trace.written.span_ids["rest"] = rest.key
    with closing(trace.process):
        trace.log("deep", 30, "SELECT")
        trace.log("at first", 1, "rest")
        assert trace.rows()["rest"] == ["at first", "deep"]


def test_circles_and_long_chains_of_hidden_spans_end(tmp_path: Path) -> None:
    """A damaged file loses no records and takes no extra time."""
    chain = [raw_span(n, parentSpanId=f"{n - 1:016x}", name="s") for n in range(2, 5000)]
    many = [raw_span(n, name="s", parentSpanId=f"{1:016x}") for n in range(6000, 6030)]
    circle = [raw_span(n, parentSpanId=f"{n ^ 1:016x}", name="c") for n in (9000, 9001)]
    file = tmp_path / "traces.jsonl"
    file.write_text(raw_line(raw_span(1), *chain, *many, *circle))
    built = tree.build(trace_files.load(file).spans)
    records = {span.span_id: [span.span_id] for span in built.spans}
    rows = log_places._rows(built)
    assert rows.keys() >= records.keys()
    assert set(rows.values()) <= {node.key for node in tree.walk(built)}
