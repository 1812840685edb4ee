"""Flows that are killed, cancelled or left alone; flowspan records them if DOOMED says so.

With an argument, this runs the flow of that name as a script.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

if os.environ.get("DOOMED") == "instrumented":
    from flowspan import instrument

    instrument()

from prefect import flow, pause_flow_run, task
from prefect.task_runners import ProcessPoolTaskRunner


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task
def quick(number: int) -> int:
    return number


@task
def killed_here(number: int) -> None:
    # What has ended before has reached the API, as events that another thread sends.
    time.sleep(1)
    die()


@task(retries=3, retry_delay_seconds=60)
def failing(number: int) -> None:
    raise ValueError(number)


@flow
def in_a_task() -> None:
    killed_here(quick(1))


@flow
def below(number: int) -> None:
    killed_here(number)


@flow
def in_a_subflow() -> None:
    below(quick(1))


@flow
def in_a_retry_wait() -> None:
    threading.Timer(2, die).start()
    failing(quick(1))


@flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
def in_a_pool() -> None:
    quick.submit(1).result()
    killed_here.submit(2).result()


@task
def long(number: int) -> None:
    time.sleep(600)


@flow
def lasting(marker: str = "") -> None:
    quick(1)
    if marker:
        Path(marker).touch()
    long(2)


@flow
def pausing() -> None:
    quick(1)
    pause_flow_run(timeout=600, poll_interval=1)


@flow
def well() -> int:
    first = quick.submit(1)
    return quick(first)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
