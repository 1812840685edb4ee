"""Runs that end with their process, or without ever having one, under a real worker."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID

import pytest
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled, Cancelling, Crashed, Scheduled

from flowspan import semconv
from processes import FLOWS, PREFECT, environment, eventually
from support import attributes, embedded_spans
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


BOTH = pytest.mark.parametrize("worker", ["instrumented", "plain"], indirect=True)


class Worker:
    """A worker in a process group of its own, with all its children."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind = kind
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


@pytest.fixture
def age() -> Callable[[], str]:
    """How long ago this test began, as the option for what to look at."""
    begun = time.monotonic()
    return lambda: f"{int(time.monotonic() - begun) + 2}s"


@BOTH
def test_killed_processes(worker: Worker, tmp_path: Path, age: Callable[[], str]) -> None:
    """A process that kills itself in a task, a subflow, a retry wait or a pool loses no run."""
    runs = {name: create(name) for name in FLOWS_OF_POOL[:4]}
    eventually(lambda: all(map(has_ended, runs.values())), "the end of all runs")
    assert state_name(runs["in_a_task"]) == "Crashed"
    assert state_name(runs["in_a_pool"]) == "Failed"  # its own process goes on
    log = watch_once(tmp_path, since=age())
    assert differences(tmp_path, list(runs.values())) == [], log


@BOTH
def test_cancelled(worker: Worker, tmp_path: Path, age: Callable[[], str]) -> None:
    """Runs that are cancelled before they have a process, while they run, and while they pause."""
    marker = tmp_path / "running"
    running, pausing = create("lasting", marker=str(marker)), create("pausing")
    eventually(marker.exists, "the start of a run")
    eventually(lambda: state_name(pausing) == "Paused", "a pause")
    with get_client(sync_client=True) as client:
        work = client.read_deployment_by_name("lasting/worked")
        later = datetime.now(timezone.utc) + timedelta(hours=1)
        scheduled = client.create_flow_run_from_deployment(
            work.id, state=Scheduled(scheduled_time=later)
        ).id
        client.set_flow_run_state(scheduled, Cancelled())
        for run in (running, pausing):
            client.set_flow_run_state(run, Cancelling())
    runs = [running, pausing, scheduled]
    eventually(lambda: all(state_name(run) == "Cancelled" for run in runs), "three cancellations")
    log = watch_once(tmp_path, since=age())
    found = differences(tmp_path, runs)
    if worker.kind == "instrumented":
        # The runner enters Cancelled once the process is gone, which has sent its span by then.
        found = [one for one in found if "states are" not in one and "the end is" not in one]
    assert found == [], log
    results = {attributes(span)[semconv.RUN_STATE_NAME] for span in embedded_spans(tmp_path).runs}
    assert "Cancelled" in results


@BOTH
def test_killed_worker(worker: Worker, tmp_path: Path, age: Callable[[], str]) -> None:
    """A worker that is killed with its children, once somebody says that its run has crashed."""
    marker = tmp_path / "running"
    run = create("lasting", marker=str(marker))
    eventually(marker.exists, "the start of a run")
    worker.kill_all()
    with get_client(sync_client=True) as client:  # as an automation does for a zombie
        client.set_flow_run_state(run, Crashed(message="no heartbeat"), force=True)
    log = watch_once(tmp_path, since=age())
    assert differences(tmp_path, [run]) == [], log
    (root,) = embedded_spans(tmp_path).named("RUN lasting")
    assert attributes(root)[semconv.OBSERVED_BY] == "watch"
    assert root.status.description == "no heartbeat"
