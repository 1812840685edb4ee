"""``flowspan logs`` and ``flowspan timeline --logs``, as users run them."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from log_files import (
    FLOW_RUN,
    OTHER_RUN,
    SUBFLOW_RUN,
    TASK_RUN,
    Process,
    of_run,
    raw_line,
    raw_log,
    trace_of_root,
)
from span_files import Plan, run, write
from typer.testing import CliRunner, Result

from flowspan.cli.main import app

Run = Callable[..., Result]

ROOT = trace_of_root(FLOW_RUN)


@pytest.fixture
def flowspan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs the command in an empty folder, its output piped."""
    monkeypatch.chdir(tmp_path)
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def invoke(*arguments: str | Path, charset: str = "utf-8", **environment: str) -> Result:
        return CliRunner(charset=charset, env=environment).invoke(app, [*map(str, arguments)])

    return invoke


def embedded(folder: Path, signal: str = "logs") -> Path:
    """Return the path of the file that flowspan's embedded default writes to."""
    return folder / ".flowspan" / f"{signal}.jsonl"


def pipeline(file: Path) -> Path:
    """Log a flow with a failing task and a subflow, after another flow."""
    with closing(Process(file)) as process:
        process.log("begin", 0)
        process.log("loading", 1, attributes=of_run(task_run="load-0"), rows=3, level="DEBUG")
        error = ValueError("no such table")
        process.log(
            "failed", 2, attributes=of_run(task_run="load-0"), level="ERROR", exception=error
        )
        process.log("sum", 3, attributes=of_run("report", SUBFLOW_RUN), level="WARN")
    with closing(Process(file.with_name("logs-1.jsonl"), trace_of_root(OTHER_RUN))) as process:
        process.log("other", -9, attributes=of_run("other", OTHER_RUN))
    return file


def messages(result: Result) -> list[str]:
    """Return the first word of the message of each record."""
    lines = [line.split() for line in result.stdout.splitlines() if line[:1].isdigit()]
    return [line[3] for line in lines]


def traced(folder: Path, *children: Plan) -> tuple[str, dict[str, str]]:
    """Write a flow's spans to the embedded file; return its trace id and span ids."""
    file = embedded(folder, "traces")
    file.parent.mkdir()
    written = write(file, run("RUN etl", 0, 10, *children, run_id=FLOW_RUN))
    return written.trace_id, written.span_ids


def test_the_latest_lines_are_printed_from_the_embedded_files(
    flowspan: Run, tmp_path: Path
) -> None:
    """Without arguments it needs only the folder it is started in, and no spans."""
    pipeline(embedded(tmp_path))
    done = flowspan("logs")
    assert (done.exit_code, done.stderr) == (0, "")
    assert [line.partition(" ")[2] for line in done.stdout.splitlines()] == [
        "INFO     etl        begin",
        "DEBUG    etl/load-0 loading  rows=3",
        "ERROR    etl/load-0 failed",
        "ValueError: no such table".rjust(28),
        "WARNING  report     sum",
    ]
    for line in done.stdout.splitlines():
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d [A-Z]| {4}", line)


def test_runs_are_chosen_by_their_ids(flowspan: Run, tmp_path: Path) -> None:
    """By the id of a flow run or of a trace."""
    pipeline(embedded(tmp_path))
    assert messages(flowspan("logs", OTHER_RUN)) == ["other"]
    assert messages(flowspan("logs", SUBFLOW_RUN)) == ["sum"]
    whole = ["begin", "loading", "failed", "sum"]
    assert messages(flowspan("logs", FLOW_RUN)) == whole
    assert messages(flowspan("logs", ROOT)) == whole
    assert messages(flowspan("logs", "latest")) == whole


def test_lines_are_chosen_by_task_and_level(flowspan: Run, tmp_path: Path) -> None:
    """Both can be combined; finding no line is not a failure."""
    pipeline(embedded(tmp_path))
    assert messages(flowspan("logs", "--level", "warning")) == ["failed", "sum"]
    assert messages(flowspan("logs", "--task", "load")) == ["loading", "failed"]
    assert messages(flowspan("logs", "--task", "load-0", "--level", "ERROR")) == ["failed"]
    done = flowspan("logs", "--level", "CRITICAL")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "flowspan: this run has no lines of this level or above.\n"


def test_an_unknown_task_is_told_those_with_lines(flowspan: Run, tmp_path: Path) -> None:
    """They are listed by name, in alphabetical order."""
    pipeline(embedded(tmp_path))
    done = flowspan("logs", "--task", "save")
    assert (done.exit_code, done.stdout) == (1, "")
    first, *tasks = done.stderr.splitlines()
    assert "this run has no lines of task 'save'" in first
    assert tasks == ["  load"]
    assert flowspan("logs", OTHER_RUN, "--task", "save").stderr.splitlines()[1:] == ["  none"]


@pytest.mark.parametrize("command", [("logs",), ("timeline", "--logs")])
def test_an_unknown_level_is_told_those_there_are(
    flowspan: Run, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """It is a usage error, as for other options."""
    pipeline(embedded(tmp_path))
    done = flowspan(*command, "--level", "LOUD")
    assert (done.exit_code, done.stdout) == (2, "")
    words = " ".join(done.stderr.split())
    assert "'LOUD' is no level. Levels are TRACE, DEBUG, INFO, WARNING, ERROR, CRITICAL." in words


def test_an_unknown_run_is_told_those_with_lines(flowspan: Run, tmp_path: Path) -> None:
    """They are listed by id and name, the latest first."""
    pipeline(embedded(tmp_path))
    done = flowspan("logs", TASK_RUN.replace("d", "e"))
    assert (done.exit_code, done.stdout) == (1, "")
    first, *known = done.stderr.splitlines()
    assert "holds no log lines of trace or run" in first
    assert [line.split()[0] for line in known] == [SUBFLOW_RUN, FLOW_RUN, OTHER_RUN]
    assert known[0].endswith("  report  meaty-vicugna")
    assert flowspan("logs", " ").exit_code == 2


def test_nothing_to_read_says_what_to_do(flowspan: Run, tmp_path: Path) -> None:
    """No folder, no log file and an empty file have different messages."""
    (tmp_path / "empty").touch()
    for arguments, words in (
        ((), ".flowspan does not exist."),
        (("--file", tmp_path), "holds no logs*.jsonl file."),
        (("--file", tmp_path / "nothing.jsonl"), "nothing.jsonl does not exist."),
        (("--file", tmp_path / "empty"), "empty holds no log lines of runs yet."),
    ):
        done = flowspan("logs", *arguments)
        assert (done.exit_code, done.stdout) == (1, "")
        assert words in done.stderr
        assert "flowspan.instrument()" in done.stderr
        assert "FLOWSPAN_LOGS" in done.stderr
        assert "--file PATH" in done.stderr


@pytest.mark.parametrize("how", ["file", "folder", "environment"])
def test_the_source_can_be_named(flowspan: Run, tmp_path: Path, how: str) -> None:
    """By a file, a folder, or FLOWSPAN_DIR."""
    file = pipeline(tmp_path / "logs-old.jsonl")
    arguments = {"file": ("--file", file), "folder": ("--file", tmp_path)}.get(how, ())
    environment = {"FLOWSPAN_DIR": str(tmp_path)} if how == "environment" else {}
    assert len(messages(flowspan("logs", *arguments, **environment))) == 4


def test_damage_is_told_beside_the_lines(flowspan: Run, tmp_path: Path) -> None:
    """The command fails, since a script cannot know what is missing."""
    with pipeline(embedded(tmp_path)).open("a") as stream:
        stream.write(raw_line(raw_log(1))[:40])
    for command in (("logs",), ("logs", "--json")):
        done = flowspan(*command)
        assert done.exit_code == 1
        assert len(done.stdout.splitlines()) >= 4
        assert "logs.jsonl:2: cut off: the line ends in the middle" in done.stderr


def test_a_pipe_gets_the_same_whatever_the_terminal_is(flowspan: Run, tmp_path: Path) -> None:
    """It gets plain text, neither wrapped nor cut."""
    with closing(Process(embedded(tmp_path))) as process:
        process.log("m" * 500, value="v" * 500)
    plain = flowspan("logs").stdout
    assert plain.endswith(f"{'m' * 500}  value={'v' * 500}\n")
    assert flowspan("logs", COLUMNS="40").stdout == plain
    coloured = flowspan("logs", FORCE_COLOR="1", TERM="xterm", COLUMNS="40").stdout
    assert "\x1b[32mINFO" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain


def test_an_output_without_unicode_gets_what_it_can_show(flowspan: Run, tmp_path: Path) -> None:
    """Other characters become question marks, not a traceback."""
    with closing(Process(embedded(tmp_path))) as process:
        process.log("größe")
    done = flowspan("logs", charset="ascii")
    assert done.exit_code == 0
    assert done.stdout.endswith(" etl gr??e\n")


def test_json_is_an_object_a_line(flowspan: Run, tmp_path: Path) -> None:
    """Only the lines that were asked for are printed."""
    pipeline(embedded(tmp_path))
    out = flowspan("logs", "--json", "--level", "WARNING").stdout
    failed, summed = map(json.loads, out.splitlines())
    assert (failed["body"], failed["level"], failed["trace_id"]) == ("failed", "ERROR", ROOT)
    assert failed["attributes"]["exception.type"] == "ValueError"
    assert list(failed) == list(summed)


def test_the_timeline_shows_lines_on_request(flowspan: Run, tmp_path: Path) -> None:
    """They appear below their spans; without the option nothing changes."""
    trace_id, span_ids = traced(tmp_path, run("load", 1, 5))
    with closing(Process(embedded(tmp_path), trace_id)) as process:
        process.log("begin", 0.5, span_id=span_ids["RUN etl"])
        process.log("loading", 2, span_id=span_ids["load"], level="WARN", rows=3)
    done = flowspan("timeline", "--logs")
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[8] == "│  0:00.500 INFO     begin"
    assert lines[10] == "      0:02.000 WARNING  loading  rows=3"
    floored = flowspan("timeline", "--logs", "--level", "WARNING").stdout.splitlines()
    assert floored == [line for line in lines if "begin" not in line]
    plain = flowspan("timeline").stdout.splitlines()
    assert plain == [line for line in floored if "loading" not in line]


def test_all_shows_every_line(flowspan: Run, tmp_path: Path) -> None:
    """Without --all, only a handful of many lines is shown."""
    trace_id, span_ids = traced(tmp_path)
    with closing(Process(embedded(tmp_path), trace_id)) as process:
        for number in range(1_000):
            process.log(f"line {number}", number / 1000, span_id=span_ids["RUN etl"])
    assert "… 990 more" in flowspan("timeline", "--logs").stdout
    assert flowspan("timeline", "--logs", "--all").stdout.count(" line ") == 1_000


def test_spans_in_json_have_their_lines_on_request(flowspan: Run, tmp_path: Path) -> None:
    """Each span has a list, perhaps an empty one; without the option none has."""
    trace_id, span_ids = traced(tmp_path, run("load", 1, 5))
    with closing(Process(embedded(tmp_path), trace_id)) as process:
        process.log("loading", 2, span_id=span_ids["load"], rows=3)
    spans = json.loads(flowspan("timeline", "--logs", "--json").stdout)["spans"]
    assert [[log["body"] for log in span["logs"]] for span in spans] == [[], ["loading"]]
    assert spans[1]["logs"] == [json.loads(flowspan("logs", trace_id, "--json").stdout)]
    bare = json.loads(flowspan("timeline", "--json").stdout)["spans"]
    assert [{**span, "logs": log["logs"]} for span, log in zip(bare, spans, strict=True)] == spans
    assert not any("logs" in span for span in bare)


def test_lines_are_found_beside_a_named_file_of_spans(flowspan: Run, tmp_path: Path) -> None:
    """Both files are in one folder."""
    trace_id, _ = traced(tmp_path)
    with closing(Process(embedded(tmp_path), trace_id)) as process:
        process.log("begin")
    out = flowspan("timeline", "--logs", "--file", embedded(tmp_path, "traces")).stdout
    assert "0:00.000 INFO     begin" in out


def test_a_timeline_without_lines_says_why(flowspan: Run, tmp_path: Path) -> None:
    """It is still drawn, since no span is missing."""
    trace_id, _ = traced(tmp_path)
    done = flowspan("timeline", "--logs")
    assert (done.exit_code, "RUN etl" in done.stdout) == (0, True)
    assert ".flowspan holds no logs*.jsonl file." in done.stderr
    assert "FLOWSPAN_LOGS" in done.stderr
    pipeline(embedded(tmp_path))
    done = flowspan("timeline", trace_id, "--logs")
    assert (done.exit_code, "RUN etl" in done.stdout) == (0, True)
    assert done.stderr == "flowspan: .flowspan holds no log lines of this trace.\n"
    done = flowspan("timeline", trace_id, "--logs", "--level", "INFO")
    assert (
        done.stderr
        == "flowspan: .flowspan holds no log lines of this trace at this level or above.\n"
    )


def test_damaged_logs_are_told_beside_the_timeline(flowspan: Run, tmp_path: Path) -> None:
    """They are reported as damaged spans are."""
    traced(tmp_path)
    embedded(tmp_path).write_text("bad\n")
    done = flowspan("timeline", "--logs")
    assert (done.exit_code, "RUN etl" in done.stdout) == (1, True)
    assert "logs.jsonl:1: not JSON" in done.stderr
    assert flowspan("timeline").exit_code == 0


def test_a_level_alone_is_wrong_usage(flowspan: Run, tmp_path: Path) -> None:
    """It needs --logs."""
    traced(tmp_path)
    done = flowspan("timeline", "--level", "ERROR")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--level" in done.stderr
    assert "add --logs" in done.stderr


def test_lines_need_neither_prefect_nor_the_sdk(tmp_path: Path) -> None:
    """The command starts at once, and works where no flow runs."""
    with closing(Process(embedded(tmp_path))) as process:
        process.log("begin")
    code = (
        "import sys\n"
        "from flowspan.cli.main import app\n"
        "import flowspan.analysis.log_places\n"
        "app(['logs'], standalone_mode=False)\n"
        "print([name for name in ('prefect', 'opentelemetry.sdk') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    first, last = done.stdout.splitlines()
    assert (first.split()[-1], last) == ("begin", "[]")
