"""Run scripts with flows, in separate processes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate

FLOWS = Path(__file__).parent / "flows"

PREFECT = (sys.executable, "-m", "prefect")

PATIENCE = 240.0
"""Seconds to wait for what happens within a few on a machine that has nothing else to do."""


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Return the variables of a script whose telemetry goes to files in `folder`.

    What serves flows there looks each second for runs to start, not every ten.
    """
    own = {
        "FLOWSPAN_DIR": str(folder),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(FLOWS), os.environ.get("PYTHONPATH")])),
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    return {**os.environ, **own, **variables}


def run_command(
    *command: str, env: dict[str, str], timeout: float = PATIENCE
) -> "subprocess.CompletedProcess[str]":
    """Run a command in tests/flows to its end."""
    return subprocess.run(
        command,
        env=env,
        cwd=FLOWS,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def run_script(
    *arguments: str, env: dict[str, str], timeout: float = PATIENCE
) -> "subprocess.CompletedProcess[str]":
    """Run a script of tests/flows to its end."""
    return run_command(sys.executable, *arguments, env=env, timeout=timeout)


def run_under_distro(*arguments: str, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a script of tests/flows under opentelemetry-instrument; skip the test without it."""
    command = shutil.which("opentelemetry-instrument", path=Path(sys.executable).parent)
    if command is None:
        pytest.skip("opentelemetry-distro is not installed")
    return run_command(command, sys.executable, *arguments, env=env)


@contextmanager
def background(
    *command: str, env: dict[str, str], log: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command in the background, and interrupt it at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=env, cwd=FLOWS, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def deploy(entrypoint: str, *, pool: str) -> None:
    """Create a process work pool, and a deployment "worked" in it of a flow of tests/flows."""
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
    source = Flow.from_source(source=str(FLOWS), entrypoint=entrypoint)
    assert isinstance(source, Flow)  # and no coroutine, outside of an event loop
    source.deploy("worked", work_pool_name=pool, print_next_steps=False)


def eventually(check: Callable[[], Any], what: str) -> Any:
    """Return the result of `check` as soon as it is true."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := check():
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what} did not happen within {PATIENCE} s")
