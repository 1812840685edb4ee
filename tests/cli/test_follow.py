"""``flowspan timeline --follow``, over a pipe and on a terminal, with a real flow."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from jaeger_server import jaeger_server
from span_files import run, write

from commands import embedded, flowspan
from flowspan.errors import SourceError
from flowspan.read import trace_files
from flowspan.read.selection import UnknownRunError
from processes import FLOWS, PATIENCE, environment, eventually

COMMAND = (sys.executable, "-c", "from flowspan.cli.main import main; main()")
FOLLOW = (*COMMAND, "timeline", "--follow")
HEIGHT, WIDTH = 30, 80


@contextmanager
def running_flow(folder: Path) -> Iterator[Path]:
    """Start a flow, wait until its subflow is reported; the flow ends once a file is made."""
    gate = folder / "gate"
    env = environment(folder / ".flowspan", FLOWSPAN_HEARTBEAT="1")
    with subprocess.Popen([sys.executable, "followed.py", gate], cwd=FLOWS, env=env) as process:
        try:
            eventually(lambda: "RUN clean" in open_spans(folder), "the report of the subflow")
            yield gate
        finally:
            gate.touch()
    assert process.returncode == 0


def open_spans(folder: Path) -> list[str]:
    """Return the names of the spans of the latest trace that have not ended."""
    try:
        spans = trace_files.load(folder / ".flowspan").spans
    except (SourceError, UnknownRunError):
        return []
    return [span.name for span in spans if span.open is not None]


def states(lines: list[str]) -> list[tuple[str, str]]:
    """Return the state and the run, without its random part, of each line."""
    found = [re.fullmatch(r"\S+  (\w+) +(\S+?)(?:-\w{3}| .*)?(?:  .*)?", line) for line in lines]
    return [(one[1], one[2]) for one in found if one]


def test_over_a_pipe_each_state_is_a_line(prefect_server: str, tmp_path: Path) -> None:
    """Each once, as soon as it is known; the command ends with the run."""
    with running_flow(tmp_path) as gate:
        with subprocess.Popen(
            FOLLOW, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            lines: list[str] = []
            for line in process.stdout:
                lines.append(line.rstrip("\n"))
                if ("Running", "clean") in states(lines):
                    gate.touch()
            assert process.stderr.read() == ""
        assert process.returncode == 0
    assert sorted(states(lines)) == [
        (state, name)
        for state in ("Completed", "Running")
        for name in ("clean", "clean/wait", "nightly", "nightly/extract")
    ]
    assert all(re.search(r" m?s$", line) for line in lines if "  Completed  " in line)


class Terminal:
    """A command on a terminal of its own, and everything that it writes."""

    def __init__(self, command: tuple[str, ...], folder: Path) -> None:
        self.chunks: list[tuple[float, str]] = []
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
        env = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=env | {"TERM": "xterm", "PYTHONIOENCODING": "utf-8"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._thread = threading.Thread(target=self._read, args=(ours,))
        self._thread.start()

    def _read(self, ours: int) -> None:
        while True:
            try:
                data = os.read(ours, 65_536)
            except OSError:  # as Linux says that nobody has the other end
                break
            self.chunks.append((time.monotonic(), data.decode("utf-8", "replace")))
        os.close(ours)

    def wait(self) -> str:
        """Return everything that it has written once it has ended."""
        assert self.process.wait(PATIENCE) is not None
        self._thread.join(PATIENCE)
        return self.text

    @property
    def text(self) -> str:
        """Everything that it has written so far."""
        return "".join(text for _, text in self.chunks)


def test_on_a_terminal_it_is_drawn_in_place(prefect_server: str, tmp_path: Path) -> None:
    """At most four times a second; at the end the whole timeline stays, once."""
    with running_flow(tmp_path) as gate:
        terminal = Terminal(FOLLOW, tmp_path)
        eventually(lambda: terminal.text.count("so far") > 3, "the third drawing")
        gate.touch()
        text = terminal.wait()
    assert terminal.process.returncode == 0
    *drawings, last = text.split("\x1b[?25h")  # the cursor is shown again
    assert len(drawings) == 1
    titles = [at for at, chunk in terminal.chunks if "started" in chunk and "so far" in chunk]
    assert (len(titles) - 2) / (titles[-1] - titles[0]) <= 4
    assert drawings[0].count("\x1b[1A") > drawings[0].count("so far")  # up, and over the old one
    assert "▶ running" in plain(drawings[0])
    shown = plain(last)
    assert "✓ success" in shown
    assert "so far" not in shown
    assert shown.count("RUN clean") == 1
    assert "2× faster" in shown


def plain(text: str) -> str:
    """Return a text without its control sequences."""
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text)


def test_a_run_that_has_ended_is_shown_at_once(tmp_path: Path) -> None:
    """Its states over a pipe; on a terminal, its timeline."""
    write(embedded(tmp_path), run("RUN etl", 0, 10, run("load", 1, 5), run_name="a-bee"))
    done = flowspan("timeline", "--follow", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert states(done.stdout.splitlines()) == [("success", "etl/load"), ("success", "etl")]
    terminal = Terminal(FOLLOW, tmp_path)
    assert "RUN etl" in plain(terminal.wait())


def test_a_long_timeline_fits_the_terminal(tmp_path: Path) -> None:
    """The rows between its title and the last ones are left out while it is followed."""
    tasks = [run(f"task-{n}", n, n + 1) for n in range(60)]
    write(embedded(tmp_path), run("RUN etl", 0, 60, *tasks))
    terminal = Terminal(FOLLOW, tmp_path)
    followed, whole = plain_parts(terminal.wait())
    _, *drawings = followed.split("etl  ✓ success")
    assert all(len(drawing.strip().splitlines()) < HEIGHT for drawing in drawings)
    assert re.search(r"\(\d+ lines more\)", followed)
    assert ("task-30 " in followed, "task-59 " in followed) == (False, True)
    assert whole.count("task-30 ") >= 1


def plain_parts(text: str) -> tuple[str, str]:
    """Return what was drawn in place, and what was printed at the end."""
    followed, _, whole = text.partition("\x1b[?25h")
    return plain(followed), plain(whole)


@pytest.mark.parametrize(
    "more", [("--json",), ("--html", "page.html"), ("--logs",), ("--file", "-")], ids=str
)
def test_it_cannot_be_combined_with_what_needs_the_end(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    """Nor with a source that has only runs that have ended."""
    write(embedded(tmp_path), run("RUN etl", 0, 10))
    done = flowspan("timeline", "--follow", *more, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--follow" in done.stderr


def test_jaeger_has_only_runs_that_have_ended(tmp_path: Path) -> None:
    """And the command says so before it asks."""
    with jaeger_server(tmp_path / "storage.jsonl") as server:
        done = flowspan("timeline", "--follow", "--jaeger", server.url, cwd=tmp_path)
    assert done.returncode == 2
    assert "Jaeger has only runs that have ended." in done.stderr
