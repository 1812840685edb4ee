"""Background tasks: `serve` and `aserve` run them, and flows send them."""

import asyncio
import logging
import sys
import time
from typing import Any

from prefect import flow, task
from prefect.futures import PrefectDistributedFuture
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


@task
def sends() -> None:
    wait_for(bare.delay())
    wait_for(add.delay(1))


@flow
def sender() -> None:
    wait_for(add.delay(2), calling.delay(1))
    sends()
    sleeping.delay(60)


SERVED = (add, bare, calling, sleeping)

if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(*SERVED)
    elif sys.argv[1] == "aserve":
        asyncio.run(aserve(*SERVED))
    else:
        globals()[sys.argv[1]]()
