"""Test the built wheel on every supported Prefect minor version and Python, in environments.

    python scripts/matrix.py --wheel dist/flowspan-*.whl [--all] [--only 3.6] [-- PYTEST ARGUMENTS]
    python scripts/matrix.py --wheel dist/flowspan-*.whl --runners [--only 3.9]

A cell is one Prefect on one Python. The Prefect in ``constraints.txt`` uses the versions there, an
older one those of ``constraints-3.10.txt``, except for versions that it does not allow (see
`OLDER`). With ``--runners``, the cells have Dask and Ray, in the versions of
``constraints-runners.txt``. The exit code is 1 if any cell failed.
"""

import argparse
import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "matrix"
MEASURES_AND_LOGS = (
    "tests/recording/test_instruments.py::test_every_path_counts_its_runs[flow-async]",
    "tests/recording/test_instruments.py::test_every_path_counts_its_runs[task-sync]",
    "tests/log_capture/test_log_export.py::test_every_logger_everywhere[thread_pool]",
)
# A test of each thing that another Python may break.
FEW = (
    "tests/_prefect/test_drift.py",
    "tests/_prefect/test_engine_paths.py::test_success",
    "tests/views/test_analysis_shown.py",
    *MEASURES_AND_LOGS,
)
# Everything that another Prefect's engines may break, and little more.
ENGINES = (
    "tests/_prefect/test_drift.py",
    "tests/_prefect/test_engine_paths.py",
    "tests/_prefect/test_prefect_3_9.py",
    *MEASURES_AND_LOGS,
)
ALL = (
    "tests/_prefect/test_drift.py",
    "tests/_prefect/test_edges.py",
    "tests/_prefect/test_ends.py",
    "tests/_prefect/test_engine_paths.py",
    "tests/test_instrument.py",
    "tests/log_capture/test_log_export.py",
    "tests/recording/test_instruments.py",
    "tests/_prefect/test_prefect_3_9.py",
    "tests/_prefect/test_processes.py",
    "tests/views/test_analysis_shown.py",
)
# A runner's script may share the machine with other tests, so it may take long.
RUNNERS = ("tests/runners", "--timeout=900")
# What another Prefect's engines and runners may break.
FEW_RUNNERS = (
    "tests/runners/test_reconciled.py",
    "tests/runners/test_short_life.py",
    "tests/runners/test_waits.py",
    "--timeout=900",
)
PYTHON_MINORS = range(10, 15)
SHOWN_LINES = 30
RUN_PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider")


@dataclass(frozen=True)
class Prefect:
    """One release of Prefect, and its deviations from the constraints."""

    version: str
    pins: tuple[str, ...] = ()
    """Requirements that replace the constraints on the same packages."""
    constraints: str = "constraints-3.10.txt"
    pythons: range = range(10, 14)
    """The minor versions of Python that it supports with its constraints."""


def pinned(constraints: str) -> str:
    """Return the Prefect version in a constraints file."""
    found = re.search("^prefect==(.+)$", (ROOT / constraints).read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{constraints} does not pin Prefect")
    return found[1]


# The oldest and the newest patch of every minor version. All pins except FastAPI's are the newest
# releases within the upper bounds of Prefect's own metadata.
BEFORE_3_8_8 = ("packaging==26.2", "python-slugify==8.0.4")
# With FastAPI 0.137 and newer, the server of 3.7.0 and older answers every request with status 500:
# AttributeError: 'PrefectRouter' object has no attribute 'routes'.
BEFORE_3_7_8 = (*BEFORE_3_8_8, "fastapi==0.136.3")
OLDER = (
    Prefect(
        "3.6.0",
        (
            "cachetools==6.2.6",
            "coolname==2.2.0",
            # Newer ones reject the subflow requests of 3.6.0, which have no content type.
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
    Prefect(pinned("constraints-3.10.txt")),
    Prefect("3.9.0", pythons=range(11, 14)),
)
MAIN = Prefect(
    pinned("constraints.txt"), constraints="constraints.txt", pythons=range(11, PYTHON_MINORS.stop)
)
# With Dask and Ray: the newest Prefect, and the one that Python 3.10 has.
WITH_RUNNERS = (
    Prefect(
        pinned("constraints-runners.txt"),
        constraints="constraints-runners.txt",
        pythons=range(11, 14),
    ),
    Prefect(
        pinned("constraints-3.10.txt"),
        ("apprise==1.13.1", "python-slugify==9.0.0"),
        constraints="constraints-runners.txt",
        pythons=range(11, 14),
    ),
)


@dataclass(frozen=True)
class Cell:
    """One environment of the matrix, and what it runs of the tests."""

    prefect: Prefect
    minor: int
    tests: tuple[str, ...]
    """Pytest's arguments."""
    group: str = "dev"
    """The dependency group to install beside the wheel."""

    @property
    def name(self) -> str:
        """The name that is shown, and the name of its folder and log."""
        prefix = "" if self.group == "dev" else f"{self.group}-"
        return f"{prefix}prefect-{self.prefect.version}-python-3.{self.minor}"


@dataclass(frozen=True)
class Outcome:
    """The result of a cell: passed, failed, or not available here."""

    cell: Cell
    verdict: str
    detail: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.cell.name:<28} {self.verdict:<8} {self.seconds:>5.0f} s  {self.detail}"


class Stopped(Exception):  # noqa: N818 - not an error of this script
    """A step of a cell failed; the argument says why, in one line."""


def cells(here: int, *, everything: bool) -> list[Cell]:
    """Return every older Prefect on Python 3.`here`, and the newest possible on other Pythons.

    The test suite runs with the main Prefect on this Python, so only `everything` repeats it.
    """
    prefects = (*OLDER, MAIN) if everything else OLDER
    tests, few = (ALL, ALL) if everything else (ENGINES, FEW)
    found = [Cell(prefect, nearest(here, prefect.pythons), tests) for prefect in prefects]
    for minor in PYTHON_MINORS:
        newest = next(prefect for prefect in (MAIN, *OLDER[::-1]) if minor in prefect.pythons)
        if minor != here:
            found.append(Cell(newest, minor, few))
    return list({cell.name: cell for cell in found}.values())


def cells_with_runners(here: int) -> list[Cell]:
    """Return the cells with Dask and Ray, on Python 3.`here` or the nearest possible."""
    return [
        Cell(prefect, nearest(here, prefect.pythons), tests, group="runners")
        for prefect, tests in zip(WITH_RUNNERS, (RUNNERS, FEW_RUNNERS), strict=True)
    ]


def nearest(minor: int, pythons: range) -> int:
    """Return the minor version of Python in `pythons` that is nearest to `minor`."""
    return min(max(minor, pythons.start), pythons.stop - 1)


def find_python(minor: int) -> Path | None:
    """Return an interpreter: this one, or one on PATH or from pyenv, whose shims may not work."""
    if minor == sys.version_info.minor:
        return Path(sys.executable)
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
    """Return the constraints of one Prefect, with its own pins replacing those of its packages."""
    own = {f"prefect=={prefect.version}", *prefect.pins}
    replaced = {package_name(requirement) for requirement in own}
    shared = (ROOT / prefect.constraints).read_text().split()
    return "\n".join([*(pin for pin in shared if package_name(pin) not in replaced), *sorted(own)])


def package_name(requirement: str) -> str:
    """Return the name in front of the version."""
    return re.split("[=<>]", requirement, maxsplit=1)[0]


async def run_cell(
    cell: Cell, wheel: Path, pytest_arguments: Sequence[str], timeout: float
) -> Outcome:
    """Create the environment of a cell and run the tests in it."""
    start = time.monotonic()

    def outcome(verdict: str, detail: str) -> Outcome:
        return Outcome(cell, verdict, detail, time.monotonic() - start)

    interpreter = find_python(cell.minor)
    if interpreter is None:
        return outcome("skipped", f"no Python 3.{cell.minor} on this machine")
    folder = ROOT / ".venvs" / cell.name
    log = LOGS / f"{cell.name}.log"
    log.unlink(missing_ok=True)
    pins = LOGS / f"{cell.name}.txt"
    pins.write_text(constraints(cell.prefect))
    python = folder / "bin" / "python"
    install = (uv(), "pip", "install", "--quiet", "--python", python, "--constraint", pins)
    try:
        await run([uv(), "venv", "--quiet", "--clear", "-p", interpreter, folder], log, 60)
        await run([*install, "--group", cell.group, f"{wheel}[demo]", "prefect"], log, 600)
        installed = time.monotonic() - start
        await run([python, *RUN_PYTEST, *pytest_arguments], log, timeout)
    except Stopped as stopped:
        return outcome("FAILED", str(stopped))
    return outcome("passed", f"{last_line(log)}, after {installed:.0f} s of installation")


def uv() -> str:
    """Return the uv next to this interpreter, else the one on PATH."""
    found = shutil.which("uv", path=Path(sys.executable).parent) or shutil.which("uv")
    if found is None:
        raise SystemExit("uv is missing: pip install uv")
    return found


async def run(command: Sequence[str | Path], log: Path, timeout: float) -> None:
    """Run a command for at most `timeout` seconds and append its output to the log.

    Raises:
        Stopped: It failed or took too long; none of its child processes is left.
    """
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Download no interpreter: the matrix tests those that are installed.
            env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"},
            start_new_session=True,
        )
        try:
            code = await asyncio.wait_for(process.wait(), timeout)
        except asyncio.TimeoutError:
            raise Stopped(f"took longer than {timeout:.0f} s") from None
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
    if code:
        raise Stopped(f"exit code {code}: {last_line(log)}")


def last_line(log: Path) -> str:
    """Return the last line of a log without pytest's ornament; empty if there is none."""
    return "".join(log.read_text().strip().splitlines()[-1:]).strip("= ")


def show_log(cell: Cell) -> None:
    """Print the end of a cell's log."""
    log = LOGS / f"{cell.name}.log"
    for line in log.read_text().splitlines()[-SHOWN_LINES:]:
        print(f"    {line}")
    print(f"    Full log: {log.relative_to(ROOT)}", flush=True)


async def run_all(chosen: Sequence[Cell], options: argparse.Namespace) -> list[Outcome]:
    """Run the cells, a few in parallel, and print each result."""
    slots = asyncio.Semaphore(options.jobs)

    async def run_in_slot(cell: Cell) -> Outcome:
        async with slots:
            outcome = await run_cell(
                cell, options.wheel, options.pytest or cell.tests, options.timeout
            )
        print(outcome, flush=True)
        if outcome.verdict == "FAILED":
            show_log(cell)
        return outcome

    return await asyncio.gather(*map(run_in_slot, chosen))


def main() -> int:
    """Run the matrix and print a summary."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--wheel", type=Path, required=True, help="the built wheel")
    parser.add_argument("--all", action="store_true", help="run more cells, and more tests in each")
    parser.add_argument("--runners", action="store_true", help="run the cells with Dask and Ray")
    parser.add_argument("--jobs", type=int, default=2, help="cells to run in parallel")
    parser.add_argument("--only", default="", help="run the cells whose name contains this")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds for one cell's tests")
    parser.add_argument("pytest", nargs="*", help="pytest's arguments, instead of a cell's tests")
    options = parser.parse_args()
    options.wheel = options.wheel.resolve()
    if not options.wheel.is_file():
        parser.error(f"there is no wheel {options.wheel}")
    here = sys.version_info.minor
    every_cell = (
        cells_with_runners(here) if options.runners else cells(here, everything=options.all)
    )
    chosen = [cell for cell in every_cell if options.only in cell.name]
    if not chosen:
        parser.error(f"no cell has {options.only!r} in its name")
    LOGS.mkdir(parents=True, exist_ok=True)

    outcomes = asyncio.run(run_all(chosen, options))

    print("\nSummary")
    for outcome in outcomes:
        print(outcome)
    return int(any(outcome.verdict == "FAILED" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
