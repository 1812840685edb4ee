"""Processes that end early: what has ended is sent, and what SIGTERM cuts is told."""

import os
import signal
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

from example_runs import task_runs
from flowspan import semconv
from flowspan.read import log_files
from processes import PATIENCE, background, environment, eventually, run_script
from reconcile import reconcile
from support import RecordedSpans, attributes, context, embedded_spans, result, states

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX"),
]


def logged_without_span(folder: Path, spans: RecordedSpans) -> set[str]:
    """Return the log lines whose span is missing."""
    known = {f"{context(span).span_id:016x}" for span in spans.all}
    traces = {f"{context(span).trace_id:032x}" for span in spans.all}
    logs = [log for trace_id in traces for log in log_files.load(folder, trace_id).logs]
    assert logs
    return {log.body for log in logs if log.span_id not in known}


def test_served_tasks(prefect_server: str, tmp_path: Path) -> None:
    """What served tasks recorded is sent when they end, and at SIGTERM for those that run.

    Each is below the run that sent it, with its flow's name, with parameters or without.
    """
    env, log = environment(tmp_path), tmp_path / "serve.log"
    with background(sys.executable, "delayed.py", "serve", env=env, log=log) as process:
        done = run_script("delayed.py", "send", env=env)
        assert done.returncode == 0, done.stderr
        eventually(lambda: "asleep" in log.read_text(), "the sleeping task")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == -signal.SIGTERM, log.read_text()
    spans = embedded_spans(tmp_path)
    # Before, nothing of Prefect's serve() that can be wrapped runs in the main thread.
    is_handled = Version(version("prefect")) >= Version("3.6.13")
    sleeping = ["sleeping"] if is_handled else []
    assert spans.tree().splitlines() == [
        "sends",
        "  bare",
        "  add",
        *sleeping,
        "RUN sender",
        "  add",
        "  calling",
        "    add",
        "  sends",
        "    bare",
        "    add",
    ]
    root = spans.one("RUN sender")
    trace = [span for span in spans.all if context(span).trace_id == context(root).trace_id]
    assert {attributes(span)[semconv.FLOW_NAME] for span in trace} == {"sender"}
    for span in spans.named("sleeping"):
        assert states(span) == ["Scheduled", "Pending", "Running"]
    assert task_runs(tmp_path) == {"add": 4, "calling": 1, "bare": 2, "sends": 2}
    assert logged_without_span(tmp_path, spans) == set()
    assert reconcile(trace, attributes(root)[semconv.RUN_ID]) == []


def test_pool_process(prefect_server: str, tmp_path: Path) -> None:
    """A pool process that gets SIGTERM dies of it, once it has sent what it was running."""
    log = tmp_path / "flow.log"
    with background(
        sys.executable, "carried.py", "cut", env=environment(tmp_path), log=log
    ) as process:
        eventually(lambda: "asleep" in log.read_text(), "the sleeping task")
        os.kill(int((tmp_path / "child").read_text()), signal.SIGTERM)
        process.wait(PATIENCE)
    assert f"exit code {-signal.SIGTERM}" in log.read_text()
    spans = embedded_spans(tmp_path)
    assert spans.tree().splitlines() == [
        "RUN terminated",
        "  square",
        "  outer_sleeping",
        "    sleeping",
    ]
    assert states(spans.one("sleeping"))[-1] == "Running"
    assert result(spans.one("sleeping")) is None
    assert task_runs(tmp_path) == {"square": 1}
    assert logged_without_span(tmp_path, spans) == set()
