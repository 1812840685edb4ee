"""``flowspan diff``, and the exports of ``flowspan timeline``, as users run them."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from span_files import Plan, run, write
from trace_events import check
from typer.testing import CliRunner, Result

from flowspan import semconv
from flowspan.cli.main import app

Run = Callable[..., Result]

FLOW_RUN = "11111111-2222-7333-8444-555555555555"


@pytest.fixture
def flowspan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs the command in an empty folder, its output piped."""
    monkeypatch.chdir(tmp_path)
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "FLOWSPAN_DIR"):
        monkeypatch.delenv(name, raising=False)

    def invoke(*arguments: str | Path) -> Result:
        return CliRunner(charset="utf-8").invoke(app, [*map(str, arguments)])

    return invoke


def flow(length: float, *, start: float = 0, name: str = "etl", run_id: str = "") -> Plan:
    """Return a flow with one task, which takes all but 2 seconds of it."""
    task = run("load", start + 1, start + length - 1, execution=length - 2, rows=100)
    task.attributes[semconv.TASK_NAME] = "load"
    return run(f"RUN {name}", start, start + length, task, run_id=run_id)


def embedded(folder: Path) -> Path:
    """Return the path of the file that flowspan's embedded default writes to."""
    (folder / ".flowspan").mkdir()
    return folder / ".flowspan" / "traces.jsonl"


@pytest.fixture
def ids(tmp_path: Path) -> list[str]:
    """Write three runs, each longer than the last; return their trace ids."""
    file = embedded(tmp_path)
    plans = (
        flow(10),
        flow(14, start=100, run_id=FLOW_RUN),
        flow(20, start=200),
    )
    return [write(file, plan).trace_id for plan in plans]


def compared(done: Result) -> tuple[str, str]:
    """Return the trace ids of A and B from a document."""
    document = json.loads(done.stdout)
    return document["a"]["trace_id"], document["b"]["trace_id"]


def test_by_default_the_last_run_is_compared_with_the_one_before(
    flowspan: Run, ids: list[str]
) -> None:
    """This is the question after a slow night."""
    done = flowspan("diff")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "B took 6.00 s longer (+43 %): load explains 6.00 s of it" in done.stdout
    assert compared(flowspan("diff", "--json")) == (ids[1], ids[2])
    assert "\x1b" not in done.stdout


def test_runs_are_named_as_for_the_timeline(flowspan: Run, ids: list[str]) -> None:
    """By trace id, run id, number of runs ago, or file."""
    assert compared(flowspan("diff", ids[0], FLOW_RUN, "--json")) == (ids[0], ids[1])
    assert compared(flowspan("diff", "latest~2", "latest~0", "--json")) == (ids[0], ids[2])


def test_the_latest_runs_can_be_those_of_one_flow(flowspan: Run, ids: list[str]) -> None:
    """Later runs of other flows do not matter; an id needs no flow."""
    other = write(Path(".flowspan/traces.jsonl"), run("RUN other", 300, 305)).trace_id
    assert compared(flowspan("diff", "--json")) == (ids[2], other)
    assert compared(flowspan("diff", "--flow", "etl", "--json")) == (ids[1], ids[2])
    assert compared(flowspan("diff", other, "--flow", "etl", "--json")) == (other, ids[2])


def test_a_run_that_has_not_ended_is_told_as_such(flowspan: Run, ids: list[str]) -> None:
    """The run has no result, and its task no name or result."""
    task = run("load", 301, 320, execution=19, run_name="load-abc")
    write(Path(".flowspan/traces.jsonl"), run("RUN etl", 300, 330, task, lost=True))
    done = flowspan("diff", "--json")
    b = json.loads(done.stdout)["b"]
    assert (b["name"], b["run_name"], b["result"]) == ("etl", None, None)
    assert "B has not ended, or was killed, so it may lack some of the work." in done.stdout
    assert len(ids) == 3


def test_files_can_stand_for_runs(flowspan: Run, tmp_path: Path) -> None:
    """A file or folder stands for the latest run in it."""
    first = write(tmp_path / "before.jsonl", flow(10)).trace_id
    (tmp_path / "after").mkdir()
    second = write(tmp_path / "after" / "traces.jsonl", flow(12)).trace_id
    assert compared(flowspan("diff", "before.jsonl", "after", "--json")) == (first, second)


def test_different_flows_are_compared_and_it_is_said(flowspan: Run, tmp_path: Path) -> None:
    """The flow may have been renamed."""
    file = embedded(tmp_path)
    write(file, flow(10))
    write(file, flow(12, start=50, name="elt"))
    done = flowspan("diff")
    assert done.exit_code == 0
    assert "These are different flows: A is 'etl', B is 'elt'." in done.stdout


def test_a_run_that_is_not_there_is_told_those_that_are(flowspan: Run, ids: list[str]) -> None:
    """This holds for each way to name a run."""
    for wanted in ("latest~3", "0" * 31 + "1", "nonsense"):
        done = flowspan("diff", wanted)
        assert (done.exit_code, done.stdout) == (1, "")
        assert wanted in done.stderr
        assert ids[2] in done.stderr
    assert flowspan("diff", "").exit_code == 2
    assert flowspan("timeline", "latest~1").stdout.count(ids[1]) == 1


def test_standard_input_is_refused_since_it_can_be_read_but_once(flowspan: Run) -> None:
    """The two runs are read one after the other."""
    done = flowspan("diff", "--file", "-")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "save it to a file" in done.stderr


def test_one_run_alone_has_nothing_to_compare_with(flowspan: Run, tmp_path: Path) -> None:
    """The command fails."""
    write(embedded(tmp_path), flow(10))
    assert flowspan("diff").exit_code == 1


def test_damage_is_told_once_and_fails(flowspan: Run, ids: list[str], tmp_path: Path) -> None:
    """Both runs come from the damaged file."""
    with (tmp_path / ".flowspan" / "traces.jsonl").open("a") as stream:
        stream.write("broken")
    done = flowspan("diff")
    assert done.exit_code == 1
    assert "longer" in done.stdout
    assert done.stderr.count("traces.jsonl:") == 1
    assert len(ids) == 3


def test_exports_are_written_beside_the_timeline(
    flowspan: Run, ids: list[str], tmp_path: Path
) -> None:
    """Notes say where each file is and how to open it."""
    done = flowspan("timeline", "--perfetto", "out.json", "--dot", "out.dot")
    assert done.exit_code == 0
    assert ids[2] in done.stdout
    assert "wrote out.json; open it in https://ui.perfetto.dev" in done.stderr
    assert "wrote out.dot; draw it with: dot" in done.stderr
    check(json.loads((tmp_path / "out.json").read_bytes()))
    assert (tmp_path / "out.dot").read_text().startswith("digraph")


def test_an_export_on_standard_output_is_alone_there(flowspan: Run, ids: list[str]) -> None:
    """It can be piped."""
    done = flowspan("timeline", "--perfetto", "-")
    check(json.loads(done.stdout))
    assert done.stderr == ""
    done = flowspan("timeline", ids[0], "--dot", "-")
    assert re.fullmatch(r"digraph flowspan \{.*\}\n", done.stdout, re.DOTALL)
    done = flowspan("timeline", "--html", "-")
    assert re.fullmatch(r"<!doctype html>.*</html>\n?", done.stdout, re.DOTALL)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--json", "--perfetto", "x"), "run the command once for each"),
        (("--json", "--dot", "-"), "run the command once for each"),
        (("--json", "--html", "-"), "run the command once for each"),
        (("--perfetto", "-", "--dot", "-"), "name a file for each"),
        (("--perfetto", "-", "--html", "-"), "name a file for each"),
        (("--html", "x", "--dot", "x"), "name a file for each"),
    ],
)
def test_exports_that_would_mix_are_refused(
    flowspan: Run, ids: list[str], arguments: tuple[str, ...], words: str
) -> None:
    """The message says what to do instead."""
    done = flowspan("timeline", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in " ".join(re.sub(r"[│╭╮╰╯─]", " ", done.stderr).split())
    assert len(ids) == 3


def test_a_file_that_cannot_be_written_is_an_error(flowspan: Run, ids: list[str]) -> None:
    """It prints a message, not a traceback."""
    done = flowspan("timeline", "--dot", "no/such/folder/out.dot")
    assert done.exit_code == 1
    assert "no/such/folder/out.dot cannot be written: No such file or directory" in done.stderr
    assert len(ids) == 3
