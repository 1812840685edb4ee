"""The logging example runs as written, and its lines lead to its run and spans."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flowspan.identity import derive_attempt_span_id, derive_span_id, derive_trace_id
from support import RecordedSpans, context, embedded_spans

EXAMPLE = Path(__file__).parent.parent / "examples" / "structlog_flow.py"
RUN_FIELDS = {
    *("trace_id", "span_id", "trace_flags", "service"),
    *("flow_name", "flow_run_id", "flow_run_name"),
}
TASK_FIELDS = {"task_name", "task_run_id", "task_run_name"}

Line = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """One finished run of the example."""

    lines: list[Line]
    spans: RecordedSpans

    def of(self, logger: str, task: str | None = None) -> list[Line]:
        """The lines of one logger in the runs of one task, or outside any task."""
        return [
            line for line in self.lines if (line["logger"], line.get("task_name")) == (logger, task)
        ]


@pytest.fixture(scope="module")
def example(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Example:
    """Run the example once for all tests of this module."""
    folder = tmp_path_factory.mktemp("example")
    run = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        check=False,
        cwd=folder,
        env=os.environ | {"FLOWSPAN_DIR": str(folder), "PREFECT_LOGGING_LEVEL": "INFO"},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    return Example([json.loads(line) for line in run.stderr.splitlines()], embedded_spans(folder))


def events(lines: list[Line]) -> list[str]:
    return [line["event"] for line in lines]


def test_lines_of_the_user(example: Example) -> None:
    """Each line of the example appears once, in the run that logged it."""
    outside, *rest = example.of("orders")
    assert (outside["event"], rest) == ("outside any run", [])
    assert events(example.of("orders", "extract")) == ["METRIC: orders_extracted=3"]
    assert events(example.of("orders", "convert")) == ["asking for the rate"] * 2 + ["rate found"]
    (failed,) = example.of("orders", "check")
    assert failed["exception"].endswith("ZeroDivisionError: float division by zero")
    assert "Prefect's own logger says 251.99" in events(example.of("prefect.flow_runs"))


def test_no_line_twice(example: Example) -> None:
    """No line appears twice, whatever its logger."""
    told = [json.dumps({**line, "timestamp": None}, sort_keys=True) for line in example.lines]
    assert len(told) == len(set(told)) > 10


def test_shape(example: Example) -> None:
    """Every line has a time, a level, a logger and an event."""
    for line in example.lines:
        assert list(line)[:4] == ["timestamp", "level", "logger", "event"]
        assert line["timestamp"].endswith("Z")


def test_fields(example: Example) -> None:
    """A line has all fields of its run, or none; only Prefect itself logs outside a run."""
    for line in example.lines:
        found = line.keys() & (RUN_FIELDS | TASK_FIELDS)
        if line["event"] == "outside any run":
            assert found == set()
        elif found or line["logger"] in {"orders", "prefect.flow_runs", "prefect.task_runs"}:
            assert found in (RUN_FIELDS, RUN_FIELDS | TASK_FIELDS)
    assert {line["flow_name"] for line in example.lines if "flow_name" in line} == {"orders"}


def test_ids(example: Example) -> None:
    """A line's ids are derived from its run, and its span is in the trace."""
    spans = {f"{context(span).span_id:016x}": span for span in example.spans.all}
    for line in example.lines:
        if "trace_id" in line:
            assert line["trace_id"] == f"{derive_trace_id(line['flow_run_id']):032x}"
            name = spans[line["span_id"]].name
            assert name == line.get("task_name", "RUN orders") or name.startswith("attempt ")


def test_spans_of_runs(example: Example) -> None:
    """A line in a run without retries has the run's own span."""
    for line in example.of("orders", "extract") + example.of("orders", "check"):
        assert line["span_id"] == f"{derive_span_id(line['task_run_id']):016x}"


def test_attempts(example: Example) -> None:
    """A line in an attempt has the span of that attempt."""
    for line in example.of("orders", "convert"):
        expected = derive_attempt_span_id(line["task_run_id"], line["attempt"])
        assert line["span_id"] == f"{expected:016x}"
    assert [line["attempt"] for line in example.of("orders", "convert")] == [1, 2, 2]


def test_bound_keys(example: Example) -> None:
    """Values bound to the context are on all lines inside it, those of a logger on its own."""
    for line in example.lines:
        assert line.get("day") == ("2024-05-17" if "task_name" in line else None)
        assert line.get("currency") == ("EUR" if "attempt" in line else None)
