"""``flowspan metrics``, as users run it."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from metric_files import Process, raw_line
from typer.testing import CliRunner, Result

from flowspan.cli.main import app

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs ``flowspan metrics`` in an empty folder, its output piped."""
    monkeypatch.chdir(tmp_path)
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def invoke(*arguments: str | Path, charset: str = "utf-8", **environment: str) -> Result:
        runner = CliRunner(charset=charset, env=environment)
        return runner.invoke(app, ["metrics", *map(str, arguments)])

    return invoke


def record(file: Path, *flows: str) -> Path:
    """Record a run of each flow, with a task."""
    with closing(Process(file)) as process:
        for flow in flows:
            process.flow(flow, 2.0)
            process.task(flow, f"load-{flow}", 1.0, waits={"queue": 0.5})
            process.metric("rows_rejected", 3, flow=flow)
    return file


def embedded(folder: Path) -> Path:
    """Return the path of the file that flowspan's embedded default writes to."""
    return folder / ".flowspan" / "metrics.jsonl"


def test_the_embedded_files_are_summed_up(run: Run, tmp_path: Path) -> None:
    """Without arguments it needs only the folder it is started in."""
    record(embedded(tmp_path), "nightly")
    record(tmp_path / ".flowspan" / "metrics-20260101T000000.000000Z-0a1b2c3d.jsonl", "nightly")
    done = run()
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[3].split()[:4] == ["nightly", "2", "✓", "100"]
    assert lines[4].split()[:5] == ["└─", "load-nightly", "2", "✓", "100"]
    assert lines[-1].split()[:3] == ["rows_rejected", "nightly", "3"]


def test_a_pipe_gets_plain_text_of_a_stable_width(run: Run, tmp_path: Path) -> None:
    """120 cells without colour, unless COLUMNS is set."""
    record(embedded(tmp_path), "flow-" + "x" * 500)
    for environment, width in (({}, 120), ({"COLUMNS": "80"}, 80), ({"COLUMNS": "x"}, 120)):
        out = run(**environment).stdout
        assert "\x1b" not in out
        assert max(map(len, out.splitlines())) == width


def test_colour_comes_with_a_terminal(run: Run, tmp_path: Path) -> None:
    """FORCE_COLOR stands in for a terminal."""
    record(embedded(tmp_path), "nightly")
    assert "\x1b[32m✓" in run(FORCE_COLOR="1", TERM="xterm").stdout


def test_an_output_without_unicode_gets_ascii(run: Run, tmp_path: Path) -> None:
    """Other characters become question marks, not a traceback."""
    record(embedded(tmp_path), "größe")
    done = run(charset="ascii")
    assert done.exit_code == 0
    assert "gr??e" in done.stdout
    assert "`- load-gr??e" in done.stdout


@pytest.mark.parametrize("how", ["file", "folder", "environment"])
def test_the_source_can_be_named(run: Run, tmp_path: Path, how: str) -> None:
    """By a file, a folder, or FLOWSPAN_DIR."""
    file = record(tmp_path / "metrics-old.jsonl", "nightly")
    arguments = {"file": ("--file", file), "folder": ("--file", tmp_path)}.get(how, ())
    environment = {"FLOWSPAN_DIR": str(tmp_path)} if how == "environment" else {}
    done = run(*arguments, **environment)
    assert done.exit_code == 0
    assert "nightly" in done.stdout


def test_one_flow_can_be_chosen(run: Run, tmp_path: Path) -> None:
    """By its name."""
    record(embedded(tmp_path), "nightly", "hourly")
    out = run("--flow", "nightly").stdout
    assert "load-nightly" in out
    assert "hourly" not in out


def test_an_unknown_flow_lists_those_there_are(run: Run, tmp_path: Path) -> None:
    """They are in alphabetical order."""
    record(embedded(tmp_path), "nightly", "hourly")
    done = run("--flow", "weekly")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "flowspan: .flowspan holds no flow 'weekly'. Its flows:",
        "  hourly",
        "  nightly",
    ]


def test_json_is_the_only_thing_on_stdout(run: Run, tmp_path: Path) -> None:
    """Problems are reported on stderr and by the exit code."""
    file = record(embedded(tmp_path), "größe", "hourly")
    with file.open("a") as stream:
        stream.write('{"resourceMetrics": [{"resou')
    done = run("--json")
    document = json.loads(done.stdout)
    assert sorted(flow["name"] for flow in document["flows"]) == ["größe", "hourly"]
    assert done.exit_code == 1
    assert "metrics.jsonl:2: cut off: the line ends in the middle" in done.stderr
    chosen = json.loads(run("--json", "--flow", "hourly").stdout)
    assert [flow["name"] for flow in chosen["flows"]] == ["hourly"]


def test_the_table_is_shown_beside_warnings(run: Run, tmp_path: Path) -> None:
    """Ten warnings are printed, the others counted."""
    file = record(embedded(tmp_path), "nightly")
    with file.open("a") as stream:
        stream.write("bad\n" * 1_500)
    done = run()
    assert done.exit_code == 1
    assert "load-nightly" in done.stdout
    warnings = done.stderr.splitlines()
    assert warnings[0].endswith("metrics.jsonl:2: not JSON")
    assert (len(warnings), warnings[-1]) == (11, "flowspan: warning: 1,490 more like these")


def test_nothing_to_read_says_what_to_do(run: Run, tmp_path: Path) -> None:
    """No folder, an empty folder and files without runs have different messages."""
    (tmp_path / "empty").touch()
    (tmp_path / "other").write_text(raw_line({"name": "http.server.duration"}))
    for arguments, words in (
        ((), ".flowspan does not exist."),
        (("--file", tmp_path), "holds no metrics*.jsonl file."),
        (("--file", tmp_path / "nothing.jsonl"), "nothing.jsonl does not exist."),
        (("--file", tmp_path / "empty"), "empty holds no metrics of runs yet."),
        (("--file", tmp_path / "other", "--flow", "x"), "other holds no metrics of runs yet."),
    ):
        done = run(*arguments)
        assert (done.exit_code, done.stdout) == (1, "")
        assert words in done.stderr
        assert "flowspan.instrument()" in done.stderr
        assert "OTEL_METRICS_EXPORTER" in done.stderr
        assert "--file PATH" in done.stderr


def test_files_of_nothing_but_damage_say_so(run: Run, tmp_path: Path) -> None:
    """Warnings come before the error."""
    embedded(tmp_path).parent.mkdir()
    embedded(tmp_path).write_text("bad\n")
    done = run()
    assert done.exit_code == 1
    first, second, *_ = done.stderr.splitlines()
    assert first == "flowspan: warning: .flowspan/metrics.jsonl:1: not JSON"
    assert second == "flowspan: .flowspan holds no metrics of runs yet."


def test_help_says_what_a_success_is(run: Run) -> None:
    """It also says how p50 and p95 are estimated."""
    out = " ".join(run("--help").stdout.split())
    assert "cancelled and skipped runs do not count" in out
    assert "linear interpolation" in out


def test_the_report_needs_neither_prefect_nor_the_sdk(tmp_path: Path) -> None:
    """The command starts at once, and works on files from elsewhere."""
    code = (
        "import sys, flowspan.cli.main, flowspan.views.terminal.metrics\n"
        "print([name for name in ('prefect', 'opentelemetry.sdk') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
