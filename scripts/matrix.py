"""Test the built wheel on every supported Prefect minor and Python, each in its own environment.

    python scripts/matrix.py --wheel dist/flowspan-*.whl [--only 3.6] [-- PYTEST ARGUMENTS]

A cell is one Prefect on one Python. All of them take the versions of ``constraints.txt``, save for
what an older Prefect does not allow (see `PREFECTS`). The exit code is 1 if any cell failed.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "matrix"
TESTS = (
    "tests/_prefect/test_drift.py",
    "tests/_prefect/test_engine_paths.py",
    "tests/recording/test_metrics.py",
    "tests/log_capture/test_logs_export.py::test_every_logger_everywhere",
    "tests/views/test_analysis_shown.py",
)
PYTHON_MINORS = (10, 11, 12, 13)
SHOWN_LINES = 30
# What fails has one more try: Prefect's server on SQLite drops a request now and then.
RUN_PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--reruns", "1")


@dataclass(frozen=True)
class Prefect:
    """One release of Prefect, and what it needs other than ``constraints.txt`` says."""

    version: str
    pins: tuple[str, ...] = ()
    """Requirements in place of the constraints on the same packages."""
    may_be_missing: bool = False
    """Whether a registry that cannot serve all its dependencies is no failure."""


# The oldest and the newest patch of every minor. All pins but FastAPI's follow from upper bounds in
# Prefect's own metadata: they are the newest releases within them.
BEFORE_3_8_8 = ("packaging==26.2", "python-slugify==8.0.4")
# With FastAPI 0.137 and newer, the server of 3.7.0 and older answers every request with status 500:
# AttributeError: 'PrefectRouter' object has no attribute 'routes'.
BEFORE_3_7_8 = (*BEFORE_3_8_8, "fastapi==0.136.3")
PREFECTS = (
    Prefect(
        "3.6.0",
        (
            "cachetools==6.2.6",
            "coolname==2.2.0",
            # Newer ones do not take the subflow requests of 3.6.0, which name no content type.
            "fastapi==0.131.0",
            "griffe==1.15.0",
            "packaging==25.0",
            "python-slugify==8.0.4",
            "pytz==2025.2",
            "rich==14.3.4",
            "starlette==0.52.1",
            "typer==0.19.2",
            "websockets==15.0.1",
        ),
    ),
    Prefect("3.6.29", BEFORE_3_7_8),
    Prefect("3.7.0", BEFORE_3_7_8),
    Prefect("3.7.8", BEFORE_3_8_8),
    Prefect("3.8.0", BEFORE_3_8_8),
    Prefect("3.8.8"),
    # 3.9 bounds FastAPI itself, and needs a certifi that a registry may not hold yet.
    Prefect("3.9.0", ("certifi>=2026.10.19", "fastapi>=0.139"), may_be_missing=True),
    Prefect("3.9.1", ("certifi>=2026.10.19", "fastapi>=0.139"), may_be_missing=True),
)
NEWEST = next(prefect for prefect in reversed(PREFECTS) if not prefect.may_be_missing)


@dataclass(frozen=True)
class Cell:
    """One environment of the matrix."""

    prefect: Prefect
    minor: int
    python: Path | None

    @property
    def name(self) -> str:
        """What the user sees, and the folder's and the log's name."""
        return f"prefect-{self.prefect.version}-python-3.{self.minor}"


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: passed, failed, or not available here."""

    cell: Cell
    verdict: str
    detail: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.cell.name:<28} {self.verdict:<8} {self.seconds:>5.0f} s  {self.detail}"


class Stopped(Exception):  # noqa: N818 - not an error of this script
    """A step of a cell did not succeed; the argument says why, in one line."""


def cells() -> list[Cell]:
    """Every Prefect on this Python, then the newest Prefect on every other Python."""
    here = sys.version_info.minor
    return [Cell(prefect, here, Path(sys.executable)) for prefect in PREFECTS] + [
        Cell(NEWEST, minor, find_python(minor)) for minor in PYTHON_MINORS if minor != here
    ]


def find_python(minor: int) -> Path | None:
    """Find an interpreter on the PATH or among pyenv's, whose shims may stand for none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    on_path = shutil.which(f"python3.{minor}")
    candidates = sorted(pyenv.glob(f"versions/3.{minor}.*/bin/python"), reverse=True)
    for candidate in [Path(on_path), *candidates] if on_path else candidates:
        answer = subprocess.run(
            [candidate, "-c", "import sys; print(sys.version_info.minor)"],
            check=False,
            capture_output=True,
            text=True,
        )
        if answer.stdout.strip() == str(minor):
            return candidate
    return None


def constraints(prefect: Prefect) -> str:
    """The shared constraints, with the pins of one Prefect in their place."""
    own = {f"prefect=={prefect.version}", *prefect.pins}
    replaced = {package_name(requirement) for requirement in own}
    shared = (ROOT / "constraints.txt").read_text().split()
    return "\n".join([*(pin for pin in shared if package_name(pin) not in replaced), *sorted(own)])


def package_name(requirement: str) -> str:
    """The name in front of the version."""
    return re.split("[=<>]", requirement, maxsplit=1)[0]


def run_cell(cell: Cell, wheel: Path, pytest_arguments: Sequence[str], timeout: float) -> Outcome:
    """Make the environment of a cell and run the tests in it."""
    start = time.monotonic()

    def outcome(verdict: str, detail: str) -> Outcome:
        return Outcome(cell, verdict, detail, time.monotonic() - start)

    if cell.python is None:
        return outcome("skipped", f"no Python 3.{cell.minor} on this machine")
    folder = ROOT / ".venvs" / cell.name
    log = LOGS / f"{cell.name}.log"
    log.unlink(missing_ok=True)
    pins = LOGS / f"{cell.name}.txt"
    pins.write_text(constraints(cell.prefect))
    python = folder / "bin" / "python"
    try:
        try:
            run([uv(), "venv", "--quiet", "--clear", "-p", cell.python, folder], log, 60)
            install = (uv(), "pip", "install", "--quiet", "--python", python, "--constraint", pins)
            run((*install, "--group", "dev", wheel, "prefect"), log, 600)
        except Stopped:
            reason = why_not_installable(log.read_text())
            if cell.prefect.may_be_missing and reason:
                return outcome("skipped", f"not installable here: {reason}")
            raise
        run(
            [python, *RUN_PYTEST, *pytest_arguments],
            log,
            timeout,
        )
    except Stopped as stopped:
        return outcome("FAILED", str(stopped))
    return outcome("passed", log.read_text().strip().splitlines()[-1].strip("= "))


def uv() -> str:
    """The uv beside this interpreter, else the one on the PATH."""
    found = shutil.which("uv", path=Path(sys.executable).parent) or shutil.which("uv")
    if found is None:
        raise SystemExit("uv is missing: pip install uv")
    return found


def run(command: Sequence[str | Path], log: Path, timeout: float) -> None:
    """Run a command for at most `timeout` seconds and add what it prints to the log.

    Raises:
        Stopped: it failed or took too long; none of its child processes is left.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # No interpreter is downloaded: the matrix tests those that are there.
            env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"},
            start_new_session=True,
        )
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Stopped(f"took longer than {timeout:.0f} s") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if code:
        last = log.read_text().strip().splitlines()[-1:]
        raise Stopped(f"exit code {code}: {''.join(last).strip('= ')}")


def why_not_installable(text: str) -> str | None:
    """The resolver's reason, if it was the registry that lacks a version."""
    found = re.search(r"Because (only \S+ is available and \S+ depends on \S+),", text)
    missing = re.search(r"Because (there (?:is|are) no versions? of [^,]+?)(?: and|,)", text)
    return next((match[1] for match in (found, missing) if match), None)


def show_log(cell: Cell) -> None:
    """Print the end of a cell's log."""
    log = LOGS / f"{cell.name}.log"
    for line in log.read_text().splitlines()[-SHOWN_LINES:]:
        print(f"    {line}")
    print(f"    The whole log: {log.relative_to(ROOT)}", flush=True)


def run_all(chosen: Sequence[Cell], options: argparse.Namespace) -> Iterator[Outcome]:
    """Run the cells one after the other, telling how each one ends."""
    for cell in chosen:
        outcome = run_cell(cell, options.wheel, options.pytest or TESTS, options.timeout)
        print(outcome, flush=True)
        if outcome.verdict == "FAILED":
            show_log(cell)
        yield outcome


def main() -> int:
    """Run the matrix and print a summary."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--wheel", type=Path, required=True, help="the built wheel")
    parser.add_argument("--only", default="", help="run the cells whose name contains this")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one cell's tests")
    parser.add_argument("pytest", nargs="*", help=f"pytest's arguments, by default {TESTS}")
    options = parser.parse_args()
    options.wheel = options.wheel.resolve()
    if not options.wheel.is_file():
        parser.error(f"there is no wheel {options.wheel}")
    chosen = [cell for cell in cells() if options.only in cell.name]
    if not chosen:
        parser.error(f"no cell has {options.only!r} in its name")
    LOGS.mkdir(parents=True, exist_ok=True)

    outcomes = list(run_all(chosen, options))

    print("\nSummary")
    for outcome in outcomes:
        print(outcome)
    return int(any(outcome.verdict == "FAILED" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
