"""``flowspan timeline``, as users run it."""

import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Final

import pytest
from span_files import Plan, raw_line, raw_span, run, write

import generated_traces
from commands import embedded, flowspan
from flowspan._version import __version__


def test_the_last_run_is_drawn_from_the_embedded_files(tmp_path: Path) -> None:
    """Without arguments it needs only the folder it is started in."""
    write(embedded(tmp_path), run("RUN etl", 0, 10, run("load", 1, 5)))
    done = flowspan("timeline", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    names = [line.split("  ")[0] for line in done.stdout.splitlines()]
    assert names[5:9] == ["span", "critical path", "RUN etl", "└─ load"]


_OVERWRITING: Final = """
import os, sys
from pathlib import Path
from flowspan.cli.main import main
from flowspan.cli import timeline as cli

load = cli.load_trace

def load_and_overwrite(*arguments):
    trace = load(*arguments)
    os.truncate(sys.argv[-1], 0)
    return trace

cli.load_trace = load_and_overwrite
main()
"""


def test_a_file_that_is_overwritten_while_it_is_shown_is_an_error(tmp_path: Path) -> None:
    """One sentence says so, whatever has been printed; large files are not held in memory."""
    file = tmp_path / "traces.jsonl"
    generated_traces.write(file, 1_000)
    done = subprocess.run(
        [sys.executable, "-c", _OVERWRITING, "timeline", "--json", "--file", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"flowspan: {file} was overwritten while it was being read.\n"


def test_a_pipe_gets_plain_text_of_a_stable_width(tmp_path: Path) -> None:
    """120 cells without colour, unless COLUMNS is set."""
    write(embedded(tmp_path), run("RUN etl", 0, 10))
    for environment, width in (({}, 120), ({"COLUMNS": "80"}, 80), ({"COLUMNS": "x"}, 120)):
        out = flowspan("timeline", cwd=tmp_path, **environment).stdout
        assert "\x1b" not in out
        assert max(map(len, out.splitlines())) == width


def test_colour_comes_with_a_terminal(tmp_path: Path) -> None:
    """FORCE_COLOR stands in for a terminal."""
    write(embedded(tmp_path), run("RUN etl", 0, 10))
    assert "\x1b[32m" in flowspan("timeline", cwd=tmp_path, FORCE_COLOR="1", TERM="xterm").stdout


def test_an_output_without_unicode_gets_ascii(tmp_path: Path) -> None:
    """Other characters become question marks, not a traceback."""
    write(embedded(tmp_path), run("RUN größe", 0, 10, run("load", 1, 5)))
    done = flowspan("timeline", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "RUN gr??e" in done.stdout
    assert "`- load" in done.stdout


@pytest.mark.parametrize("how", ["file", "folder", "environment"])
def test_the_source_can_be_named(tmp_path: Path, how: str) -> None:
    """By a file, a folder, or FLOWSPAN_DIR."""
    file = tmp_path / "traces-old.jsonl"
    write(file, run("RUN etl", 0, 10))
    arguments = {"file": ("--file", file), "folder": ("--file", tmp_path)}.get(how, ())
    environment = {"FLOWSPAN_DIR": str(tmp_path)} if how == "environment" else {}
    done = flowspan("timeline", *arguments, cwd=tmp_path, **environment)
    assert "RUN etl" in done.stdout
    assert done.returncode == 0


def test_a_run_is_chosen_by_its_id(tmp_path: Path) -> None:
    """The id that Prefect prints finds the trace."""
    wanted = str(uuid.uuid4())
    file = embedded(tmp_path)
    write(file, run("RUN wanted", 0, 10, run_id=wanted))
    write(file, run("RUN other", 0, 20))
    out = flowspan("timeline", wanted, cwd=tmp_path).stdout
    assert "RUN wanted" in out
    assert "RUN other" not in out


def test_json_is_the_only_thing_on_stdout(tmp_path: Path) -> None:
    """It holds every span, including those that the tree leaves out."""
    tasks = [run("load", n, n + 1, Plan("GET", n, n + 0.5)) for n in range(30)]
    file = embedded(tmp_path)
    trace_id = write(file, run("RUN etl", 0, 60, *tasks)).trace_id
    with file.open("a") as stream:
        stream.write("broken")
    done = flowspan("timeline", "--json", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert (document["trace_id"], len(document["spans"])) == (trace_id, 61)
    assert [span["start"] for span in document["spans"]] == sorted(
        span["start"] for span in document["spans"]
    )
    assert done.returncode == 1
    assert "traces.jsonl:2: not JSON" in done.stderr


def test_nothing_to_read_says_what_to_do(tmp_path: Path) -> None:
    """No folder, an empty folder and an empty file have different messages."""
    for arguments, words in (
        ((), ".flowspan does not exist."),
        (("--file", tmp_path), "holds no traces*.jsonl file, nor any other of OTLP spans."),
        (("--file", tmp_path / "nothing.jsonl"), "nothing.jsonl does not exist."),
        (("--file", tmp_path / "empty"), "empty holds no spans yet."),
    ):
        (tmp_path / "empty").touch()
        done = flowspan("timeline", *arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr
        assert "--file PATH" in done.stderr


def test_an_unknown_id_lists_traces_that_are_there(tmp_path: Path) -> None:
    """It lists the latest five, the latest first."""
    file = embedded(tmp_path)
    ids = [write(file, run(f"RUN etl {n}", n, n + 1)).trace_id for n in range(7)]
    for unknown in ("0" * 31 + "1", str(uuid.uuid4())):
        done = flowspan("timeline", unknown, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"no trace or run {unknown}" in done.stderr
        assert [line.split()[0] for line in done.stderr.splitlines()[1:]] == ids[:1:-1]


@pytest.mark.parametrize("arguments", [("timeline", ""), ("timeline", "--no"), ("no",)])
def test_wrong_usage_exits_with_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """All commands do so."""
    done = flowspan(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: " in done.stderr


def test_warnings_are_bounded(tmp_path: Path) -> None:
    """Ten are printed, the others counted; the spans are drawn."""
    embedded(tmp_path).write_text("bad\n" * 1_500 + raw_line(raw_span(1)))
    done = flowspan("timeline", cwd=tmp_path)
    assert done.returncode == 1
    assert "span 1" in done.stdout
    warnings = done.stderr.splitlines()
    assert warnings[0].endswith("traces.jsonl:1: not JSON")
    assert (len(warnings), warnings[-1]) == (11, "flowspan: warning: 1,490 more like these")


def test_ten_thousand_spans_are_a_page(tmp_path: Path) -> None:
    """All are counted, few are shown, and `--all` shows each."""
    tasks = [run("load", n / 100, n / 100 + 1, run_name=f"load-{n}") for n in range(9_999)]
    write(embedded(tmp_path), run("RUN etl", 0, 101, *tasks))
    page = flowspan("timeline", cwd=tmp_path).stdout
    assert "10,000 runs" in page
    assert "… 9,989 more load" in page
    assert len(page.splitlines()) < 40
    assert flowspan("timeline", "--all", cwd=tmp_path).stdout.count("─ load-") == 9_999


def test_help_and_version(tmp_path: Path) -> None:
    """Both print to stdout."""
    assert flowspan("--version", cwd=tmp_path).stdout == f"flowspan {__version__}\n"
    out = flowspan("--help", cwd=tmp_path).stdout
    assert "timeline" in out
    out = flowspan("timeline", "--help", cwd=tmp_path).stdout
    assert "first 8 digits" in out


def test_the_timeline_needs_neither_prefect_nor_the_sdk(tmp_path: Path) -> None:
    """The command starts at once, and works on files from elsewhere."""
    code = (
        "import sys, flowspan.cli.main, flowspan.read.jaeger, flowspan.views.terminal.timeline\n"
        "print([name for name in ('prefect', 'opentelemetry.sdk') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
