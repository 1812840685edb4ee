"""Runs that end with their process, or without ever having one, under a real worker."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun

from processes import FLOWS, PREFECT, environment, eventually
from watched import differences, watch_once

POOL = "doomed"
FLOWS_OF_POOL = ("in_a_task", "in_a_subflow", "in_a_retry_wait", "in_a_pool", "lasting", "pausing")


@pytest.fixture(scope="module")
def deployed(prefect_server: str) -> None:
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    for name in FLOWS_OF_POOL:
        flow = Flow.from_source(source=str(FLOWS), entrypoint=f"doomed.py:{name}")
        assert isinstance(flow, Flow)
        flow.deploy("worked", work_pool_name=POOL, print_next_steps=False)


def create(name: str, **parameters: object) -> UUID:
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(f"{name.replace('_', '-')}/worked")
        return client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id


def read(run_id: UUID) -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run_id)


def state_name(run_id: UUID) -> str:
    return str(read(run_id).state_name)


def has_ended(run_id: UUID) -> bool:
    state = read(run_id).state
    return state is not None and state.is_final()


class Worker:
    """A worker in a process group of its own, with all its children."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder = folder
        self._env = environment(folder, DOOMED=kind)

    def start(self) -> None:
        with (self._folder / "worker.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*PREFECT, "worker", "start", "--pool", POOL],
                env=self._env,
                cwd=FLOWS,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill_all(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)


@pytest.fixture
def worker(deployed: None, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Worker]:
    started = Worker(tmp_path, request.param)
    started.start()
    yield started
    if started.process.poll() is None:
        started.kill_all()


BOTH = pytest.mark.parametrize("worker", ["instrumented", "plain"], indirect=True)


@BOTH
def test_killed_processes(worker: Worker, tmp_path: Path) -> None:
    """A process that kills itself in a task, a subflow, a retry wait or a pool loses no run."""
    runs = {name: create(name) for name in FLOWS_OF_POOL[:4]}
    eventually(lambda: all(map(has_ended, runs.values())), "the end of all runs")
    assert state_name(runs["in_a_task"]) == "Crashed"
    assert state_name(runs["in_a_pool"]) == "Failed"  # its own process goes on
    log = watch_once(tmp_path)
    assert differences(tmp_path, list(runs.values())) == [], log
