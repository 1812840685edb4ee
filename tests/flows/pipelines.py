"""Flows as users deploy them, with instrument() at module level and nothing else."""

import os
import pathlib
import sys
import threading
import time

from flowspan import instrument

instrument()

from prefect import flow, serve, task  # noqa: E402
from prefect.deployments import run_deployment  # noqa: E402
from prefect.flow_runs import suspend_flow_run  # noqa: E402


@task
def extract(rows: int) -> list[int]:
    return list(range(rows))


@task(retries=1)
def load(rows: list[int]) -> int:
    return len(rows)


@flow
def etl(rows: int = 3) -> int:
    return load(extract.submit(rows))


IS_OVER = threading.Event()


@task
def sleep(seconds: float) -> None:
    pathlib.Path(os.environ["FLOWSPAN_DIR"], "sleeper").write_text(str(os.getpid()))
    for _ in range(int(seconds * 10)):
        if IS_OVER.is_set():
            return
        time.sleep(0.1)


@flow
def sleeper(seconds: float = 60) -> None:
    sleep(seconds)


@flow
def threaded_sleeper(seconds: float = 60) -> None:
    future = sleep.submit(seconds)
    try:
        sleep(seconds)
    finally:
        # No signal reaches the other thread, and the flow does not end before it does.
        IS_OVER.set()
    future.wait()


@flow
def stuck() -> None:
    sleep.submit(60).wait()


@flow
def suspender() -> int:
    extract(1)
    suspend_flow_run(timeout=60, key="once")
    return load([1, 2])


def call_etl() -> None:
    run = run_deployment("etl/served", timeout=60, poll_interval=0.5)
    assert run.state is not None
    assert run.state.is_completed(), run.state


@task(retries=1)
def calls_etl() -> None:
    call_etl()


@flow
def caller() -> None:
    calls_etl.submit().wait()
    call_etl()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(
            *(f.to_deployment("served", tags=["test"]) for f in (etl, sleeper, stuck, suspender)),
            pause_on_shutdown=False,
        )
    else:
        globals()[sys.argv[1]]()
