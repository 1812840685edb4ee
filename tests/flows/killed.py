"""Run a quick flow, then one that lasts until this process is killed.

With the argument ``first``, without the quick one.
"""

import sys
import time

from prefect import flow, task

from flowspan import instrument

instrument()


@task
def load(seconds: float) -> None:
    time.sleep(seconds)


@task(retries=1, retry_delay_seconds=600)
def flaky() -> None:
    raise ValueError("not yet")


@flow
def quick() -> None:
    load(0)


@flow
def inner() -> None:
    load(600)


@flow
def slow() -> None:
    flaky.submit()
    load(0)
    inner()


if __name__ == "__main__":
    if sys.argv[1:] != ["first"]:
        quick()
    slow()
