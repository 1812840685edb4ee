"""Runs that still run, or were killed, as users see them."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import flowspan
from flowspan.errors import SourceError
from flowspan.read import trace_files
from flowspan.read.selection import UnknownRunError
from flowspan.read.span import Span
from processes import FLOWS, environment, eventually

WHOLE = {"RUN slow", "flaky", "attempt 1", "load", "RUN inner"}


def latest(folder: Path) -> list[Span]:
    try:
        return list(trace_files.load(folder / ".flowspan").spans)
    except (SourceError, UnknownRunError):
        return []


def is_under_way(folder: Path) -> bool:
    """Return whether all runs are reported, with what they do now, and what ended is there."""
    spans = latest(folder)
    doing = {(span.name, span.open.activity) for span in spans if span.open is not None}
    wanted = {("flaky", "retry"), ("RUN inner", "execution"), ("load", "execution")}
    return wanted <= doing and "attempt 1" in {span.name for span in spans if span.open is None}


def start(folder: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    env = environment(folder / ".flowspan", FLOWSPAN_HEARTBEAT="1")
    return subprocess.Popen([sys.executable, "killed.py", *arguments], cwd=FLOWS, env=env)


@pytest.fixture(scope="module")
def killed(
    prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder in which a process was killed, and what the commands said before that."""
    folder = tmp_path_factory.mktemp("killed")
    process = start(folder)
    try:
        eventually(lambda: is_under_way(folder), "the report of all runs")
        before = {
            "timeline": flowspan("timeline", cwd=folder).stdout,
            "json": json.loads(flowspan("timeline", "--json", cwd=folder).stdout),
        }
        process.kill()
        process.wait()
        eventually(lambda: latest(folder)[0].open.state == "lost", "the end of patience")  # type: ignore[union-attr]
        yield folder, before
    finally:
        process.kill()


def test_a_running_run_is_shown_so_far(killed: tuple[Path, dict[str, Any]]) -> None:
    """The head says how long it has been running; nothing is said about the whole."""
    drawn = killed[1]["timeline"]
    assert re.match(r"slow  \S+  ▶ running, [\d.]+ s so far\n", drawn)
    assert re.search(r"^so far: .* takes \d+ % of the critical path", drawn, re.MULTILINE)
    assert "bottleneck" not in drawn
    assert "faster" not in drawn
    assert "is waiting for a retry now" in drawn
    assert drawn.count("is executing now") == 1
    assert "▓ not ended" in drawn


def test_a_running_run_has_no_end_in_json(killed: tuple[Path, dict[str, Any]]) -> None:
    """Its spans have a state, and say what they do."""
    document = killed[1]["json"]
    assert document["root"]["end"] is None
    assert document["root"]["state"] == "running"
    assert document["headline"].startswith("so far: ")
    spans = {span["name"]: span for span in document["spans"] if span["end"] is None}
    assert {*spans} == {"RUN slow", "flaky", "load", "RUN inner"}
    assert {span["state"] for span in spans.values()} == {"running"}
    assert spans["flaky"]["activity"] == "retry"
    assert all(span["last_seen"] > span["start"] for span in spans.values())
    ended = [span for span in document["spans"] if span["end"] is not None]
    assert all("state" not in span for span in ended)


def test_a_killed_run_is_lost(killed: tuple[Path, dict[str, Any]]) -> None:
    """The quick flow before it does not hide it; all its runs are there."""
    folder, _ = killed
    done = flowspan("timeline", "--all", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(r"slow  \S+  \? lost: last heard of at \d\d:\d\d:\d\d, after ", done.stdout)
    assert "was executing when last heard of" in done.stdout
    assert "bottleneck" not in done.stdout
    spans = latest(folder)
    assert {span.name for span in spans} == WHOLE
    ids = {span.span_id: span.name for span in spans}
    parents = {span.name: ids.get(span.parent_span_id or "") for span in spans if span.open}
    assert parents == {
        "RUN slow": None,
        "flaky": "RUN slow",
        "RUN inner": "RUN slow",
        "load": "RUN inner",
    }


@pytest.mark.parametrize("by", ["trace", "run", "task"])
def test_a_killed_run_is_found_by_id(killed: tuple[Path, dict[str, Any]], by: str) -> None:
    """By that of its trace, of its flow run, or of a task run in it."""
    folder, _ = killed
    spans = {span.name: span for span in latest(folder)}
    wanted = {
        "trace": spans["RUN slow"].trace_id,
        "run": spans["RUN slow"].facts.run_id,
        "task": spans["flaky"].facts.run_id,
    }[by]
    assert wanted is not None
    assert flowspan("timeline", wanted, cwd=folder).stdout.startswith("slow  ")


def test_log_lines_come_without_the_reports(killed: tuple[Path, dict[str, Any]]) -> None:
    """Unless they are asked for."""
    folder, _ = killed
    assert "RUN slow" not in flowspan("logs", cwd=folder).stdout
    reports = flowspan("logs", "--events", cwd=folder).stdout
    assert "RUN slow started" in reports
    assert "RUN slow running" in reports


def test_other_views_say_that_it_has_not_ended(killed: tuple[Path, dict[str, Any]]) -> None:
    """The page, Perfetto, the graph, and a comparison with the quick flow."""
    folder, _ = killed
    page = flowspan("timeline", "--html", "-", cwd=folder).stdout
    assert "lost: last heard of at " in page
    perfetto = json.loads(flowspan("timeline", "--perfetto", "-", cwd=folder).stdout)
    lost = [event["args"] for event in perfetto["traceEvents"] if ",lost" in event.get("cat", "")]
    assert len(lost) == 4
    assert all("end_ns" not in one and one["last_seen_ns"] for one in lost)
    assert flowspan("timeline", "--dot", "-", cwd=folder).stdout.count("lost") == 4
    difference = flowspan("diff", "latest~1", "latest", cwd=folder).stdout
    assert "B was lost before its end, so it may lack some of the work." in difference


def test_the_first_run_is_found_before_anything_has_ended(
    prefect_server: str, tmp_path: Path
) -> None:
    """There is no file of spans or metrics yet."""
    process = start(tmp_path, "first")
    try:
        eventually(lambda: latest(tmp_path), "the report of the flow run")
        assert flowspan("timeline", cwd=tmp_path).stdout.startswith("slow  ")
        done = flowspan("metrics", cwd=tmp_path)
    finally:
        process.kill()
        process.wait()
    assert done.returncode == 1
    assert "the latest one, of 'slow', is running. A run is counted at its end." in done.stderr
    assert "instrument()" not in done.stderr
