"""A flow of short tasks, one after the other; it prints its run first."""

import logging
import sys
import time

from flowspan import instrument

instrument()

from prefect import flow, task  # noqa: E402
from prefect.runtime import flow_run  # noqa: E402

logger = logging.getLogger("pipelines")
logger.setLevel(logging.INFO)


@task
def step(number: int, seconds: float) -> int:
    logger.info("step %d", number)
    time.sleep(seconds)
    return number


@flow
def lasting(steps: int, seconds: float) -> None:
    print(flow_run.id, flush=True)
    for number in range(steps):
        step(number, seconds)


if __name__ == "__main__":
    lasting(int(sys.argv[1]), float(sys.argv[2]))
