"""A flow that a worker pulls from git into a temporary folder, which it deletes at the end."""

import shutil
import subprocess
from pathlib import Path

import pytest
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.runner.storage import GitRepository

from commands import flowspan
from example_runs import EXAMPLES
from flowspan.read.trace_files import load
from processes import PATIENCE, PREFECT, environment

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")

POOL = "pulled"


def repository(folder: Path) -> str:
    """Create a repository with an example; return its URL."""
    folder.mkdir()
    shutil.copy(EXAMPLES / "worker_deployment.py", folder)
    name = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    for command in (["init", "--initial-branch=main"], ["add", "."], [*name, "commit", "-m", "x"]):
        subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True)
    return folder.as_uri()


def deploy(url: str) -> None:
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    source = Flow.from_source(
        GitRepository(url, branch="main"), entrypoint="worker_deployment.py:orders"
    )
    assert isinstance(source, Flow)  # and no coroutine, outside of an event loop
    source.deploy("pulled", work_pool_name=POOL, print_next_steps=False, ignore_warnings=True)


def test_files_outlast_the_clone(prefect_server: str, tmp_path: Path) -> None:
    """What such a flow records is in Prefect's home, its log says so, and the command finds it."""
    deploy(repository(tmp_path / "repository"))
    home = tmp_path / "home"
    env = environment(tmp_path, PREFECT_HOME=str(home), PREFECT_LOGGING_LEVEL="INFO")
    del env["FLOWSPAN_DIR"]
    commands = (
        ("deployment", "run", "orders/pulled"),
        ("worker", "start", "--pool", POOL, "--run-once"),
    )
    for command in commands:
        done = subprocess.run(
            [*PREFECT, *command],
            env=env,
            cwd=tmp_path,
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert f"so flowspan writes to {home / 'flowspan'}" in said
    names = [span.name for span in load(home / "flowspan").spans]
    assert names == ["RUN orders", "extract", "attempt 1"]
    assert not (tmp_path / ".flowspan").exists()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shown = flowspan("timeline", cwd=elsewhere, PREFECT_HOME=str(home))
    assert shown.stdout.startswith("orders  "), shown.stderr
    lines = flowspan("logs", cwd=elsewhere, PREFECT_HOME=str(home))
    assert "Beginning flow run" in lines.stdout
    counted = flowspan("metrics", cwd=elsewhere, PREFECT_HOME=str(home))
    assert "orders" in counted.stdout
