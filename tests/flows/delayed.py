"""Background tasks: `serve` and `aserve` run them, and flows send them."""

import asyncio
import contextlib
import logging
import sys
import time
from typing import Any

from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.futures import PrefectDistributedFuture
from prefect.runtime import task_run
from prefect.task_worker import aserve, serve

from flowspan import instrument

instrument()

logger = logging.getLogger("pipelines")
logger.setLevel(logging.INFO)


@task
def add(number: int) -> int:
    logger.info("added %d", number)
    return number + 1


@task
async def bare() -> None:
    logger.info("bare")


@task
def calling(number: int) -> None:
    logger.info("calling")
    add(number)


@task
def sleeping(seconds: float) -> None:
    logger.info("sleeping")
    print("asleep", flush=True)
    time.sleep(seconds)


def wait_for(*futures: PrefectDistributedFuture[Any]) -> None:
    for future in futures:
        while not future.state.is_final():
            time.sleep(0.1)  # the future's own wait() may miss the end


def wait_for_api(task_run_id: Any) -> None:
    """Wait until the API has a task run, which reaches it as events."""
    with get_client(sync_client=True) as client:
        while True:
            with contextlib.suppress(ObjectNotFound):
                if client.read_task_run(task_run_id).labels:
                    return
            time.sleep(0.1)


@task
def sends() -> None:
    wait_for_api(task_run.id)
    wait_for(bare.delay())
    wait_for(add.delay(1))


@flow
def sender() -> None:
    wait_for(add.delay(2), calling.delay(1))
    sends()


def send() -> None:
    sends()  # first, because Prefect takes what comes after a flow for a part of it
    asleep = sleeping.delay(60)
    while not asleep.state.is_running():  # so that it is the second trace
        time.sleep(0.1)
    sender()


SERVED = (add, bare, calling, sleeping)

if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(*SERVED)
    elif sys.argv[1] == "aserve":
        asyncio.run(aserve(*SERVED))
    else:
        globals()[sys.argv[1]]()
