"""Task runs that Prefect's server learns of after the end of their flow run."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.events.worker import EventsWorker
from prefect.states import Completed, Running

from bench_watch import run_task
from processes import eventually
from watched import differences, settle, spans_of


@flow
def hurried() -> None:
    pass


@pytest.fixture
def age() -> Callable[[], float]:
    """How long ago the test began, in seconds."""
    begun = time.monotonic()
    return lambda: time.monotonic() - begun


def test_late_task_runs(prefect_server: str, tmp_path: Path, age: Callable[[], float]) -> None:
    """A task run that comes after its flow run was filled in is filled in at the last look."""
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(hurried, state=Running())
        client.set_flow_run_state(run.id, Completed())
        assert settle(tmp_path, age(), watch_grace=60) == 1
        run_task(run, hurried, 1)
        EventsWorker.instance().wait_until_empty()
        wanted = FlowRunFilter(id={"any_": [run.id]})  # type: ignore[arg-type]
        eventually(lambda: client.read_task_runs(flow_run_filter=wanted), "the task run")
    assert settle(tmp_path, age(), watch_grace=1) == 1
    assert settle(tmp_path, age(), watch_grace=1) == 0
    assert {span.name for span in spans_of(tmp_path, run.id)} == {"RUN hurried", "step"}
    assert differences(tmp_path, [run.id]) == []
