"""Flows that a limit, another run, or the lack of something holds up."""

import sys
import time
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE


@flow
def quick() -> None:
    """End at once."""


@flow
def lasting(seconds: float = 600.0) -> None:
    """Take slots for as long as the test lasts."""
    time.sleep(seconds)


@task(cache_policy=NO_CACHE)
def slow() -> int:
    time.sleep(600)
    return 1


@task(cache_policy=NO_CACHE)
def after(value: int) -> int:
    return value


@flow
def held_below() -> None:
    """Be called by `calling`."""


@flow
def calling(tag: str) -> None:
    """Call two tasks that share a slot, and a task and a flow that wait for a slow task."""
    tagged = slow.with_options(name="tagged", tags=[tag])
    held = [tagged.submit(), tagged.submit()]
    first: Any = slow.submit()
    held.append(after.submit(first))
    held_below(wait_for=[first], return_state=True)


if __name__ == "__main__":
    calling(sys.argv[1])
