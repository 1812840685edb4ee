"""``flowspan runs``, as users run it."""

import json
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from jaeger_server import jaeger_server
from reports import Reporter
from span_files import EPOCH, Plan, raw_line, raw_span, run, write

from commands import embedded, flowspan
from flowspan import semconv
from processes import FLOWS, environment, eventually

TODAY = time.time() - EPOCH / 1e9 - 3600
"""A time of the last hour, in seconds since `EPOCH`."""


def nightly(start: float, run_name: str, *, flow: str = "nightly", **fields: Any) -> Plan:
    """Plan a run of ten seconds, of which the task load takes eight."""
    load = run("load", start + 1, start + 9, execution=8.0)
    planned = {"run_id": str(uuid.uuid4()), "run_name": run_name} | fields
    return run(f"RUN {flow}", start, start + 10, load, **planned)


def table(*arguments: str | Path, cwd: Path, **environment: str) -> list[list[str]]:
    """Return the cells of each line, the titles first."""
    done = flowspan("runs", *arguments, cwd=cwd, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.split("  ") for line in done.stdout.splitlines()]


def names(*arguments: str | Path, cwd: Path) -> list[str]:
    """Return the names of the runs in the list."""
    done = flowspan("runs", "--json", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return [one["name"] for one in json.loads(done.stdout)]


def test_a_run_is_a_line_and_the_last_one_comes_first(tmp_path: Path) -> None:
    """With everything that tells it from others, whatever the order in the file."""
    file = embedded(tmp_path)
    write(file, nightly(0, "a-bee"))
    last = nightly(100, "a-cat", result="failure", state="Failed", rows=1_234_567)
    last.violation = "the task 'load' took 80 % of the run, more than 25 %"
    trace_id = write(file, last).trace_id
    write(file, nightly(50, "a-dog", result="timeout", state="TimedOut"))
    titles, *lines = (list(filter(None, line)) for line in table(cwd=tmp_path))
    assert [title.strip() for title in titles] == [
        "start", "flow", "run", "result", "duration", "rows", "bottleneck", "violates", "trace"
    ]  # fmt: skip
    assert [line[2] for line in lines] == ["a-cat", "a-dog", "a-bee"]
    assert [cell.strip() for cell in lines[0][3:]] == [
        "✗ failure", "10.0 s", "1,234,567", "80 % load (execution)", "max_task_share", trace_id[:8]
    ]  # fmt: skip
    assert lines[1][3] == "✗ TimedOut"


def test_json_has_the_same_in_full(tmp_path: Path) -> None:
    """A list of objects; durations are seconds, times nanoseconds."""
    plan = nightly(0, "a-bee", rows=7)
    plan.violation = "too long"
    trace_id = write(embedded(tmp_path), plan).trace_id
    (found,) = json.loads(flowspan("runs", "--json", cwd=tmp_path).stdout)
    assert found == {
        "run_id": plan.attributes[semconv.RUN_ID],
        "trace_id": trace_id,
        "flow": "nightly",
        "name": "a-bee",
        "called_by": None,
        "start": EPOCH,
        "end": EPOCH + 10 * 10**9,
        "last_seen": None,
        "duration": 10.0,
        "result": "success",
        "state": "Completed",
        "bottleneck": {"name": "load", "type": "task", "share": 0.8, "cause": "execution"},
        "violations": ["max_task_share"],
        "rows": 7,
        "tags": [],
    }


def test_called_runs_are_listed_on_request_and_by_their_flow(tmp_path: Path) -> None:
    """A flow that only runs below others is found by its name."""
    called = nightly(2, "a-sub", flow="clean")
    write(embedded(tmp_path), run("RUN nightly", 0, 20, called, run_name="a-bee"))
    assert names(cwd=tmp_path) == ["a-bee"]
    assert names("--subflows", cwd=tmp_path) == ["a-bee", "a-sub"]
    assert names("--flow", "clean", cwd=tmp_path) == ["a-sub"]
    lines = flowspan("runs", "--subflows", cwd=tmp_path).stdout.splitlines()
    assert "  clean in nightly  a-sub  " in lines[2]
    assert "80 % load" in lines[2]
    document = json.loads(flowspan("runs", "--subflows", "--json", cwd=tmp_path).stdout)
    assert document[1]["called_by"] == {
        "run_id": document[0]["run_id"], "flow": "nightly", "name": "a-bee"
    }  # fmt: skip


def test_runs_are_chosen_by_flow_result_time_and_number(tmp_path: Path) -> None:
    """Each choice leaves out the others."""
    file = embedded(tmp_path)
    write(file, nightly(0, "years-ago"))
    write(file, nightly(TODAY, "failed", result="failure", state="Failed"))
    write(file, nightly(TODAY + 20, "other", flow="weekly"))
    write(file, nightly(TODAY + 40, "crashed", result="error", state="Crashed"))
    for arguments, expected in (
        ((), ["crashed", "other", "failed", "years-ago"]),
        (("--limit", "2"), ["crashed", "other"]),
        (("--since", "1d"), ["crashed", "other", "failed"]),
        (("--flow", "nightly", "--since", "1d"), ["crashed", "failed"]),
        (("--result", "failure"), ["failed"]),
        (("--result", "Failure", "--result", "error"), ["crashed", "failed"]),
    ):
        assert names(*arguments, cwd=tmp_path) == expected


def test_what_is_not_there_is_answered_with_what_is(tmp_path: Path) -> None:
    """An unknown flow, a result that no run has, and a word that is no result."""
    file = embedded(tmp_path)
    write(file, nightly(0, "a-bee"))
    write(file, nightly(20, "a-cat", flow="weekly", result="failure", state="Failed"))
    done = flowspan("runs", "--flow", "monthly", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "holds no run of 'monthly'. Its flows:\n  nightly\n  weekly" in done.stderr
    done = flowspan("runs", "--result", "lost", cwd=tmp_path)
    assert done.returncode == 1
    words = "none of these runs has the result lost: 1 failure, 1 success."
    assert done.stderr == f"flowspan: {words}\n"
    done = flowspan("runs", "--result", "failed", cwd=tmp_path)
    assert done.returncode == 2
    words = "'failed' is no result. Results are success, failure, timeout, error"
    assert words in " ".join(done.stderr.split())


def test_nothing_to_read_says_what_to_do(tmp_path: Path) -> None:
    """As for the timeline."""
    done = flowspan("runs", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert ".flowspan does not exist." in done.stderr
    assert "--file PATH" in done.stderr


@pytest.mark.parametrize("width", [48, 60, 80, 100, 160])
def test_lines_fit_and_no_number_is_cut(tmp_path: Path, width: int) -> None:
    """Columns are left out, the least useful first; a run's name is whole or not there."""
    file = embedded(tmp_path)
    name = "significant-copperhead"
    plan = nightly(0, name, flow="a-rather-long-name-of-a-flow", rows=1_234_567_890)
    plan.violation = "too long"
    trace_id = write(file, plan).trace_id
    titles, line = flowspan("runs", cwd=tmp_path, COLUMNS=str(width)).stdout.splitlines()
    assert max(len(titles), len(line)) <= width
    assert ("✓ success" in line, "10.0 s" in line) == (True, True)
    assert ("run" in titles.split()) == (name in line)
    assert ("rows" in titles) == ("1,234,567,890" in line)
    assert ("trace" in titles) == (trace_id[:8] in line)
    assert ("bottleneck" in titles) == ("80 %" in line)
    assert (name in line) == (width > 60)


def test_an_output_without_unicode_gets_ascii(tmp_path: Path) -> None:
    """Other characters become question marks."""
    write(embedded(tmp_path), nightly(0, "größe", result="failure", state="Failed"))
    done = flowspan("runs", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "gr??e  x failure" in done.stdout


def test_results_are_coloured_on_a_terminal(tmp_path: Path) -> None:
    """In the colours of the timeline."""
    write(embedded(tmp_path), nightly(0, "a-bee"))
    out = flowspan("runs", cwd=tmp_path, FORCE_COLOR="1", TERM="xterm").stdout
    assert "\x1b[32m✓ success\x1b[0m" in out


def test_a_pipe_may_be_closed_early(tmp_path: Path) -> None:
    """As `head` does; nothing is said about it."""
    file = embedded(tmp_path)
    for number in range(200):
        write(file, nightly(number * 20, f"run-{number}"))
    command = "from flowspan.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "runs", "--json", "--limit", "200"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"[\n"
    process.stdout.close()
    assert process.stderr.read() == b""
    process.wait()


def test_damage_is_told_beside_the_runs(tmp_path: Path) -> None:
    """And is an error."""
    file = embedded(tmp_path)
    write(file, nightly(0, "a-bee"))
    with file.open("a") as stream:
        stream.write("broken\n")
    done = flowspan("runs", cwd=tmp_path)
    assert (done.returncode, "a-bee" in done.stdout) == (1, True)
    assert "traces.jsonl:2: not JSON" in done.stderr


def test_traces_without_prefect_are_listed_by_their_root(tmp_path: Path) -> None:
    """As trends do."""
    embedded(tmp_path).write_text(raw_line(raw_span(1)))
    assert "span 1" in flowspan("runs", cwd=tmp_path).stdout


def test_jaeger_lists_the_runs_of_the_last_month(tmp_path: Path) -> None:
    """And those of a flow that it is asked for."""
    file = tmp_path / "storage.jsonl"
    write(file, nightly(0, "years-ago"))
    called = nightly(TODAY + 2, "a-sub", flow="clean")
    write(file, run("RUN nightly", TODAY, TODAY + 20, called, run_name="a-bee"))
    with jaeger_server(file) as server:
        server.has_search = True
        assert names("--jaeger", server.url, cwd=tmp_path) == ["a-bee"]
        assert names("--jaeger", server.url, "--flow", "clean", cwd=tmp_path) == ["a-sub"]
        done = flowspan("runs", "--jaeger", server.url, "--flow", "monthly", cwd=tmp_path)
    assert done.returncode == 1
    assert "Its flows:\n  clean\n  nightly\n" in done.stderr


def test_a_flow_run_without_a_span_is_listed_by_its_tasks(tmp_path: Path) -> None:
    """As Jaeger has it while it runs, or after its process was killed."""
    task = run("load", 1, 9, execution=8.0)
    task.attributes |= {semconv.FLOW_NAME: "nightly", semconv.FLOW_RUN_ID: "the-flow-run"}
    file = embedded(tmp_path)
    write(file, run("RUN nightly", 0, 10, task, lost=True))
    write(file, nightly(20, "a-bee"))
    ended, missing = json.loads(flowspan("runs", "--json", cwd=tmp_path).stdout)
    assert ended["name"] == "a-bee"
    assert (missing["run_id"], missing["result"], missing["duration"]) == ("the-flow-run", None, 8)
    assert (missing["flow"], missing["bottleneck"]["name"]) == ("nightly", "load")
    assert "… not ended" in flowspan("runs", "--flow", "nightly", cwd=tmp_path).stdout


def test_a_run_that_was_lost_is_listed_by_its_reports(tmp_path: Path) -> None:
    """Even if no span has been written; with when it was last heard of."""
    reporter = Reporter(tmp_path / ".flowspan" / "logs.jsonl")
    reporter.report("RUN nightly", 3)
    reporter.report("load", 7, start=2, span_id="2".zfill(16), parent="1".zfill(16))
    (found,) = json.loads(flowspan("runs", "--json", cwd=tmp_path).stdout)
    assert (found["result"], found["end"], found["last_seen"]) == ("lost", None, EPOCH + 7 * 10**9)
    assert (found["flow"], found["name"], found["duration"]) == ("nightly", "meaty-vicugna", 7.0)
    assert "? lost" in flowspan("runs", cwd=tmp_path).stdout


def test_a_real_flow_is_listed_while_it_runs_and_says_how_to_look_at_it(
    prefect_server: str, tmp_path: Path
) -> None:
    """Its own log names the command, once a process; the called run has its own line."""
    gate, folder = tmp_path / "gate", tmp_path / ".flowspan"
    env = environment(folder, PREFECT_LOGGING_LEVEL="INFO")
    with subprocess.Popen(
        [sys.executable, "followed.py", gate], cwd=FLOWS, env=env, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            eventually(lambda: "▶ running" in clean_line(tmp_path), "the report of both runs")
        finally:
            gate.touch()
        assert process.stderr is not None
        said = [line for line in process.stderr if "flowspan timeline" in line]
    assert process.returncode == 0
    outer, inner = json.loads(flowspan("runs", "--subflows", "--json", cwd=tmp_path).stdout)
    assert [outer["result"], inner["result"]] == ["success", "success"]
    assert inner["called_by"]["run_id"] == outer["run_id"]
    assert {one["bottleneck"]["name"] for one in (outer, inner)} <= {"nightly", "clean", "wait"}
    (line,) = said
    command = f"flowspan timeline {outer['trace_id'][:8]}"
    assert f"Flow run '{outer['name']}' - To see where the time went: {command}" in line
    assert flowspan(*command.split()[1:], cwd=tmp_path).stdout.startswith("nightly  ")
    logged = [log for log in logs_of(tmp_path) if command in str(log["body"])]
    assert [log["attributes"][semconv.FLOW_RUN_NAME] for log in logged] == [outer["name"]]


def clean_line(folder: Path) -> str:
    """Return the line about the called run; empty if there is none yet."""
    lines = flowspan("runs", "--subflows", cwd=folder).stdout.splitlines()
    return next((line for line in lines if "  clean in nightly" in line), "")


def logs_of(folder: Path) -> list[Any]:
    """Return the log records of the latest run."""
    lines = flowspan("logs", "--json", cwd=folder).stdout.splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    "variables",
    [{"FLOWSPAN_HINT": "false"}, {"OTEL_TRACES_EXPORTER": "none"}],
    ids=["setting", "elsewhere"],
)
def test_no_hint_is_logged_where_it_would_not_help(
    prefect_server: str, tmp_path: Path, variables: dict[str, str]
) -> None:
    """If it is turned off, or the spans are not in the embedded files."""
    (tmp_path / "gate").touch()
    env = environment(tmp_path / ".flowspan", PREFECT_LOGGING_LEVEL="INFO", **variables)
    done = subprocess.run(
        [sys.executable, "followed.py", tmp_path / "gate"],
        cwd=FLOWS,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Finished in state Completed()" in done.stderr
    assert "flowspan timeline" not in done.stderr
